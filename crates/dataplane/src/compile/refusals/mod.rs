//! What Envoy refuses besides what breaks the rules of a definition: fields that contradict each other.
//!
//! Looked at before a message is taken apart, so that its compilers are about what things mean.

mod cluster;
mod manager;
mod route;
mod source;

pub(super) use cluster::cluster;
pub(super) use manager::manager;
pub(super) use route::{action, direct_body, direct_response, removable, route_header, weighted};
pub(super) use source::config_source;

#[cfg(test)]
mod tests;
