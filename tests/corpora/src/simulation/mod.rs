//! Traffic that is simulated: configuration in, and for each call the listener, chain, route and cluster that it gets,
//! found by the proxy's own matchers in what the control plane tells the proxy.

mod call;
mod mesh;

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::Report;
use crate::report::{cases, text};
use call::Outcome;
pub use mesh::Resources;
use mesh::Told;

/// What a result may name besides the error.
const FIELDS: [&str; 6] = [
    "listenerMatched",
    "filterChainMatched",
    "routeConfigMatched",
    "virtualHostMatched",
    "routeMatched",
    "clusterMatched",
];

pub(crate) fn run(folder: &Path) -> anyhow::Result<Report> {
    let mut report = Report::default();
    for case in cases(folder)? {
        report.add(text(&case, "name"), judge(&case));
    }
    Ok(report)
}

/// What a proxy is told of these objects.
pub fn told(objects: Vec<Value>, proxy: &Value) -> Result<Resources, String> {
    Told::of(objects, proxy)?.resources()
}

/// What the proxy of each case is told, by the case's name.
pub fn simulated(folder: &Path) -> anyhow::Result<Vec<(String, Resources)>> {
    let told = |case: Value| -> anyhow::Result<(String, Resources)> {
        let name = text(&case, "name").to_owned();
        let resources = Told::new(&case).and_then(|told| told.resources());
        Ok((name.clone(), resources.map_err(|error| anyhow::anyhow!("{name}: {error}"))?))
    };
    cases(folder)?.into_iter().map(told).collect()
}

fn judge(case: &Value) -> Result<(), String> {
    let told = Told::new(case)?;
    if text(case, "kind") == "routes" {
        return routes(case, &told);
    }
    let walk = told.walk()?;
    for described in case["calls"].as_array().into_iter().flatten() {
        let outcome = call::run(&walk, &described["call"], told.is_gateway());
        compare(&outcome, &described["result"])
            .map_err(|reason| format!("{}: {reason}", described["name"].as_str().unwrap_or("call")))?;
    }
    Ok(())
}

fn compare(outcome: &Outcome, expected: &Value) -> Result<(), String> {
    let strict = expected["strictMatch"] == true;
    let (error, expected_error) = (outcome.error.unwrap_or_default(), text(expected, "error"));
    if error != expected_error {
        return Err(format!("error should be {expected_error:?}, is {error:?}; {outcome:?}"));
    }
    for field in FIELDS {
        let (seen, wanted) = (outcome.field(field), text(expected, field));
        if (strict || !wanted.is_empty()) && !same_name(seen, wanted) {
            return Err(format!("{field} should be {wanted:?}, is {seen:?}; {outcome:?}"));
        }
    }
    Ok(())
}

/// The cases' control plane was told no cluster domain, ours is `cluster.local`: a short name means the same service
/// either way. And what is told to replicas is shared, so chains of a sidecar's own ports carry no Pod's address.
fn same_name(seen: &str, wanted: &str) -> bool {
    let chain = format!("{}_", mesh::ADDRESS);
    seen == wanted
        || seen.strip_suffix(".svc.cluster.local") == Some(wanted)
        || wanted.strip_prefix(&chain).is_some_and(|port| seen.strip_prefix("0.0.0.0_") == Some(port))
}

/// The clusters behind each domain of a sidecar's table.
fn routes(case: &Value, told: &Told) -> Result<(), String> {
    if case["expected"].is_null() {
        return Ok(());
    }
    let hosts = told.virtual_hosts(text(case, "routeName"))?;
    for (domain, wanted) in case["expected"].as_object().into_iter().flatten() {
        let seen = hosts.get(domain);
        match (wanted.as_array(), seen) {
            (None, None) => {}
            (None, Some(seen)) => return Err(format!("{domain} should be absent, has {seen:?}")),
            (Some(_), None) => {
                return Err(format!("{domain} is absent among {:?}", hosts.keys().collect::<Vec<_>>()));
            }
            (Some(wanted), Some(seen)) => {
                let wanted: BTreeSet<&str> = wanted.iter().filter_map(Value::as_str).collect();
                let seen: BTreeSet<&str> = seen.iter().map(String::as_str).collect();
                if wanted != seen {
                    return Err(format!("{domain} should have {wanted:?}, has {seen:?}"));
                }
            }
        }
    }
    Ok(())
}
