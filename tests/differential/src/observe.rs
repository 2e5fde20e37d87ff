//! Everything that was seen of one proxy in one case, flat: an aspect's name, a text.

use std::io::Read;

use indexmap::IndexMap;
use serde_json::Value;

use crate::case::{Case, Expect, Step};
use crate::client::{Outcome, Reply};
use crate::http1::Fields;
use crate::upstream::{ConnectionRecord, Record};

/// Aspects in the order in which they were noted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observation {
    /// Texts by aspect, such as `step.1.status`.
    pub aspects: IndexMap<String, String>,
}

impl Observation {
    /// Notes an aspect.
    pub fn note(&mut self, aspect: impl Into<String>, text: impl Into<String>) {
        self.aspects.insert(aspect.into(), text.into());
    }

    fn get(&self, aspect: &str) -> Option<&str> {
        self.aspects.get(aspect).map(String::as_str)
    }

    /// Fields under `prefix`, one aspect a name; a name in other than small letters is told.
    fn fields(&mut self, prefix: &str, fields: &[(String, String)]) {
        for (name, value) in fields {
            let lower = name.to_ascii_lowercase();
            let value = if lower == *name { value.clone() } else { format!("({name}) {value}") };
            let aspect = format!("{prefix}.{lower}");
            match self.aspects.get_mut(&aspect) {
                Some(earlier) => *earlier = format!("{earlier} | {value}"),
                None => self.note(aspect, value),
            }
        }
    }

    /// Notes what a step came to, under `step.N`.
    pub fn step(&mut self, number: usize, step: &Step, outcome: &Outcome) {
        let prefix = format!("step.{number}");
        for (name, value) in &outcome.handshake {
            self.note(format!("{prefix}.tls.{name}"), value);
        }
        for (index, reply) in outcome.replies.iter().enumerate() {
            let prefix = if index == 0 { prefix.clone() } else { format!("{prefix}.reply{}", index + 1) };
            self.reply(&prefix, reply);
        }
        if step.closes {
            self.note(format!("{prefix}.closing"), outcome.closing.as_deref().unwrap_or("-"));
        }
    }

    fn reply(&mut self, prefix: &str, reply: &Reply) {
        self.note(format!("{prefix}.status"), reply.status.to_string());
        self.note(format!("{prefix}.end"), &reply.end);
        if !reply.interim.is_empty() {
            self.note(format!("{prefix}.interim"), reply.interim.join(", "));
        }
        self.fields(&format!("{prefix}.header"), &reply.fields);
        self.note(format!("{prefix}.body"), shown(&decoded(&reply.body, &reply.fields)));
        self.fields(&format!("{prefix}.trailer"), &reply.trailers);
    }

    /// Notes how many answers of each kind there were.
    pub fn tally(&mut self, number: usize, outcomes: &[Outcome]) {
        let mut counts = std::collections::BTreeMap::<String, usize>::new();
        for reply in outcomes.iter().flat_map(|outcome| &outcome.replies) {
            let kind = if reply.status == 200 { shown(&reply.body) } else { reply.status.to_string() };
            *counts.entry(kind).or_default() += 1;
        }
        for (kind, count) in counts {
            self.note(format!("step.{number}.tally.{kind}"), count.to_string());
        }
    }

    /// Notes what of an admin page is compared.
    pub fn admin(&mut self, number: usize, step: &Step, reply: &Reply) {
        let prefix = format!("step.{number}");
        self.note(format!("{prefix}.status"), reply.status.to_string());
        self.fields(
            &format!("{prefix}.header"),
            &reply
                .fields
                .iter()
                .filter(|(name, _)| name.eq_ignore_ascii_case("content-type"))
                .cloned()
                .collect::<Vec<_>>(),
        );
        let text = String::from_utf8_lossy(&reply.body);
        if let Some(pattern) = &step.lines {
            match regex::Regex::new(pattern) {
                Ok(pattern) => {
                    let mut lines: Vec<&str> = text.lines().filter(|line| pattern.is_match(line)).collect();
                    lines.sort_unstable();
                    self.note(format!("{prefix}.lines"), lines.join("\n"));
                }
                Err(error) => self.note(format!("{prefix}.lines"), error.to_string()),
            }
        }
        if !step.json.is_empty() {
            let value: Value =
                serde_json::from_str(&text).unwrap_or_else(|_| Value::String("not JSON".into()));
            for pointer in &step.json {
                let shown = value.pointer(pointer).map_or("-".to_owned(), Value::to_string);
                self.note(format!("{prefix}.json.{pointer}"), shown);
            }
        }
    }

    /// Notes what an upstream got, under `upstream.NAME`.
    pub fn upstream(&mut self, name: &str, records: &[Record], connections: &[ConnectionRecord]) {
        let prefix = format!("upstream.{name}");
        self.note(format!("{prefix}.requests"), records.len().to_string());
        self.note(format!("{prefix}.connections"), connections.len().to_string());
        for (index, record) in records.iter().enumerate() {
            let prefix = format!("{prefix}.request.{}", index + 1);
            self.note(format!("{prefix}.line"), &record.head.line);
            self.note(format!("{prefix}.connection"), record.connection.to_string());
            self.fields(&format!("{prefix}.header"), &record.head.fields);
            self.note(format!("{prefix}.body"), shown(&decoded(&record.body, &record.head.fields)));
            self.fields(&format!("{prefix}.trailer"), &record.trailers);
            self.note(format!("{prefix}.end"), &record.end);
        }
        for (index, connection) in connections.iter().enumerate() {
            let prefix = format!("{prefix}.connection.{}", index + 1);
            for (what, value) in &connection.beginning {
                self.note(format!("{prefix}.{what}"), value);
            }
            if !connection.bytes.is_empty() {
                self.note(format!("{prefix}.bytes"), shown(&connection.bytes));
            }
        }
    }

    /// Notes the lines of an access log; the standard format field by field.
    pub fn log(&mut self, text: &str, standard: bool, unordered: bool) {
        let mut lines: Vec<&str> = text.lines().collect();
        if unordered && standard {
            // Which host answered is not certain, and so is not what lines are sorted by.
            lines.sort_by_cached_key(|line| {
                let certain = line.split('\t').filter(|pair| !pair.starts_with("upstream="));
                certain.collect::<Vec<&str>>().join("\t")
            });
        }
        self.note("log.lines", lines.len().to_string());
        for (index, line) in lines.into_iter().enumerate() {
            let prefix = format!("log.{}", index + 1);
            if !standard {
                self.note(prefix, line);
                continue;
            }
            for pair in line.split('\t') {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                self.note(format!("{prefix}.{key}"), value);
            }
        }
    }

    /// What of a case's own assertions does not hold.
    pub fn failures(&self, case: &Case) -> Vec<String> {
        let mut failures = Vec::new();
        for (index, step) in case.steps.iter().enumerate() {
            self.step_failures(index + 1, &step.expect, &mut failures);
        }
        let lines: Vec<String> = self
            .aspects
            .iter()
            .filter(|(aspect, _)| aspect.starts_with("log.") && *aspect != "log.lines")
            .map(|(aspect, text)| {
                let key = aspect.split('.').nth(2);
                key.map_or_else(|| text.clone(), |key| format!("{key}={text}"))
            })
            .collect();
        for wanted in &case.log {
            match regex::Regex::new(wanted) {
                Ok(pattern) if lines.iter().any(|line| pattern.is_match(line)) => {}
                Ok(_) => failures.push(format!("the access log has no `{wanted}`")),
                Err(error) => failures.push(error.to_string()),
            }
        }
        failures
    }

    fn step_failures(&self, number: usize, expect: &Expect, failures: &mut Vec<String>) {
        let mut check = |aspect: String, wanted: Option<String>| {
            let seen = self.get(&aspect);
            if seen != wanted.as_deref() {
                failures.push(format!(
                    "{aspect} is {}, not {}",
                    seen.unwrap_or("(absent)"),
                    wanted.as_deref().unwrap_or("(absent)")
                ));
            }
        };
        if let Some(status) = expect.status {
            check(format!("step.{number}.status"), Some(status.to_string()));
        }
        if let Some(body) = &expect.body {
            check(format!("step.{number}.body"), Some(body.clone()));
        }
        if let Some(end) = &expect.end {
            check(format!("step.{number}.end"), Some(end.clone()));
        }
        for (name, value) in &expect.headers {
            check(format!("step.{number}.header.{name}"), value.clone());
        }
        if let Some(closed) = expect.closed {
            let seen = self.get(&format!("step.{number}.closing")).unwrap_or("-");
            if (seen != "open" && seen != "-") != closed {
                failures.push(format!("step.{number}.closing is {seen}"));
            }
        }
    }
}

/// Bytes as text; much of them as length and sum.
/// What a compressed body says. The codings' libraries differ, what comes out of them must not.
fn decoded(bytes: &[u8], fields: &Fields) -> Vec<u8> {
    let coding = fields.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-encoding"));
    let mut out = Vec::new();
    let done = match coding.map_or("", |(_, value)| value) {
        _ if bytes.is_empty() => return Vec::new(),
        "gzip" => flate2::read::GzDecoder::new(bytes).read_to_end(&mut out),
        "br" => brotli::Decompressor::new(bytes, 4096).read_to_end(&mut out),
        "zstd" => zstd::Decoder::new(bytes).and_then(|mut decoder| decoder.read_to_end(&mut out)),
        _ => return bytes.to_vec(),
    };
    match done {
        Ok(_) => [b"decoded: ".as_slice(), &out].concat(),
        Err(_) => bytes.to_vec(),
    }
}

fn shown(bytes: &[u8]) -> String {
    if bytes.len() > 3000 {
        let sum = bytes.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
        return format!("{} bytes, {sum:016x}", bytes.len());
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}
