//! Measures the control plane. `run` starts an API server and a `lateend` beside it, each a process of its own, fills
//! the one through its API, connects simulated proxies to the other, and prints what changes cost. `generators` times
//! the making of resources alone.
#![allow(clippy::print_stdout)]

mod api;
mod generators;
mod lateend;
mod measure;
mod objects;
mod proxy;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
#[command(name = "lateen-bench-control", about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The whole control plane under load.
    Run(Options),
    /// The generators alone.
    Generators {
        /// Only shapes whose name contains this.
        #[arg(long, default_value = "")]
        only: String,
        /// Add the table to this file.
        #[arg(long, value_name = "FILE")]
        document: Option<PathBuf>,
    },
    /// The API server that stands for a cluster; `run` starts it.
    #[command(hide = true)]
    Api {
        /// Where it keeps everything.
        folder: PathBuf,
    },
}

/// What is measured.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The program under test.
    #[arg(long, value_name = "FILE")]
    lateend: PathBuf,
    /// Namespaces.
    #[arg(long, default_value_t = 20)]
    namespaces: usize,
    /// Services in each namespace.
    #[arg(long, default_value_t = 500)]
    services: usize,
    /// Endpoints of each service.
    #[arg(long, default_value_t = 10)]
    endpoints: usize,
    /// VirtualServices in each namespace.
    #[arg(long, default_value_t = 20)]
    rules: usize,
    /// Sidecars in each namespace.
    #[arg(long, default_value_t = 50)]
    proxies: usize,
    /// Single changes whose way is timed.
    #[arg(long, default_value_t = 200)]
    samples: usize,
    /// Seconds of steady changes.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Sidecars in each namespace for the table where everybody sees everything; 0 leaves it out.
    #[arg(long, default_value_t = 2)]
    open_proxies: usize,
    /// Write the tables here too.
    #[arg(long, value_name = "FILE")]
    document: Option<PathBuf>,
    /// Keep the folder with the logs.
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    lateen_identity::tls::install_provider();
    let done = match Arguments::parse().command {
        Command::Generators { only, document } => generators::run(&only, document.as_deref()),
        Command::Api { folder } => on_runtime(api::serve(&folder)),
        Command::Run(options) => on_runtime(measure::run(&options)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn on_runtime(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}
