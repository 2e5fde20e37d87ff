//! `lateen version`: of this program, and of the control plane.

use serde_json::{Value, json};

use crate::arguments::{Output, VersionArguments};
use crate::printer::Printer;
use crate::{ExitStatus, cluster, istiod};

/// Prints the versions. A control plane that cannot be reached is said to be so, and is no failure.
pub(crate) async fn version(
    arguments: &VersionArguments,
    printer: &mut Printer,
) -> anyhow::Result<ExitStatus> {
    let client = lateen_base::VERSION;
    let server = match arguments.client_only {
        true => None,
        false => Some(control_plane(arguments).await),
    };
    match arguments.output {
        Output::Json => {
            let mut versions = json!({"clientVersion": client});
            if let Some(Ok(server)) = &server {
                versions["meshVersion"] = json!(server);
            }
            printer.result(&serde_json::to_string_pretty(&versions)?);
        }
        Output::Short => {
            printer.result(&format!("client version: {client}"));
            match server {
                Some(Ok(server)) => printer.result(&format!("control plane version: {server}")),
                Some(Err(error)) => {
                    printer.warning(&format!("the control plane's version is unknown: {error}"))
                }
                None => {}
            }
        }
    }
    Ok(ExitStatus::Success)
}

async fn control_plane(arguments: &VersionArguments) -> anyhow::Result<String> {
    let client = cluster::connect(&arguments.cluster).await?;
    let namespace = &arguments.cluster.istio_namespace;
    let text = istiod::get(&client, namespace, istiod::MONITORING_PORT, "/version").await?;
    let answer: Value = serde_json::from_str(&text)?;
    Ok(answer["version"].as_str().unwrap_or("unknown").to_owned())
}
