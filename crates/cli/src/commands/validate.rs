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

#[cfg(test)]
mod tests {
    use std::io::Write;

    use clap::Parser;

    use super::*;
    use crate::arguments::{Arguments, Command};

    const OBJECTS: &str = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: a
spec:
  hosts: [a]
  http:
  - route:
    - destination: {host: a}
      weight: 75
    - destination: {host: b}
      weight: -15
  htpp: []
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: b, namespace: c}
spec:
  host: b
  trafficPolicy:
    outlierDetection:
      consecutiveErrors: 7
";

    /// Runs a whole command line on files `name` with `text`; `$` stands for their folder.
    fn run(line: &str, files: &[(&str, &str)]) -> (ExitStatus, String) {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let mut file = std::fs::File::create(folder.path().join(name)).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }
        let place = folder.path().to_str().unwrap().to_owned();
        let words = line.split(' ').map(|word| word.replace('$', &place));
        let arguments = Arguments::try_parse_from(words).unwrap();
        let Command::Validate(arguments) = arguments.command else { panic!("another command") };
        let path = folder.path().join("output");
        let mut printer = Printer::to_file(std::fs::File::create(&path).unwrap());
        let status = validate(&arguments, &mut printer).unwrap();
        (status, std::fs::read_to_string(path).unwrap().replace(&place, "$"))
    }

    #[test]
    fn whole_invocations() {
        let valid =
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{name: http, port: 80}]}\n";
        for (name, line, text, status, expected) in [
            ("valid", "lateen validate $/a.yaml", valid, ExitStatus::Success, "\"$/a.yaml\" is valid\n"),
            (
                "errors and warnings",
                "lateen validate -f $/a.yaml",
                OBJECTS,
                ExitStatus::Failure,
                "$/a.yaml:12: error: VirtualService a: spec.http[0].route[1].weight: -15 is negative; write 0 or more\n\
                 $/a.yaml:13: error: VirtualService a: spec.htpp: there is no such field; did you mean http?\n\
                 $/a.yaml:22: warning: DestinationRule c/b: \
                 spec.trafficPolicy.outlierDetection.consecutiveErrors: is the old name; use consecutive5xxErrors\n",
            ),
            (
                "a folder, and what the mesh does not look at",
                "lateen validate $",
                "kind: Deployment\napiVersion: apps/v1\nmetadata: {name: a}\n",
                ExitStatus::Success,
                "Skipping file $/output, recognized file extensions are: .json .yaml .yml\n\"$/a.yaml\" is valid\n",
            ),
            (
                "settings of the mesh",
                "lateen validate $/a.yaml",
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio}\ndata:\n  mesh: |\n    accesLogFile: a\n",
                ExitStatus::Failure,
                "$/a.yaml:6: error: ConfigMap istio: data.mesh.accesLogFile: there is no such field; did you mean \
                 accessLogFile?\n",
            ),
            (
                "JSON",
                "lateen validate $/a.yaml -o json",
                "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports:\n  - port: 80\n",
                ExitStatus::Failure,
                r#"[
  {
    "file": "$/a.yaml",
    "line": 6,
    "level": "error",
    "object": "Service a",
    "path": "spec.ports[0].name",
    "message": "is missing",
    "remedy": "begin it with the protocol, as in http or http-web, or set appProtocol"
  }
]
"#,
            ),
        ] {
            let (got_status, got) = run(line, &[("a.yaml", text)]);
            assert_eq!(got, expected, "{name}");
            assert_eq!(got_status, status, "{name}");
        }
    }

    #[test]
    fn names_of_ports() {
        for (name, port, valid) in [
            ("none", serde_json::json!({}), false),
            ("UDP", serde_json::json!({"protocol": "udp"}), true),
            ("protocol", serde_json::json!({"name": "http"}), true),
            ("suffix", serde_json::json!({"name": "http-web"}), true),
            ("no protocol", serde_json::json!({"name": "web"}), false),
            ("said otherwise", serde_json::json!({"name": "web", "appProtocol": "http"}), true),
            ("unknown", serde_json::json!({"name": "http", "appProtocol": "fake"}), false),
        ] {
            let object =
                serde_json::json!({"kind": "Service", "apiVersion": "v1", "spec": {"ports": [port]}});
            assert_eq!(super::object(&object).is_valid(), valid, "{name}");
        }
    }
}
