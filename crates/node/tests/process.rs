//! The node as it really runs: namespaces, processes, a real API server. As root each case runs twice, the second time
//! as a user without any right (one mapped id).
//!
//! This program is also `lateend` to itself: `node` is the node in all its stages, `run` an API server.

// A test without libtest is not seen as one: what tests may do is allowed here by name.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::expect_used)]

mod support;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    match words.next().as_deref() {
        Some("node") => support::node(),
        Some("run") => support::run(),
        Some("--list") => ExitCode::SUCCESS,
        filter => support::cases(filter.filter(|word| !word.starts_with('-'))),
    }
}
