//! Differences, and the lists that they are held against.

use std::cell::Cell;
use std::collections::BTreeMap;

use anyhow::{Context, Result};
use regex::Regex;
use serde::Deserialize;

use crate::normalise::glob;
use crate::observe::Observation;

/// An aspect in which the two proxies differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The aspect.
    pub aspect: String,
    /// What Envoy showed.
    pub envoy: Option<String>,
    /// What ours showed.
    pub ours: Option<String>,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown =
            |text: &Option<String>| text.as_ref().map_or_else(|| "-".to_owned(), |text| format!("{text:?}"));
        write!(
            formatter,
            "{}\n        envoy {}\n        ours  {}",
            self.aspect,
            shown(&self.envoy),
            shown(&self.ours)
        )
    }
}

/// Where two observations differ.
pub fn differences(envoy: &Observation, ours: &Observation) -> Vec<Difference> {
    // Where only one serves, that says it all.
    let mut aspects: Vec<&String> = match envoy.aspects.get("start") == ours.aspects.get("start") {
        true => envoy.aspects.keys().collect(),
        false => return vec![difference("start", envoy, ours)],
    };
    aspects.extend(ours.aspects.keys().filter(|aspect| !envoy.aspects.contains_key(*aspect)));
    aspects
        .into_iter()
        .filter(|aspect| envoy.aspects.get(*aspect) != ours.aspects.get(*aspect))
        .map(|aspect| difference(aspect, envoy, ours))
        .collect()
}

fn difference(aspect: &str, envoy: &Observation, ours: &Observation) -> Difference {
    Difference {
        aspect: aspect.to_owned(),
        envoy: envoy.aspects.get(aspect).cloned(),
        ours: ours.aspects.get(aspect).cloned(),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    /// A glob over `area/case`.
    case: String,
    /// Globs over aspects.
    aspects: Vec<String>,
    #[serde(default)]
    reason: String,
}

#[derive(Debug)]
struct Entry {
    case: Regex,
    aspects: Vec<(String, Regex, Cell<bool>)>,
    text: String,
}

/// A list of differences that are known.
#[derive(Debug)]
pub struct List {
    entries: Vec<Entry>,
}

impl List {
    /// Reads a list. Where `reasons` are asked for, a row without one is an error.
    pub fn parse(yaml: &str, reasons: bool) -> Result<Self> {
        let rows: Option<Vec<Row>> = crate::yaml(yaml)?;
        let entries = rows.unwrap_or_default().into_iter().map(|row| {
            if reasons {
                (!row.reason.trim().is_empty())
                    .then_some(())
                    .with_context(|| format!("{}: no reason", row.case))?;
            }
            Ok(Entry {
                case: glob(&row.case),
                aspects: row
                    .aspects
                    .into_iter()
                    .map(|aspect| (aspect.clone(), glob(&aspect), Cell::new(false)))
                    .collect(),
                text: row.case,
            })
        });
        Ok(Self { entries: entries.collect::<Result<_>>()? })
    }

    /// Whether the list has this difference.
    pub fn names(&self, case: &str, aspect: &str) -> bool {
        self.entries
            .iter()
            .any(|entry| entry.case.is_match(case) && entry.aspects.iter().any(|row| row.1.is_match(aspect)))
    }

    /// Whether the list has this difference; notes that it occurred.
    pub fn has(&self, case: &str, aspect: &str) -> bool {
        let mut found = false;
        for entry in self.entries.iter().filter(|entry| entry.case.is_match(case)) {
            for (_, pattern, used) in entry.aspects.iter().filter(|row| row.1.is_match(aspect)) {
                let _ = pattern;
                used.set(true);
                found = true;
            }
        }
        found
    }

    /// Rows that matched nothing, of those whose case is among `cases`.
    pub fn unused(&self, cases: &[String]) -> Vec<String> {
        let concerned =
            |entry: &&Entry| cases.is_empty() || cases.iter().any(|case| entry.case.is_match(case));
        self.entries
            .iter()
            .filter(concerned)
            .flat_map(|entry| {
                let unused = entry.aspects.iter().filter(|(_, _, used)| !used.get());
                unused.map(|(aspect, _, _)| format!("{}: {aspect}", entry.text))
            })
            .collect()
    }
}

/// How often each aspect differs, the most frequent first: shows what a single cause does to many cases.
pub fn summary<'a>(differences: impl Iterator<Item = &'a Difference>) -> Vec<(usize, String)> {
    let digits = Regex::new(r"\.\d+").expect("a constant");
    let mut counts = BTreeMap::<String, usize>::new();
    for difference in differences {
        *counts.entry(digits.replace_all(&difference.aspect, ".N").into_owned()).or_default() += 1;
    }
    let mut rows: Vec<(usize, String)> = counts.into_iter().map(|(aspect, count)| (count, aspect)).collect();
    rows.sort_by(|left, right| right.cmp(left));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_tells_what_it_does_not_need() {
        let list = List::parse("- {case: 'a/*', aspects: [x, y.*], reason: r}", true).unwrap();
        assert!(list.has("a/1", "y.z") && !list.has("b/1", "x"));
        assert_eq!(list.unused(&["a/1".to_owned()]), ["a/*: x"]);
        assert!(list.unused(&["b/1".to_owned()]).is_empty());
        assert!(List::parse("- {case: a, aspects: [x]}", true).is_err());
    }
}
