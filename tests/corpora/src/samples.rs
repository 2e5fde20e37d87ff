//! Sample applications and their configuration: every document must be valid, and analysis must find no error in a file.

use std::path::Path;

use serde_json::Value;

use lateen_galley::analyze::{self, Input, Level};

use crate::Report;
use crate::report::text;

pub(crate) fn run(folder: &Path) -> anyhow::Result<Report> {
    let mut report = Report::default();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        let mut paths: Vec<_> =
            std::fs::read_dir(next)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
        paths.sort();
        for path in paths {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
                let name = path.strip_prefix(folder).unwrap_or(&path).display().to_string();
                documents(&name, &std::fs::read_to_string(&path)?, &mut report);
            }
        }
    }
    Ok(report)
}

fn documents(file: &str, content: &str, report: &mut Report) {
    let documents: Vec<Value> = match serde_saphyr::from_multiple(content) {
        Ok(documents) => documents,
        Err(error) => return report.add(file, Err(error.to_string())),
    };
    report.add(format!("{file} analyzed"), analyzed(file, content));
    for (index, object) in documents.iter().enumerate() {
        if !text(object, "apiVersion").contains(".istio.io/") {
            continue;
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let verdict = lateen_galley::validate(object);
        let outcome = if verdict.is_valid() { Ok(()) } else { Err(verdict.message()) };
        report.add(format!("{file} #{index} {} {name}", text(object, "kind")), outcome);
    }
}

/// What else is in the mesh, a file alone cannot say: objects that it names and has not are no error of its own.
fn analyzed(file: &str, content: &str) -> Result<(), String> {
    let mut input = Input { all_analyzers: true, ..Input::default() };
    let read = analyze::read_resources(content, file, "", "default").map_err(|error| error.to_string())?;
    input.resources.extend(read);
    input.resources.extend(analyze::default_resources(&input.mesh));
    let found = analyze::analyze(&input);
    let wrong = found.iter().find(|one| one.kind.level == Level::Error && one.kind.code != MISSING);
    wrong.map_or(Ok(()), |one| Err(format!("{} {}: {}", one.kind.code, one.kind.name, one.subject)))
}

/// `ReferencedResourceNotFound`.
const MISSING: &str = "IST0101";
