//! What is rightly different from run to run, and what is not compared: `normalise.yaml`, a reason for each.

use anyhow::{Context, Result};
use regex::Regex;
use serde::Deserialize;

use crate::config::Names;
use crate::observe::Observation;

/// `normalise.yaml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    texts: Vec<TextRule>,
    statistics: Vec<String>,
    left_out: Vec<LeftOut>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TextRule {
    aspect: String,
    pattern: String,
    replacement: String,
    #[allow(dead_code)] // Read by people.
    reason: String,
}

/// An aspect that is not compared.
#[derive(Debug)]
struct LeftOutAspect {
    pattern: Regex,
    case: Option<String>,
    unordered: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LeftOut {
    aspect: String,
    /// Only in this case.
    case: Option<String>,
    /// Only in cases that count answers.
    #[serde(default)]
    unordered: bool,
    #[allow(dead_code)] // Read by people.
    reason: String,
}

/// The rules, ready for use.
#[derive(Debug)]
pub struct Rules {
    texts: Vec<(Regex, Regex, String)>,
    statistics: Vec<Regex>,
    left_out: Vec<LeftOutAspect>,
}

impl Rules {
    /// Reads the file.
    pub fn parse(yaml: &str) -> Result<Self> {
        let file: File = crate::yaml(yaml)?;
        let texts = file.texts.into_iter().map(|rule| {
            let pattern = rule.pattern.replace("$machine", &machine_addresses());
            let pattern = Regex::new(&pattern).with_context(|| rule.pattern.clone())?;
            Ok((glob(&rule.aspect), pattern, rule.replacement))
        });
        Ok(Self {
            texts: texts.collect::<Result<_>>()?,
            statistics: file.statistics.iter().map(|name| glob(name)).collect(),
            left_out: file
                .left_out
                .into_iter()
                .map(|rule| LeftOutAspect {
                    pattern: glob(&rule.aspect),
                    case: rule.case,
                    unordered: rule.unordered,
                })
                .collect(),
        })
    }

    /// The statistics that are compared: those of the standard list and those of the case, if not zero.
    pub fn statistics(
        &self,
        all: Vec<(String, String)>,
        more: &[String],
        names: &Names,
    ) -> Vec<(String, String)> {
        let more: Vec<Regex> = more.iter().map(|name| glob(name)).collect();
        all.into_iter()
            .map(|(name, value)| (symbolic(&name, names), value))
            .filter(|(name, value)| {
                more.iter().any(|pattern| pattern.is_match(name))
                    || value != "0" && self.statistics.iter().any(|pattern| pattern.is_match(name))
            })
            .collect()
    }

    /// Addresses become names, and the rules are applied. `case` is its area and name.
    pub fn apply(&self, case: &str, seen: &Observation, names: &Names, unordered: bool) -> Observation {
        let mut normal = Observation::default();
        for (aspect, text) in &seen.aspects {
            let left_out = |rule: &LeftOutAspect| {
                let concerns = rule.case.as_ref().is_none_or(|only| only == case);
                concerns && (!rule.unordered || unordered) && rule.pattern.is_match(aspect)
            };
            if self.left_out.iter().any(left_out) {
                continue;
            }
            let mut text = symbolic(text, names);
            for (wanted, pattern, replacement) in &self.texts {
                if wanted.is_match(aspect) {
                    text = pattern.replace_all(&text, replacement.as_str()).into_owned();
                }
            }
            normal.note(symbolic(aspect, names), text);
        }
        normal
    }
}

/// An expression for the addresses of this machine.
fn machine_addresses() -> String {
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let addresses: Vec<String> = interfaces
        .filter_map(|interface| Some(interface.address?.as_sockaddr_in()?.ip()))
        .filter(|address| !address.is_loopback())
        .map(|address| regex::escape(&address.to_string()))
        .collect();
    // On a machine without any it stands for nothing.
    if addresses.is_empty() { "[^\\s\\S]".to_owned() } else { format!("\\b({})\\b", addresses.join("|")) }
}

/// `127.0.0.1:PORT` and `127.0.0.1_PORT` of a named address as `$name`, and paths likewise.
fn symbolic(text: &str, names: &Names) -> String {
    let mut text = text.to_owned();
    for (name, path) in &names.texts {
        if text.contains(path.as_str()) {
            text = text.replace(path.as_str(), &format!("${name}"));
        }
    }
    if text.contains("127.0.0.1") {
        for (name, address) in &names.addresses {
            let (ip, port) = (address.ip(), address.port());
            text = text.replace(&format!("{ip}:{port}"), &format!("${name}"));
            text = text.replace(&format!("{ip}_{port}"), &format!("${name}"));
        }
    }
    text
}

/// A pattern in which `*` stands for anything.
pub fn glob(pattern: &str) -> Regex {
    let parts: Vec<String> = pattern.split('*').map(regex::escape).collect();
    Regex::new(&format!("(?s)^{}$", parts.join(".*"))).expect("everything else is escaped")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_whole_texts() {
        for (pattern, text, matches) in [
            ("a.*.c", "a.b.c", true),
            ("a.*", "a.b.c", true),
            ("a", "ab", false),
            ("*", "", true),
            ("a.b", "axb", false),
        ] {
            assert_eq!(glob(pattern).is_match(text), matches, "{pattern} {text}");
        }
    }
}
