//! `MeshNetworks`: which networks there are, and the gateways between them (`istio.mesh.v1alpha1.MeshNetworks`).
//!
//! It lives in the ConfigMap `istio` of the root namespace, key `meshNetworks`, as YAML. Beside it, the settings of
//! services that `MeshConfig` has (`serviceSettings`).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// All networks, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshNetworks {
    /// By name.
    pub networks: BTreeMap<String, Network>,
}

/// One network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Network {
    /// Whose endpoints belong to it.
    pub endpoints: Vec<NetworkEndpoints>,
    /// How other networks reach it.
    pub gateways: Vec<NetworkGateway>,
}

/// Endpoints of a network: one of the two is set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkEndpoints {
    /// All whose address is in the range.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub from_cidr: String,
    /// All of a cluster.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub from_registry: String,
}

/// A gateway into a network: one of service name and address is set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkGateway {
    /// A service of the mesh, by its full name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub registry_service_name: String,
    /// IP address or name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// Port.
    pub port: u32,
    /// Where it is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub locality: String,
}

/// Settings of some services (`MeshConfig.serviceSettings`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSettings {
    /// The settings.
    pub settings: ServiceSettingsValues,
    /// The services' host names, wildcards allowed.
    pub hosts: Vec<String>,
}

/// What can be set for services.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSettingsValues {
    /// Whether clients only see the endpoints of their own cluster.
    pub cluster_local: bool,
}
