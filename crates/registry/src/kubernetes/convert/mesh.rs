//! The mesh's settings.

use k8s_openapi::api::core::v1::ConfigMap;
use lateen_galley::{Verdict, mesh};

use super::Converted;
use crate::Item;

/// The ConfigMap with the mesh's settings: keys `mesh` and `meshNetworks`, YAML both.
pub fn mesh(object: ConfigMap) -> Converted {
    let data = object.data.unwrap_or_default();
    let text = |key: &str| data.get(key).map(String::as_str).unwrap_or_default();
    let mesh = said("mesh", mesh::read_mesh_config(text("mesh")))?;
    let networks = said("meshNetworks", mesh::read_mesh_networks(text("meshNetworks")))?;
    Ok(Some(Item::Mesh(Box::new(mesh), Box::new(networks))))
}

/// What could be read is used; what is wrong in it goes to the log.
fn said<T>(key: &str, (value, verdict): (Option<T>, Verdict)) -> Result<T, String> {
    let message = verdict.message();
    for problem in verdict.errors.into_iter().chain(verdict.warnings) {
        tracing::warn!("the mesh's settings: data.{key}.{problem}");
    }
    value.ok_or_else(|| format!("data.{key}: {message}"))
}
