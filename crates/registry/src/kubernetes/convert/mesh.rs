//! The mesh's settings.

use k8s_openapi::api::core::v1::ConfigMap;
use lateen_model::{MeshConfig, MeshNetworks};
use serde::de::DeserializeOwned;

use super::Converted;
use crate::Item;

/// The ConfigMap with the mesh's settings: keys `mesh` and `meshNetworks`, YAML both.
pub fn mesh(object: ConfigMap) -> Converted {
    let data = object.data.unwrap_or_default();
    let text = |key: &str| data.get(key).map(String::as_str).unwrap_or_default();
    let mesh: MeshConfig = read("mesh", text("mesh"))?;
    let networks: MeshNetworks = read("meshNetworks", text("meshNetworks"))?;
    Ok(Some(Item::Mesh(Box::new(mesh), Box::new(networks))))
}

fn read<T: Default + DeserializeOwned>(key: &str, text: &str) -> Result<T, String> {
    // A document of comments alone is empty too.
    let has_content =
        text.lines().map(str::trim).any(|line| !line.is_empty() && !line.starts_with('#') && line != "---");
    if !has_content {
        return Ok(T::default());
    }
    serde_saphyr::from_str(text).map_err(|error| format!("data.{key}: {error}"))
}
