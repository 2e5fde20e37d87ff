//! Single objects that the definitions of the kinds must accept or refuse.

use std::path::Path;

use serde_json::Value;

use crate::Report;
use crate::report::{cases, text};

pub(crate) fn run(folder: &Path) -> anyhow::Result<Report> {
    let mut report = Report::default();
    for case in cases(folder)? {
        let document = std::fs::read_to_string(folder.join(text(&case, "file")))?;
        let object: Value = serde_saphyr::from_str(&document)?;
        let verdict = lateen_galley::validate_kind(text(&case, "kind"), &object);
        let expected = case["valid"].as_bool().unwrap_or_default();
        let outcome = if verdict.is_valid() == expected {
            Ok(())
        } else {
            Err(format!("should be {}: {}", if expected { "accepted" } else { "refused" }, verdict.message()))
        };
        report.add(text(&case, "name"), outcome);
    }
    Ok(report)
}
