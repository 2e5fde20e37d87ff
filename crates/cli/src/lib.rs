//! The `lateen` command line: definitions ([`arguments`]), commands, and one printer through which all output goes.
//!
//! A command gets its typed arguments and a `printer::Printer`, and returns an [`ExitStatus`] or an error that says
//! what went wrong, where, and what to do. `lateen up` and `lateen demo` start a standalone mesh by running `lateend`
//! as a process (`standalone`); every other command talks to a Kubernetes API (`cluster`), the embedded one or a
//! real one alike.

pub mod arguments;
mod cluster;
mod commands;
mod envoy_dump;
mod files;
mod istiod;
mod pod;
mod printer;
mod standalone;
mod table;

use std::process::ExitCode;

use clap::Parser;

use crate::arguments::{Arguments, Command};
use crate::printer::Printer;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// It did what was asked.
    Success,
    /// It could not.
    Failure,
    /// What it was given cannot be read (`EX_DATAERR`, as istioctl has it).
    UnreadableInput,
    /// Analysis found something bad enough (istioctl's number).
    Findings,
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        match status {
            ExitStatus::Success => Self::SUCCESS,
            ExitStatus::Failure => Self::FAILURE,
            ExitStatus::UnreadableInput => Self::from(65),
            ExitStatus::Findings => Self::from(79),
        }
    }
}

/// Parses the command line, runs it on this thread, and reports errors.
pub fn main() -> ExitCode {
    // What a library says of a failed request is said again, and better, by who made it.
    lateen_base::logging::init("warn,kube_client=off");
    let arguments = Arguments::parse();
    let mut printer = Printer::to_terminal();
    // One thread only: the kernel ties a child's "die with your parent" to the thread that made it.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            printer.error(&anyhow::Error::new(error).context("cannot start the runtime"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(arguments, &mut printer)) {
        Ok(status) => status.into(),
        Err(error) => {
            printer.error(&error);
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments, printer: &mut Printer) -> anyhow::Result<ExitStatus> {
    match arguments.command {
        Command::Up(up) => commands::up::up(up, None, printer).await,
        Command::Demo(demo) => commands::demo::demo(demo, printer).await,
        Command::Down(down) => commands::down::down(&down, printer).await,
        Command::ProxyStatus(status) => commands::proxy_status::proxy_status(status, printer).await,
        Command::ProxyConfig(config) => commands::proxy_config::proxy_config(config, printer).await,
        Command::Analyze(analyze) => commands::analyze::analyze(&analyze, printer).await,
        Command::Validate(validate) => commands::validate::validate(&validate, printer),
        Command::Wait(wait) => commands::wait::wait(&wait, printer).await,
        Command::Version(version) => commands::version::version(&version, printer).await,
    }
}
