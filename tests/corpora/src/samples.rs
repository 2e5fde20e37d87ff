//! Sample applications and their configuration: every document must be valid.

use std::path::Path;

use serde_json::Value;

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
