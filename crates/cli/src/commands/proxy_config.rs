//! `lateen proxy-config`: what a proxy runs with, from its own mouth.

use anyhow::Context;
use serde_json::Value;

use crate::arguments::{Output, ProxyConfigArguments, ProxyConfigPart, ProxyConfigTarget};
use crate::printer::Printer;
use crate::{ExitStatus, cluster, envoy_dump, pod, table};

const CLUSTERS: &[&str] = &["SERVICE FQDN", "PORT", "SUBSET", "DIRECTION", "TYPE", "DESTINATION RULE"];
const LISTENERS: &[&str] = &["ADDRESSES", "PORT", "MATCH", "DESTINATION"];
const ROUTES: &[&str] = &["NAME", "VHOST NAME", "DOMAINS", "MATCH", "VIRTUAL SERVICE"];
const ENDPOINTS: &[&str] = &["ENDPOINT", "STATUS", "CLUSTER"];

/// Prints one part of a proxy's configuration, or all of it.
pub(crate) async fn proxy_config(
    arguments: ProxyConfigArguments,
    printer: &mut Printer,
) -> anyhow::Result<ExitStatus> {
    let (ProxyConfigPart::Bootstrap(target)
    | ProxyConfigPart::Listeners(target)
    | ProxyConfigPart::Routes(target)
    | ProxyConfigPart::Clusters(target)
    | ProxyConfigPart::Endpoints(target)
    | ProxyConfigPart::All(target)) = &arguments.part;
    let dump = fetch(target).await?;
    let text = match target.output {
        Output::Json => serde_json::to_string_pretty(&part(&arguments.part, &dump))?,
        Output::Short => short(&arguments.part, &dump)?,
    };
    printer.result(&text);
    Ok(ExitStatus::Success)
}

async fn fetch(target: &ProxyConfigTarget) -> anyhow::Result<Value> {
    let client = cluster::connect(&target.cluster).await?;
    let pod = pod::find(&client, &target.pod, &target.cluster.namespace).await?;
    let body = pod::get(&client, &pod, target.proxy_admin_port, "/config_dump?include_eds").await?;
    serde_json::from_slice(&body).context("the proxy's configuration dump is not JSON")
}

fn part(part: &ProxyConfigPart, dump: &Value) -> Value {
    let list = |resources: Vec<&Value>| Value::Array(resources.into_iter().cloned().collect());
    match part {
        ProxyConfigPart::Bootstrap(_) => envoy_dump::bootstrap(dump).cloned().unwrap_or_default(),
        ProxyConfigPart::Listeners(_) => list(envoy_dump::listeners(dump)),
        ProxyConfigPart::Routes(_) => list(envoy_dump::routes(dump)),
        ProxyConfigPart::Clusters(_) => list(envoy_dump::clusters(dump)),
        ProxyConfigPart::Endpoints(_) => list(envoy_dump::endpoints(dump)),
        ProxyConfigPart::All(_) => dump.clone(),
    }
}

fn short(part: &ProxyConfigPart, dump: &Value) -> anyhow::Result<String> {
    let clusters = || table::render(CLUSTERS, &envoy_dump::cluster_rows(dump));
    let listeners = || table::render(LISTENERS, &envoy_dump::listener_rows(dump));
    let routes = || table::render(ROUTES, &envoy_dump::route_rows(dump));
    let endpoints = || table::render(ENDPOINTS, &envoy_dump::endpoint_rows(dump));
    Ok(match part {
        // A bootstrap is one nested object: a table of it would leave out what one looks for.
        ProxyConfigPart::Bootstrap(_) => serde_json::to_string_pretty(&envoy_dump::bootstrap(dump))?,
        ProxyConfigPart::Listeners(_) => listeners(),
        ProxyConfigPart::Routes(_) => routes(),
        ProxyConfigPart::Clusters(_) => clusters(),
        ProxyConfigPart::Endpoints(_) => endpoints(),
        ProxyConfigPart::All(_) => [clusters(), listeners(), routes(), endpoints()].join("\n"),
    })
}
