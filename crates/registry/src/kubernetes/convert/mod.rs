//! Kubernetes' objects, trimmed to what the mesh needs. Pure functions.

mod config;
mod mesh;
mod node;
mod pod;
mod service;
mod slice;

pub use config::config;
pub use mesh::mesh;
pub use node::{namespace, node};
pub use pod::pod;
pub use service::service;
pub use slice::slice;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::Converted;
use crate::ObjectKey;

fn key(metadata: &ObjectMeta) -> ObjectKey {
    ObjectKey::new(metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

fn seconds(time: Option<&Time>) -> i64 {
    time.map_or(0, |time| time.0.as_second())
}

fn number(port: i32) -> u16 {
    u16::try_from(port).unwrap_or_default()
}
