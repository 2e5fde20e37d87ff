//! The standalone node: a mesh on one machine without Kubernetes, containers or root.
//!
//! `lateend node` is three stages of one program. The *launcher* ([`launcher`]) makes user, mount, network and PID
//! namespaces and stays behind to forward signals. Stage *init* (`init`) is PID 1 in them: it reaps, sets the network
//! up ([`network`]), starts `lateend run` and restarts it, watches the API like any Kubernetes component ([`cluster`]),
//! runs the few controllers that one machine needs ([`controllers`]), and turns Pods into processes ([`runner`]). Each
//! Pod gets stage *sandbox* ([`sandbox`]): a process of one thread that holds the Pod's namespaces and starts what runs
//! in them. [`dns`] answers names, [`forward`] brings node ports in.
//!
//! Whatever happens to the API server, running Pods keep running, and are probed and restarted.

pub mod cluster;
mod control_plane;
pub mod controllers;
pub mod dns;
pub mod forward;
mod init;
pub mod launcher;
mod namespace_settings;
pub mod network;
mod options;
mod pod_network;
mod port_forward;
pub mod reaper;
mod registration;
pub mod runner;
pub mod sandbox;
mod service_network;
mod socket;

use std::process::ExitCode;

pub use options::{NodeArgs, Stage};

/// Runs `lateend node`, whichever stage it is. Must be called while the process has one thread: before any runtime,
/// logger thread or the like was started.
pub fn main(args: NodeArgs) -> ExitCode {
    match args.stage {
        Stage::Launcher => match launcher::launch() {
            Ok(code) => code,
            Err(error) => {
                report(&format!("error: {error}"));
                ExitCode::FAILURE
            }
        },
        Stage::Init => init::main(args),
        Stage::Sandbox => match args.sandbox_fd {
            Some(descriptor) => sandbox::run(descriptor),
            None => {
                report("error: stage `sandbox` is started by the node only");
                ExitCode::FAILURE
            }
        },
    }
}

/// A line for the user, before logging exists.
fn report(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{line}");
}
