//! `lateen validate`: each object of files, judged as the mesh's webhook would.

use lateen_galley::{Document, Finding, Problem, Verdict, documents, kind_schemas, mesh};
use serde::Serialize;
use serde_json::Value;

use crate::ExitStatus;
use crate::arguments::{FindingsOutput, ValidateArguments};
use crate::files::{self, Source};
use crate::printer::Printer;

/// One line of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Line {
    file: String,
    line: usize,
    level: &'static str,
    object: String,
    path: String,
    message: String,
    remedy: String,
}

/// Judges all objects; fails if one is refused.
pub(crate) fn validate(arguments: &ValidateArguments, printer: &mut Printer) -> anyhow::Result<ExitStatus> {
    let paths: Vec<_> = arguments.files.iter().chain(&arguments.filename).cloned().collect();
    let sources = files::read(&paths, arguments.recursive, printer)?;
    let mut all = Vec::new();
    for source in &sources {
        let lines = judge(source);
        if arguments.output == FindingsOutput::Log {
            lines.iter().for_each(|line| printer.result(&line.to_string()));
            if lines.iter().all(|line| line.level != ERROR) {
                printer.result(&format!("{:?} is valid", source.name));
            }
        }
        all.extend(lines);
    }
    match arguments.output {
        FindingsOutput::Log => {}
        FindingsOutput::Json => printer.result(&serde_json::to_string_pretty(&all)?),
        FindingsOutput::Yaml => printer.result(&serde_saphyr::to_string(&all)?),
    }
    Ok(match all.iter().any(|line| line.level == ERROR) {
        true => ExitStatus::Failure,
        false => ExitStatus::Success,
    })
}

const ERROR: &str = "error";
const WARNING: &str = "warning";

impl std::fmt::Display for Line {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}", self.file)?;
        if self.line > 0 {
            write!(formatter, ":{}", self.line)?;
        }
        write!(formatter, ": {}: ", self.level)?;
        if !self.object.is_empty() {
            write!(formatter, "{}: ", self.object)?;
        }
        Problem::new(&self.path, &self.message, &self.remedy).fmt(formatter)
    }
}

fn judge(source: &Source) -> Vec<Line> {
    let file = &source.name;
    let documents = match documents(&source.text) {
        Ok(documents) => documents,
        Err(error) => {
            return vec![Line {
                file: file.clone(),
                line: error.line,
                level: ERROR,
                object: String::new(),
                path: String::new(),
                message: error.message,
                remedy: "write YAML or JSON".to_owned(),
            }];
        }
    };
    let mut lines = Vec::new();
    for document in &documents {
        let verdict = object(&document.value);
        let name = name(&document.value);
        let found = verdict.errors.iter().map(|error| (ERROR, error));
        for (level, problem) in found.chain(verdict.warnings.iter().map(|warning| (WARNING, warning))) {
            lines.push(line(file, document, &name, level, problem));
        }
    }
    lines
}

fn line(file: &str, document: &Document, object: &str, level: &'static str, problem: &Problem) -> Line {
    // A field that there is not is hardly what was meant: a file is judged strictly.
    let level = if problem.finding == Some(Finding::UnknownField) { ERROR } else { level };
    Line {
        file: file.to_owned(),
        line: document.line(&problem.path),
        level,
        object: object.to_owned(),
        path: problem.path.clone(),
        message: problem.message.clone(),
        remedy: problem.remedy.clone(),
    }
}

fn name(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    let (kind, namespace, name) =
        (text(&object["kind"]), text(&metadata["namespace"]), text(&metadata["name"]));
    match namespace.is_empty() {
        true => format!("{kind} {name}"),
        false => format!("{kind} {namespace}/{name}"),
    }
}

/// Judges an object of any kind; those that the mesh does not look at are fine.
fn object(object: &Value) -> Verdict {
    let mut verdict = Verdict::default();
    let kind = object["kind"].as_str().unwrap_or_default();
    let version = object["apiVersion"].as_str().unwrap_or_default();
    if kind.is_empty() {
        verdict.error("kind", "is missing", "every object has apiVersion and kind");
        return verdict;
    }
    let group = version.split_once('/').map_or("", |(group, _)| group);
    if kind_schemas().iter().any(|schema| schema.group == group) {
        mesh_object(kind, group, object, &mut verdict);
    }
    match (group, kind) {
        ("", "Service") => service(object, &mut verdict),
        ("", "ConfigMap") => config_map(object, &mut verdict),
        ("", "Pod") => pod("", object, &mut verdict),
        ("install.istio.io", "IstioOperator") if !object["spec"]["meshConfig"].is_null() => {
            let found = mesh::validate_mesh_config(&object["spec"]["meshConfig"]);
            verdict.merge(found.under("spec.meshConfig"));
        }
        ("apps" | "batch", _) => pod("spec.template", &object["spec"]["template"], &mut verdict),
        _ => {}
    }
    verdict
}

fn mesh_object(kind: &str, group: &str, object: &Value, verdict: &mut Verdict) {
    if !kind_schemas().iter().any(|schema| schema.group == group && schema.kind == kind) {
        verdict.error("kind", format!("{group} has no {kind}"), "");
        return;
    }
    for field in object.as_object().into_iter().flatten().map(|(field, _)| field) {
        if !matches!(field.as_str(), "apiVersion" | "kind" | "metadata" | "spec" | "status") {
            verdict.error(field, "there is no such field", "put it into spec");
        }
    }
    if object["metadata"]["name"].as_str().is_none_or(str::is_empty)
        && object["metadata"]["generateName"].as_str().is_none_or(str::is_empty)
    {
        verdict.error("metadata.name", "is missing", "name the object");
    }
    verdict.merge(lateen_galley::validate(object));
}

/// What a port's name may begin with, and what `appProtocol` may be.
const PROTOCOLS: &[&str] = &[
    "http",
    "http2",
    "https",
    "grpc",
    "grpc-web",
    "tcp",
    "tls",
    "udp",
    "mongo",
    "redis",
    "mysql",
    "http-proxy",
    "http_proxy",
    "hbone",
    "double-hbone",
];

/// Other values of `appProtocol` that mean a protocol.
const APP_PROTOCOLS: &[&str] = &["kubernetes.io/h2c", "kubernetes.io/ws", "kubernetes.io/wss"];

/// The protocol of each port must be told by its name or by `appProtocol`.
fn service(object: &Value, verdict: &mut Verdict) {
    for (index, port) in object["spec"]["ports"].as_array().into_iter().flatten().enumerate() {
        let path = format!("spec.ports[{index}]");
        if port["protocol"].as_str().is_some_and(|protocol| protocol.eq_ignore_ascii_case("UDP")) {
            continue;
        }
        let known = |name: &str| PROTOCOLS.iter().any(|known| known.eq_ignore_ascii_case(name));
        if let Some(protocol) = port["appProtocol"].as_str() {
            let known = known(protocol) || APP_PROTOCOLS.contains(&protocol);
            if !known {
                let message = format!("{protocol:?} is not a protocol");
                verdict.error(
                    format!("{path}.appProtocol"),
                    message,
                    "such as http, http2, grpc, https or tcp",
                );
            }
            continue;
        }
        let remedy = "begin it with the protocol, as in http or http-web, or set appProtocol";
        match port["name"].as_str().unwrap_or_default() {
            "" => verdict.error(format!("{path}.name"), "is missing", remedy),
            name if known(name)
                || name.split('-').next().is_some_and(known)
                || name.starts_with("grpc-web") => {}
            name => verdict.error(format!("{path}.name"), format!("{name:?} names no protocol"), remedy),
        }
    }
}

/// The mesh's settings, which are YAML in a ConfigMap.
fn config_map(object: &Value, verdict: &mut Verdict) {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    if name != "istio" && !name.starts_with("istio-") {
        return;
    }
    if let Some(text) = object["data"]["mesh"].as_str() {
        verdict.merge(mesh::read_mesh_config(text).1.under("data.mesh"));
    }
    if let Some(text) = object["data"]["meshNetworks"].as_str() {
        verdict.merge(mesh::read_mesh_networks(text).1.under("data.meshNetworks"));
    }
}

/// The settings of one proxy, which are YAML in an annotation.
fn pod(path: &str, pod: &Value, verdict: &mut Verdict) {
    const ANNOTATION: &str = "proxy.istio.io/config";
    if let Some(text) = pod["metadata"]["annotations"][ANNOTATION].as_str() {
        let dot = if path.is_empty() { "" } else { "." };
        let place = format!("{path}{dot}metadata.annotations[{ANNOTATION:?}]");
        verdict.merge(mesh::validate_proxy_config_text(text).under(&place));
    }
}
