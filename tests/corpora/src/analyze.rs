//! What analysis says about sets of objects. Each case is for one analyzer: that one, run alone, must say just what is
//! expected, and a run of all must say it too.

use std::collections::BTreeSet;
use std::path::Path;

use lateen_galley::analyze::{self, Input, Message};
use serde_json::Value;

use crate::Report;
use crate::report::{cases, text};

pub(crate) fn run(folder: &Path) -> anyhow::Result<Report> {
    let mut report = Report::default();
    for case in cases(folder)? {
        report.add(text(&case, "name"), judge(folder, &case)?);
    }
    Ok(report)
}

fn judge(folder: &Path, case: &Value) -> anyhow::Result<Result<(), String>> {
    let read = |file: &Value| -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(folder.join(file.as_str().unwrap_or_default()))?)
    };
    let mut input = Input { all_analyzers: true, ..Input::default() };
    if !case["meshConfig"].is_null() {
        let (mesh, verdict) = lateen_galley::mesh::read_mesh_config(&read(&case["meshConfig"])?);
        anyhow::ensure!(verdict.is_valid(), "{}", verdict.message());
        input.mesh = mesh.unwrap_or_default();
    }
    if !case["meshNetworks"].is_null() {
        let (networks, verdict) = lateen_galley::mesh::read_mesh_networks(&read(&case["meshNetworks"])?);
        anyhow::ensure!(verdict.is_valid(), "{}", verdict.message());
        input.networks = networks.unwrap_or_default();
    }
    let mut clusters: Vec<(String, Vec<Value>)> = Vec::new();
    let files = |list: &Value| list.as_array().cloned().unwrap_or_default();
    match case["clusters"].as_array() {
        Some(several) => clusters
            .extend(several.iter().enumerate().map(|(index, list)| (format!("cluster{index}"), files(list)))),
        None => clusters.push((String::new(), files(&case["inputs"]))),
    }
    for (cluster, files) in clusters {
        for file in files {
            let name = file.as_str().unwrap_or_default();
            input.resources.extend(analyze::read_resources(&read(&file)?, name, &cluster, "")?);
        }
    }
    input.resources.extend(analyze::default_resources(&input.mesh));
    let analyzer = text(case, "analyzer");
    let mut expected: Vec<String> = case["expected"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| ["code", "message", "level", "resource"].map(|field| text(one, field)).join(" "))
        .collect();
    expected.sort();
    let all = shown(&analyze::analyze(&input));
    input.analyzers = BTreeSet::from([analyzer.to_owned()]);
    let own = shown(&analyze::analyze(&input));
    let lost = expected.iter().find(|one| !all.contains(one));
    Ok(match lost {
        _ if own != expected => Err(format!("expected {expected:#?}, got {own:#?}")),
        Some(lost) => Err(format!("{lost} is lost when all analyzers run")),
        None => Ok(()),
    })
}

fn shown(messages: &[Message]) -> Vec<String> {
    let mut shown: Vec<String> = messages
        .iter()
        .map(|one| format!("{} {} {} {}", one.kind.code, one.kind.name, one.kind.level, one.subject))
        .collect();
    shown.sort();
    shown
}
