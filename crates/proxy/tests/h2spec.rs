//! HTTP/2 conformance: h2spec against our listener. Needs the program named by `H2SPEC`; says so where there is none.
//!
//! What may fail is listed with the reasons in `h2spec/allowed.txt`.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::json;
use support::{Running, cluster, listener, upstream};

/// `6.9.1/2` and what it is about, for every case that failed, from h2spec's text: sections are numbered headings, and
/// cases are numbered within them.
fn failures(report: &str) -> (BTreeMap<String, String>, usize) {
    let mut failed = BTreeMap::new();
    let mut cases = 0;
    let (mut suite, mut section) = (String::new(), String::new());
    for line in report.lines() {
        // The failures are told a second time at the end, with all details.
        if line.starts_with("Failures:") {
            break;
        }
        // A case is announced, and its line written again with the outcome.
        let text = line.rsplit('\r').next().unwrap_or_default().trim();
        let first = text.split(' ').next().unwrap_or_default();
        if text.ends_with("for HTTP/2 server")
            || text.starts_with("Hypertext Transfer")
            || text.starts_with("HPACK:")
        {
            suite = match text {
                text if text.starts_with("Generic") => "generic",
                text if text.starts_with("HPACK") => "hpack",
                _ => "http2",
            }
            .to_owned();
        } else if first.len() > 1
            && first.ends_with('.')
            && first.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
        {
            section = first.trim_end_matches('.').to_owned();
        } else if let Some((mark, rest)) = text.split_once(' ')
            && matches!(mark, "✔" | "×" | "-")
            && let Some((number, title)) = rest.split_once(": ")
        {
            cases += 1;
            if mark == "×" {
                failed.insert(format!("{suite}/{section}/{number}"), title.to_owned());
            }
        }
    }
    (failed, cases)
}

#[tokio::test(flavor = "multi_thread")]
async fn conformance() {
    let Some(program) = std::env::var_os("H2SPEC") else {
        eprintln!("skipped: H2SPEC names no h2spec");
        return;
    };
    let server = upstream("one").await;
    let routes = json!([
        {"match": {"prefix": "/"}, "route": {"cluster": "c"}},
    ]);
    let proxy = Running::start(listener(routes), json!([cluster("c", &[server.address])]));
    let port = proxy.address.port().to_string();
    let run = move || Command::new(program).args(["-p", &port, "-o", "5"]).output();
    let output = tokio::task::spawn_blocking(run).await.unwrap().unwrap();
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    let (failed, cases) = failures(&report);
    assert!(cases > 100, "only {cases} cases ran:\n{report}");
    let allowed: BTreeMap<&str, &str> = include_str!("h2spec/allowed.txt")
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| line.split_once(": ").unwrap())
        .collect();
    let unexpected: Vec<_> = failed.iter().filter(|(case, _)| !allowed.contains_key(case.as_str())).collect();
    assert!(unexpected.is_empty(), "{unexpected:#?}\n{report}");
    let passing: Vec<_> = allowed.keys().filter(|case| !failed.contains_key(**case)).collect();
    assert!(passing.is_empty(), "these pass now; remove them from allowed.txt: {passing:?}");
}
