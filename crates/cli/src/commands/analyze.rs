//! `lateen analyze`: what objects say together, those of files and those of a running mesh.

use std::collections::BTreeSet;
use std::net::ToSocketAddrs;
use std::sync::Arc;

use anyhow::{Context, bail};
use kube::Client;
use kube::api::{Api, DynamicObject, ListParams};
use kube::discovery::{Discovery, verbs};
use lateen_galley::analyze::{self, ANALYZERS, Input, Level, Message, Resource};
use lateen_galley::{Document, mesh};
use serde::Serialize;
use serde_json::Value;

use crate::arguments::{AnalyzeArguments, FindingsOutput, Threshold};
use crate::printer::Printer;
use crate::{ExitStatus, cluster, files};

const DOCUMENTATION: &str = "https://istio.io/latest/docs/reference/config/analysis";

/// Finds, shows, and fails where something is bad enough.
pub(crate) async fn analyze(
    arguments: &AnalyzeArguments,
    printer: &mut Printer,
) -> anyhow::Result<ExitStatus> {
    if arguments.list_analyzers {
        for analyzer in ANALYZERS {
            printer.result(&format!("* {}:\n    {}", analyzer.name, analyzer.description));
        }
        return Ok(ExitStatus::Success);
    }
    for name in &arguments.analyzers {
        if !ANALYZERS.iter().any(|analyzer| analyzer.name == name) {
            bail!("there is no analyzer {name}; `lateen analyze --list-analyzers` lists them");
        }
    }
    for suppression in arguments.suppress.iter().filter(|suppression| !suppression.is_known()) {
        printer.note(&format!(
            "Warning: Supplied message code '{}' is an unknown message code and will not have any effect.",
            suppression.code
        ));
    }
    if !arguments.use_kube && arguments.files.is_empty() {
        bail!("there is nothing to analyze: name files, or leave --use-kube=false out");
    }

    let mut unreadable = 0;
    let resolves = |host: &str| (host, 443).to_socket_addrs().is_ok();
    let mut input = Input {
        analyzers: arguments.analyzers.iter().cloned().collect(),
        all_analyzers: arguments.all_analyzers,
        resolves: Some(&resolves),
        ..Input::default()
    };
    let mut from_files = Vec::new();
    for source in files::read(&arguments.files, arguments.recursive, printer)? {
        match analyze::read_resources(&source.text, &source.name, "", &arguments.cluster.namespace) {
            Ok(resources) => {
                from_files.extend(resources.into_iter().filter(|resource| !resource.kind.is_empty()))
            }
            Err(error) => {
                unreadable += 1;
                printer.note(&format!(
                    "Error(s) adding files: {}:{}: {}",
                    source.name, error.line, error.message
                ));
            }
        }
    }
    if arguments.use_kube {
        let listed = tokio::time::timeout(arguments.timeout, list(arguments)).await;
        input.resources = listed.context("the cluster did not answer in time")??;
    }
    put_over(&mut input.resources, from_files);
    settings(arguments, &mut input, printer)?;
    if !arguments.use_kube {
        input.resources.extend(analyze::default_resources(&input.mesh));
    }

    let mut messages = analyze::analyze(&input);
    messages.retain(|message| {
        let suppressed = arguments.suppress.iter().any(|suppression| suppression.covers(message));
        !suppressed && is_wanted(arguments, message)
    });
    if arguments.verbose {
        printer.note("Analyzed resources with these analyzers:");
        for analyzer in ANALYZERS.iter().filter(|analyzer| is_run(arguments, analyzer)) {
            printer.note(&format!("\t* {}", analyzer.name));
        }
    }
    show(arguments, &messages, printer)?;
    if arguments.output != FindingsOutput::Log {
        return Ok(ExitStatus::Success);
    }
    let least = level(arguments.failure_threshold);
    if messages.iter().any(|message| message.kind.level >= least) {
        printer.note(&format!(
            "Error: Analyzers found issues when analyzing {}.\nSee {DOCUMENTATION} for more information about causes \
             and resolutions.",
            target(arguments)
        ));
        return Ok(ExitStatus::Findings);
    }
    if unreadable > 0 && !arguments.ignore_unknown {
        printer.note("Error: some files couldn't be parsed");
        return Ok(ExitStatus::UnreadableInput);
    }
    Ok(ExitStatus::Success)
}

fn level(threshold: Threshold) -> Level {
    match threshold {
        Threshold::Info => Level::Info,
        Threshold::Warning => Level::Warning,
        Threshold::Error => Level::Error,
    }
}

fn is_run(arguments: &AnalyzeArguments, analyzer: &analyze::Analyzer) -> bool {
    match arguments.analyzers.is_empty() {
        true => arguments.all_analyzers || !analyzer.noisy,
        false => arguments.analyzers.iter().any(|name| name == analyzer.name),
    }
}

/// What is asked about is in the files, in the namespace, or in none.
fn is_wanted(arguments: &AnalyzeArguments, message: &Message) -> bool {
    let subject = &message.subject;
    arguments.all_namespaces
        || !arguments.use_kube
        || !subject.file.is_empty()
        || subject.namespace.is_empty()
        || subject.namespace == arguments.cluster.namespace
}

fn target(arguments: &AnalyzeArguments) -> String {
    let files: Vec<String> = arguments.files.iter().map(|file| file.display().to_string()).collect();
    match (files.is_empty(), arguments.all_namespaces) {
        (false, _) => files.join("\n"),
        (true, true) => "all namespaces".to_owned(),
        (true, false) => format!("namespace: {}", arguments.cluster.namespace),
    }
}

/// Objects of files are what the cluster's will become.
fn put_over(resources: &mut Vec<Resource>, files: Vec<Resource>) {
    let key = |resource: &Resource| {
        (resource.group.clone(), resource.kind.clone(), resource.namespace.clone(), resource.name.clone())
    };
    let replaced: BTreeSet<_> = files.iter().map(key).collect();
    resources.retain(|resource| !replaced.contains(&key(resource)));
    resources.extend(files);
}

/// The mesh's settings: from the file, or from the ConfigMap.
fn settings(
    arguments: &AnalyzeArguments,
    input: &mut Input<'_>,
    printer: &mut Printer,
) -> anyhow::Result<()> {
    let map = input.resources.iter().find(|resource| {
        resource.kind == "ConfigMap"
            && resource.name == "istio"
            && resource.namespace == arguments.cluster.istio_namespace
    });
    let text = |field: &str| {
        let map = map.map(|map| &map.document.value["data"][field])?;
        map.as_str().map(str::to_owned)
    };
    let (settings, networks) = (text("mesh"), text("meshNetworks"));
    let settings = match &arguments.mesh_config_file {
        Some(path) => {
            Some(std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?)
        }
        None => settings,
    };
    if let Some(text) = settings {
        let (mesh, verdict) = mesh::read_mesh_config(&text);
        if !verdict.is_valid() {
            printer.warning(&format!("the mesh's settings: {}", verdict.message()));
        }
        input.mesh = mesh.unwrap_or_default();
    }
    if let Some(text) = networks {
        input.networks = mesh::read_mesh_networks(&text).0.unwrap_or_default();
    }
    Ok(())
}

/// Whether analysis looks at a kind.
fn is_looked_at(group: &str, kind: &str) -> bool {
    match group {
        "" => matches!(
            kind,
            "Service"
                | "Pod"
                | "Namespace"
                | "Node"
                | "ConfigMap"
                | "Secret"
                | "ServiceAccount"
                | "Endpoints"
        ),
        "apps" => matches!(kind, "Deployment" | "StatefulSet" | "DaemonSet"),
        "admissionregistration.k8s.io" => {
            matches!(kind, "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration")
        }
        "apiextensions.k8s.io" => kind == "CustomResourceDefinition",
        "gateway.networking.k8s.io" => true,
        group => group.ends_with(".istio.io"),
    }
}

/// All objects of the cluster that analysis looks at.
async fn list(arguments: &AnalyzeArguments) -> anyhow::Result<Vec<Resource>> {
    let client: Client = cluster::connect(&arguments.cluster).await?;
    let discovery =
        Discovery::new(client.clone()).run().await.context("cannot ask the API what it serves")?;
    let nowhere: Arc<str> = Arc::from("");
    let mut resources = Vec::new();
    for group in discovery.groups() {
        for (kind, capabilities) in group.recommended_resources() {
            if !is_looked_at(&kind.group, &kind.kind) || !capabilities.supports_operation(verbs::LIST) {
                continue;
            }
            let api: Api<DynamicObject> = Api::all_with(client.clone(), &kind);
            let objects = match api.list(&ListParams::default()).await {
                Ok(objects) => objects,
                // Who may not read something analyzes the rest.
                Err(kube::Error::Api(status)) if status.code == 403 || status.code == 404 => continue,
                Err(error) => return Err(error).with_context(|| format!("cannot list {}", kind.kind)),
            };
            for object in objects {
                let mut value = serde_json::to_value(&object)?;
                value["apiVersion"] = Value::from(kind.api_version.clone());
                value["kind"] = Value::from(kind.kind.clone());
                resources.push(Resource::new(Document::without_lines(value), &nowhere, &nowhere, ""));
            }
        }
    }
    Ok(resources)
}

/// A finding as JSON and YAML have it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    #[serde(skip_serializing_if = "String::is_empty")]
    cluster: String,
    code: &'static str,
    documentation_url: String,
    level: Level,
    message: String,
    origin: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    reference: String,
}

impl From<&Message> for Shown {
    fn from(message: &Message) -> Self {
        let code = message.kind.code;
        Self {
            cluster: message.subject.cluster.to_string(),
            code,
            documentation_url: format!("{DOCUMENTATION}/{}/", code.to_lowercase()),
            level: message.kind.level,
            message: message.text.clone(),
            origin: message.subject.to_string(),
            reference: place(message),
        }
    }
}

/// `FILE:LINE`, or nothing for what no file holds.
fn place(message: &Message) -> String {
    match (message.subject.file.is_empty(), message.line) {
        (true, _) => String::new(),
        (false, 0) => message.subject.file.to_string(),
        (false, line) => format!("{}:{line}", message.subject.file),
    }
}

fn show(arguments: &AnalyzeArguments, messages: &[Message], printer: &mut Printer) -> anyhow::Result<()> {
    let least = level(arguments.output_threshold);
    let shown: Vec<&Message> = messages.iter().filter(|message| message.kind.level >= least).collect();
    let list = || shown.iter().map(|message| Shown::from(*message)).collect::<Vec<_>>();
    match arguments.output {
        FindingsOutput::Log if shown.is_empty() => {
            printer
                .note(&format!("\u{2714} No validation issues found when analyzing {}.", target(arguments)));
        }
        FindingsOutput::Log => {
            let colours = arguments.color && printer.has_colours();
            shown.iter().for_each(|message| printer.result(&text(message, colours)));
        }
        FindingsOutput::Json => {
            let mut text = Vec::new();
            let form = serde_json::ser::PrettyFormatter::with_indent(b"\t");
            list().serialize(&mut serde_json::Serializer::with_formatter(&mut text, form))?;
            printer.result(&String::from_utf8(text)?);
        }
        FindingsOutput::Yaml => printer.result(&serde_saphyr::to_string(&list())?),
    }
    Ok(())
}

/// `Level [CODE] (Kind namespace/name file:line) text`.
fn text(message: &Message, colours: bool) -> String {
    let (begin, end) = match (colours, message.kind.level) {
        (true, Level::Error) => ("\u{1b}[1;31m", "\u{1b}[0m"),
        (true, Level::Warning) => ("\u{1b}[33m", "\u{1b}[0m"),
        _ => ("", ""),
    };
    let cluster = match message.subject.cluster.is_empty() {
        true => String::new(),
        false => format!("[{}] ", message.subject.cluster),
    };
    let place = match place(message) {
        place if place.is_empty() => place,
        place => format!(" {place}"),
    };
    format!(
        "{begin}{}{end} [{}] {cluster}({}{place}) {}",
        message.kind.level, message.kind.code, message.subject, message.text
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::arguments::{Arguments, Command};

    const OBJECTS: &str = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: a
  namespace: b
spec:
  hosts: [a]
  http:
  - route:
    - destination:
        host: nobody
";

    /// Runs a whole command line on a file; `$` stands for its folder, `_` for a space in a word.
    fn run(line: &str, text: &str) -> (ExitStatus, String) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.yaml"), text).unwrap();
        let place = folder.path().to_str().unwrap().to_owned();
        let words = line.split(' ').map(|word| word.replace('$', &place).replace('_', " "));
        let arguments = Arguments::try_parse_from(words).unwrap();
        let Command::Analyze(arguments) = arguments.command else { panic!("another command") };
        let path = folder.path().join("output");
        let mut printer = Printer::to_file(std::fs::File::create(&path).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let status = runtime.block_on(analyze(&arguments, &mut printer)).unwrap();
        (status, std::fs::read_to_string(path).unwrap().replace(&place, "$"))
    }

    #[test]
    fn whole_invocations() {
        let found =
            "Error [IST0101] (VirtualService b/a $/a.yaml:11) Referenced host not found: \"nobody\"\n";
        let failed = "Error: Analyzers found issues when analyzing $/a.yaml.\nSee \
                      https://istio.io/latest/docs/reference/config/analysis for more information about causes and \
                      resolutions.\n";
        for (name, line, text, status, expected) in [
            ("findings", "", OBJECTS, ExitStatus::Findings, format!("{found}{failed}")),
            (
                "suppressed",
                "-S IST0101=VirtualService_*.b",
                OBJECTS,
                ExitStatus::Success,
                "\u{2714} No validation issues found when analyzing $/a.yaml.\n".to_owned(),
            ),
            (
                "an unknown code",
                "--suppress IST9999=Pod_a --analyzer gateway.SecretAnalyzer",
                OBJECTS,
                ExitStatus::Success,
                "Warning: Supplied message code 'IST9999' is an unknown message code and will not have any effect.\n\
                 \u{2714} No validation issues found when analyzing $/a.yaml.\n"
                    .to_owned(),
            ),
            (
                "unreadable",
                "",
                "a: [b\n",
                ExitStatus::UnreadableInput,
                String::new(),
            ),
            (
                "JSON",
                "-o json",
                OBJECTS,
                ExitStatus::Success,
                "[\n\t{\n\t\t\"code\": \"IST0101\",\n\t\t\"documentationUrl\": \
                 \"https://istio.io/latest/docs/reference/config/analysis/ist0101/\",\n\t\t\"level\": \"Error\",\n\t\t\
                 \"message\": \"Referenced host not found: \\\"nobody\\\"\",\n\t\t\"origin\": \"VirtualService b/a\",\n\t\t\
                 \"reference\": \"$/a.yaml:11\"\n\t}\n]\n"
                    .to_owned(),
            ),
        ] {
            let line = format!("lateen analyze --use-kube=false $/a.yaml {line}");
            let (got_status, got) = run(line.trim(), text);
            // What is wrong with a text is said in the words of the parser.
            if !expected.is_empty() {
                assert_eq!(got, expected, "{name}");
            }
            assert_eq!(got_status, status, "{name}");
        }
    }

    #[test]
    fn colours_are_for_terminals() {
        let resources = analyze::read_resources(OBJECTS, "a.yaml", "", "default").unwrap();
        let messages = analyze::analyze(&Input { resources, ..Input::default() });
        assert!(text(&messages[0], true).starts_with("\u{1b}[1;31mError\u{1b}[0m [IST0101]"));
        assert!(text(&messages[0], false).starts_with("Error [IST0101]"));
    }
}
