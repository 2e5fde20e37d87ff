//! What came out, and what came out before.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use serde::Deserialize;
use serde_json::Value;

/// What came out of a corpus.
#[derive(Debug, Default)]
pub struct Report {
    /// How many cases there are.
    pub total: usize,
    /// Those that we do not get right.
    pub failures: Vec<Failure>,
}

/// A case that we do not get right.
#[derive(Debug)]
pub struct Failure {
    /// Its name.
    pub case: String,
    /// What differs.
    pub reason: String,
}

/// What was reached when this was last looked at.
#[derive(Debug, Deserialize)]
pub struct Recorded(BTreeMap<String, Row>);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    /// Of so many cases ...
    total: usize,
    /// ... so many pass.
    passed: usize,
    /// What a folder with other cases must reach, in percent.
    least: usize,
}

impl Report {
    /// Takes one case's outcome.
    pub fn add(&mut self, case: impl Into<String>, outcome: Result<(), String>) {
        self.total += 1;
        if let Err(reason) = outcome {
            self.failures.push(Failure { case: case.into(), reason });
        }
    }

    /// How many cases pass.
    pub fn passed(&self) -> usize {
        self.total - self.failures.len()
    }
}

impl Recorded {
    /// What is missing to what is recorded.
    pub fn shortfall(&self, corpus: &str, report: &Report) -> Option<String> {
        let Some(row) = self.0.get(corpus) else { return Some("recorded.yaml has no row for it".to_owned()) };
        let (passed, total) = (report.passed(), report.total);
        if total == row.total {
            return (passed < row.passed).then(|| format!("{} passed before", row.passed));
        }
        (passed * 100 < row.least * total).then(|| format!("at least {} % must pass", row.least))
    }
}

/// Reads what is recorded.
pub fn recorded() -> anyhow::Result<Recorded> {
    Ok(serde_saphyr::from_str(include_str!("../recorded.yaml"))?)
}

/// The rows of a corpus' `cases.json`.
pub(crate) fn cases(folder: &Path) -> anyhow::Result<Vec<Value>> {
    let path = folder.join("cases.json");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

/// The text of a field; empty where there is none.
pub(crate) fn text<'a>(case: &'a Value, field: &str) -> &'a str {
    case[field].as_str().unwrap_or_default()
}
