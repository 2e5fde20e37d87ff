//! Assembles `lateend` and holds as little as possible itself.
//!
//! `lateend run` starts the embedded API server (`standalone`), installs what a mesh begins with (`install`), follows
//! the configuration through `lateen-registry` into `lateen-pilot`'s engine and out over xDS (`discovery`), and serves
//! the webhooks (`webhooks`) and debug pages (`debug`). The replica that leads (`leader`) writes what the mesh says of
//! objects into their statuses (`status`), by how far they have come (`distribution`). `lateend node` is `lateen-node`.

mod allocation;
pub mod arguments;
mod callers;
mod conflicts;
mod debug;
mod discovery;
mod distribution;
mod install;
mod judges;
mod leader;
mod manifests;
mod metrics;
mod objects;
mod ports;
mod registration;
#[cfg(test)]
mod remote_tests;
mod replicas;
mod root_certificate;
mod run;
mod settings;
mod shared_root;
mod standalone;
mod status;
#[cfg(test)]
mod testing;
mod webhooks;

use std::process::ExitCode;

use clap::Parser;

use crate::arguments::{Arguments, Command};

/// Parses the command line and is what it says, to the end.
pub fn main() -> ExitCode {
    match Arguments::parse().command {
        // The node makes namespaces, which only a process of one thread can: nothing may start before.
        Command::Node(arguments) => lateen_node::main(*arguments),
        Command::Run(arguments) => run::main(*arguments),
    }
}
