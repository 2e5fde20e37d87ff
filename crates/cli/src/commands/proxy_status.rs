//! `lateen proxy-status`: has each proxy what it should have?

use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::arguments::{Output, ProxyStatusArguments};
use crate::printer::Printer;
use crate::{ExitStatus, cluster, istiod, table};

/// One connected proxy, as `/debug/syncz` lists it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Proxy {
    /// `POD.NAMESPACE`.
    proxy: String,
    cluster_id: String,
    proxy_type: String,
    version: String,
    istiod: String,
    /// By short name of the resource type: CDS, LDS, EDS, RDS, ...
    types: BTreeMap<String, TypeStatus>,
}

/// What was sent of one resource type, and what the proxy said to it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct TypeStatus {
    /// `SYNCED`, `STALE`, `ERROR`, `NOT SENT`.
    status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

const TYPES: [&str; 4] = ["CDS", "LDS", "EDS", "RDS"];

/// Prints the status of all proxies, or of one.
pub(crate) async fn proxy_status(
    arguments: ProxyStatusArguments,
    printer: &mut Printer,
) -> anyhow::Result<ExitStatus> {
    let client = cluster::connect(&arguments.cluster).await?;
    let namespace = &arguments.cluster.istio_namespace;
    let text = istiod::get(&client, namespace, istiod::DEBUG_PORT, "/debug/syncz").await?;
    let mut proxies: Vec<Proxy> =
        serde_json::from_str(&text).context("/debug/syncz answered something else")?;
    if let Some(pod) = &arguments.pod {
        let name = match pod.contains('.') {
            true => pod.clone(),
            false => format!("{pod}.{}", arguments.cluster.namespace),
        };
        proxies.retain(|proxy| proxy.proxy == name);
        if proxies.is_empty() {
            anyhow::bail!("no proxy of {name} is connected; `lateen proxy-status` lists those that are");
        }
    }
    proxies.sort_by(|one, other| one.proxy.cmp(&other.proxy));
    match arguments.output {
        Output::Json => printer.result(&serde_json::to_string_pretty(&proxies)?),
        Output::Short => {
            let header = ["NAME", "CLUSTER", "CDS", "LDS", "EDS", "RDS", "ISTIOD", "VERSION"];
            printer.result(&table::render(&header, &proxies.iter().map(row).collect::<Vec<_>>()));
            for proxy in &proxies {
                for (kind, status) in &proxy.types {
                    if let Some(error) = &status.error {
                        printer.warning(&format!("{}: {kind} was refused: {error}", proxy.proxy));
                    }
                }
            }
        }
    }
    Ok(ExitStatus::Success)
}

fn row(proxy: &Proxy) -> Vec<String> {
    let status = |kind: &str| {
        proxy.types.get(kind).map_or_else(|| "NOT SENT".to_owned(), |status| status.status.clone())
    };
    let mut row = vec![proxy.proxy.clone(), proxy.cluster_id.clone()];
    row.extend(TYPES.map(status));
    row.extend([proxy.istiod.clone(), proxy.version.clone()]);
    row
}
