//! Rules that no request reaches, and conditions that earlier rules have taken (Istio's messages `IST0130`, `IST0131`).

use std::collections::BTreeMap;

use lateen_api::networking::{HttpMatchRequest, HttpRoute, StringMatch, VirtualService};
use serde::Serialize;

use crate::Verdict;
use crate::verdict::Finding;

pub(super) fn judge(service: &VirtualService, verdict: &mut Verdict) {
    http(&service.http, verdict);
    let tls: Vec<_> = service.tls.iter().map(|route| route.r#match.as_slice()).collect();
    plain("spec.tls", &tls, verdict);
    let tcp: Vec<_> = service.tcp.iter().map(|route| route.r#match.as_slice()).collect();
    plain("spec.tcp", &tcp, verdict);
}

fn unreachable(path: &str, rule: String, reason: &str, verdict: &mut Verdict) {
    verdict.warn_of(
        path,
        format!("is never used: {reason}"),
        "put it before the rule that takes its requests, or leave it out",
        Finding::UnreachableRule { rule, reason: reason.to_owned() },
    );
}

fn ineffective(path: &str, rule: String, condition: String, duplicate: String, verdict: &mut Verdict) {
    verdict.warn_of(
        path,
        format!("is never met: rule {duplicate} takes such requests"),
        "put the narrower condition first, or leave it out",
        Finding::IneffectiveMatch { rule, condition, duplicate },
    );
}

fn name(name: &str, number: usize) -> String {
    if name.is_empty() { format!("#{number}") } else { format!("{name:?}") }
}

/// What the rules of one protocol have seen so far.
#[derive(Default)]
struct Seen {
    /// Conditions, with the rule that has them.
    conditions: BTreeMap<String, usize>,
    takes_all: bool,
}

impl Seen {
    /// Whether a condition is new; else the rule that has it.
    fn note<T: Serialize>(&mut self, condition: &T, rule: usize) -> Result<(), usize> {
        let text = serde_json::to_string(condition).unwrap_or_default();
        match self.conditions.get(&text) {
            Some(earlier) => Err(*earlier),
            None => {
                self.conditions.insert(text, rule);
                Ok(())
            }
        }
    }

    /// Notes a rule without conditions; says where it is not the first.
    fn note_all(&mut self, path: &str, rule: String, verdict: &mut Verdict) {
        if self.takes_all {
            unreachable(path, rule, "only the last rule can have no matches", verdict);
        }
        self.takes_all = true;
    }
}

/// TLS and TCP, whose rules have no names.
fn plain<T: Serialize>(path: &str, routes: &[&[T]], verdict: &mut Verdict) {
    let mut seen = Seen::default();
    for (number, conditions) in routes.iter().enumerate() {
        let path = format!("{path}[{number}]");
        if conditions.is_empty() {
            seen.note_all(&path, name("", number), verdict);
            continue;
        }
        let mut repeated = 0;
        for (index, condition) in conditions.iter().enumerate() {
            if let Err(earlier) = seen.note(condition, number) {
                let place = format!("{path}.match[{index}]");
                ineffective(&place, name("", number), name("", index), name("", earlier), verdict);
                repeated += 1;
            }
        }
        if repeated == conditions.len() {
            unreachable(&path, name("", number), "all matches used by prior rules", verdict);
        }
    }
}

fn http(routes: &[HttpRoute], verdict: &mut Verdict) {
    let mut seen = Seen::default();
    let mut prefixes: Vec<Prefixed<'_>> = Vec::new();
    for (number, route) in routes.iter().enumerate() {
        let path = format!("spec.http[{number}]");
        let rule = name(&route.name, number);
        if route.r#match.is_empty() {
            seen.note_all(&path, rule, verdict);
            continue;
        }
        let mut repeated = 0;
        for (index, condition) in route.r#match.iter().enumerate() {
            let place = format!("{path}.match[{index}]");
            let called = name(&condition.name, index);
            let nameless = HttpMatchRequest { name: String::new(), ..condition.clone() };
            if let Err(earlier) = seen.note(&nameless, number) {
                let duplicate = name(&routes[earlier].name, earlier);
                ineffective(&place, rule.clone(), called, duplicate, verdict);
                repeated += 1;
            } else if let Some(prefix) = condition.uri.as_ref().and_then(|uri| uri.prefix.as_deref())
                && !prefix.is_empty()
            {
                prefixes.push(Prefixed { path: place, rule: rule.clone(), called, prefix, condition });
            }
        }
        if repeated == route.r#match.len() {
            unreachable(&path, rule, "all matches used by prior rules", verdict);
        }
    }
    covered(&prefixes, verdict);
}

/// A condition on the beginning of the path.
struct Prefixed<'a> {
    path: String,
    rule: String,
    called: String,
    prefix: &'a str,
    condition: &'a HttpMatchRequest,
}

fn covered(prefixes: &[Prefixed<'_>], verdict: &mut Verdict) {
    for (index, earlier) in prefixes.iter().enumerate() {
        for later in &prefixes[index + 1..] {
            if later.prefix != earlier.prefix && covers(earlier, later) {
                let condition = format!("{} of prefix {}", later.called, later.prefix);
                let duplicate =
                    format!("{} of prefix {} on {}", earlier.called, earlier.prefix, earlier.rule);
                ineffective(&later.path, later.rule.clone(), condition, duplicate, verdict);
            }
        }
    }
}

/// Whether the earlier condition is met by all that meets the later one.
fn covers(earlier: &Prefixed<'_>, later: &Prefixed<'_>) -> bool {
    let (one, other) = (earlier.condition, later.condition);
    let same_rest = one.port == other.port
        && one.scheme == other.scheme
        && one.gateways == other.gateways
        && one.source_labels == other.source_labels
        && one.source_namespace == other.source_namespace
        && one.ignore_uri_case == other.ignore_uri_case;
    // Istio compares the texts of conditions with each other; no method means GET there.
    let get = StringMatch { exact: Some("GET".to_owned()), ..StringMatch::default() };
    let method = |condition: &HttpMatchRequest| text(condition.method.as_ref().or(Some(&get)));
    later.prefix.starts_with(earlier.prefix)
        && same_rest
        && method(one).starts_with(&method(other))
        && text(one.authority.as_ref()).starts_with(&text(other.authority.as_ref()))
        && all_covered(&one.headers, &other.headers)
        && all_covered(&one.query_params, &other.query_params)
        && all_covered(&one.without_headers, &other.without_headers)
}

fn all_covered(one: &BTreeMap<String, StringMatch>, other: &BTreeMap<String, StringMatch>) -> bool {
    one.len() == other.len()
        && one.iter().all(|(key, value)| {
            other.get(key).is_some_and(|other| text(Some(value)).starts_with(&text(Some(other))))
        })
}

fn text(condition: Option<&StringMatch>) -> String {
    let Some(condition) = condition else { return String::new() };
    match condition {
        StringMatch { exact: Some(text), .. } if !text.is_empty() => format!("exact:{text}"),
        StringMatch { prefix: Some(text), .. } if !text.is_empty() => format!("prefix:{text}"),
        StringMatch { regex: Some(text), .. } => format!("regex:{text}"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(service: &str) -> Vec<String> {
        let service: VirtualService = serde_saphyr::from_str(service).unwrap();
        let mut verdict = Verdict::default();
        judge(&service, &mut verdict);
        let text = |finding: &Finding| match finding {
            Finding::UnknownField => "unknown field".to_owned(),
            Finding::UnreachableRule { rule, reason } => format!("{rule} {reason}"),
            Finding::IneffectiveMatch { rule, condition, duplicate } => {
                format!("{rule} {condition} by {duplicate}")
            }
        };
        verdict.warnings.iter().map(|one| text(one.finding.as_ref().unwrap())).collect()
    }

    #[test]
    fn rules_that_are_never_used() {
        for (case, service, expect) in [
            ("none", "http: [{match: [{uri: {prefix: /a}}]}, {}]", &[][..]),
            ("two for all", "http: [{name: x}, {}]", &["#1 only the last rule can have no matches"]),
            (
                "the same again",
                "http: [{name: x, match: [{uri: {exact: /a}}]}, {match: [{name: y, uri: {exact: /a}}]}]",
                &["#1 \"y\" by \"x\"", "#1 all matches used by prior rules"],
            ),
            (
                "longer prefix",
                "http: [{match: [{uri: {prefix: /a}}]}, {match: [{uri: {prefix: /ab}}]}]",
                &["#1 #0 of prefix /ab by #0 of prefix /a on #0"],
            ),
            (
                "longer prefix, other header",
                "http: [{match: [{uri: {prefix: /a}, headers: {h: {exact: x}}}]}, {match: [{uri: {prefix: /ab}}]}]",
                &[],
            ),
            (
                "tcp",
                "tcp: [{match: [{port: 1}]}, {match: [{port: 1}]}]",
                &["#1 #0 by #0", "#1 all matches used by prior rules"],
            ),
            ("tls for all", "tls: [{}, {}]", &["#1 only the last rule can have no matches"]),
        ] {
            assert_eq!(findings(service), *expect, "{case}");
        }
    }
}
