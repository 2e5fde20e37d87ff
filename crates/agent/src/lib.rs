//! A workload's companion in the mesh.
//!
//! `lateen-agent proxy` reads what injection told it ([`environment`]), writes the bootstrap ([`bootstrap`]), opens a
//! Unix socket through which the proxy reaches the control plane over TLS ([`upstream`], `lateen_xds::relay`), runs the
//! proxy ([`data_plane`]), and answers kubelet and Prometheus ([`status`], [`probes`]). `lateen-agent istio-iptables`
//! makes the Pod's redirection ([`interception`]). Flags, environment, ports and paths are those of Istio's agent.

pub mod admin_client;
pub mod arguments;
pub mod bootstrap;
pub mod data_plane;
pub mod environment;
pub mod health;
pub mod interception;
pub mod probes;
mod run;
pub mod status;
pub mod upstream;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use http::{Method, StatusCode};

use crate::admin_client::AdminClient;
use crate::arguments::{Arguments, Command, RequestArguments, WaitArguments};

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    lateen_base::logging::init("info");
    match run_command(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_command(arguments: Arguments) -> anyhow::Result<()> {
    // One thread suffices for everything but the proxy's workers, which have their own.
    let runtime = || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")
    };
    match arguments.command {
        Command::Proxy(proxy) => runtime()?.block_on(run::proxy(proxy)),
        Command::IstioIptables(rules) => interception::run(rules),
        Command::Wait(wait) => runtime()?.block_on(wait_until_ready(&wait)),
        Command::Request(request) => runtime()?.block_on(ask(&request)),
    }
}

async fn wait_until_ready(arguments: &WaitArguments) -> anyhow::Result<()> {
    let agent = AdminClient::new(arguments.address.port());
    let ready = async {
        while !matches!(agent.request(Method::GET, "/healthz/ready").await, Ok((StatusCode::OK, _))) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(arguments.timeout_seconds), ready)
        .await
        .with_context(|| format!("the proxy is not ready after {} s", arguments.timeout_seconds))
}

async fn ask(arguments: &RequestArguments) -> anyhow::Result<()> {
    let method = Method::from_bytes(arguments.method.to_uppercase().as_bytes())
        .with_context(|| format!("{:?} is no method", arguments.method))?;
    let path = format!("/{}", arguments.path.trim_start_matches('/'));
    let (status, body) = AdminClient::new(arguments.port).request(method, &path).await?;
    if status != StatusCode::OK {
        bail!("{path} answered {status}: {}", String::from_utf8_lossy(&body));
    }
    std::io::stdout().write_all(&body).context("cannot write the answer")
}
