//! Measures the data plane against Envoy on the same bootstraps, and prints a table of ratios. See README.md.

// It is a program for a terminal.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod bootstrap;
mod certificates;
mod load;
mod memory;
mod paced;
mod process;
mod report;
mod scenario;
mod traffic;
mod upstream;

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Parser;

use crate::process::{Machine, Program};
use crate::report::Report;
use crate::scenario::{ALL, Scenario};
use crate::upstream::Upstream;

/// Measures the data plane against Envoy.
#[derive(Debug, Parser)]
struct Options {
    /// The proxy.
    #[arg(long)]
    proxy: PathBuf,
    /// Envoy.
    #[arg(long, env = "ENVOY_BIN")]
    envoy: PathBuf,
    /// How often everything is measured; the table has medians.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each load.
    #[arg(long, default_value_t = 2)]
    seconds: u32,
    /// Names, with commas; all if empty. `--list` shows them.
    #[arg(long, default_value = "", hide_default_value = true)]
    scenarios: String,
    /// Prints the scenarios and ends.
    #[arg(long)]
    list: bool,
    /// The folder for `results.json` and `results.md`.
    #[arg(long)]
    output: PathBuf,
    /// A document whose lines between `<!-- bench:begin -->` and `<!-- bench:end -->` become the table.
    #[arg(long)]
    document: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    if options.list {
        for scenario in ALL {
            println!("{:12} {}", scenario.name, scenario.what);
        }
        return Ok(());
    }
    let chosen = choose(&options.scenarios)?;
    std::fs::create_dir_all(&options.output)?;
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let machine = Machine::new();
    let programs = [Program::Envoy(options.envoy.clone()), Program::Ours(options.proxy.clone())];
    let certificates = certificates::write(folder.path())?;
    let upstream = Upstream::start(folder.path(), &machine)?;
    let bench = traffic::Bench {
        folder: folder.path(),
        machine: &machine,
        certificates: &certificates,
        upstream: &upstream,
        seconds: options.seconds,
    };
    let mut report = Report::new(&programs, &options);
    let mut failed = false;
    // Rounds outermost: what changes on the machine meanwhile meets all scenarios alike.
    for round in 0..options.rounds {
        for scenario in &chosen {
            let mut order = [0, 1];
            if round % 2 == 1 {
                order.reverse();
            }
            for index in order {
                match bench.measure(scenario, &programs[index], round) {
                    Ok(Some(figures)) => report.add(scenario, &programs[index], round, figures),
                    Ok(None) => {}
                    // The others are measured all the same; the table has no ratio for this one.
                    Err(error) => {
                        eprintln!("{} with {} failed: {error:#}", scenario.name, programs[index].name());
                        failed = true;
                    }
                }
            }
        }
        report.save(&options.output)?;
    }
    println!("{}", report.table());
    if let Some(document) = &options.document {
        report.write_into(document)?;
    }
    println!("Figures: {}", options.output.join("results.json").display());
    if failed {
        bail!("some measurements failed, see above");
    }
    Ok(())
}

fn choose(names: &str) -> anyhow::Result<Vec<&'static Scenario>> {
    if names.is_empty() {
        return Ok(ALL.iter().collect());
    }
    let named = |name: &str| {
        ALL.iter().find(|scenario| scenario.name == name.trim()).with_context(|| {
            let known: Vec<&str> = ALL.iter().map(|scenario| scenario.name).collect();
            format!("there is no scenario {name:?}; there are {}", known.join(", "))
        })
    };
    names.split(',').map(named).collect()
}
