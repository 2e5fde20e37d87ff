//! The runtime kit of every Lateen process.
//!
//! What each binary needs and none should invent again: an orderly end ([`drain`]), being ready ([`readiness`]),
//! retrying ([`backoff`]), logs ([`logging`]), a small HTTP listener for health and metrics ([`admin`]), handing
//! listening sockets from process to process ([`descriptors`]), and where a process finds its files ([`paths`]).

pub mod admin;
pub mod backoff;
pub mod descriptors;
pub mod drain;
pub mod logging;
pub mod paths;
pub mod readiness;

/// The version that every binary reports.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
