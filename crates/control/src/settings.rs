//! Settings of the mesh without effect, as paths: told when they are set to something else than their default.

use lateen_model::MeshConfig;
use serde_json::Value;

/// The fields of `MeshConfig` that nothing here reads yet.
const WITHOUT_EFFECT: [&str; 17] = [
    "ca",
    "caCertificates",
    "certificates",
    "configSources",
    "defaultProviders",
    "disableEnvoyListenerLog",
    "enableEnvoyAccessLogService",
    "enablePrometheusMerge",
    "enableTracing",
    "extensionProviders",
    "hboneIdleTimeout",
    "meshMTLS",
    "pathNormalization",
    "proxyInboundListenPort",
    "proxyListenPort",
    "serviceEntryVisibility",
    "verifyCertificateAtClient",
];

/// The settings that are valid but that this version does not act on.
pub(crate) fn unhandled(mesh: &MeshConfig) -> Vec<String> {
    let json = |mesh: &MeshConfig| serde_json::to_value(mesh).unwrap_or_default();
    differing(&json(mesh), &json(&MeshConfig::default()))
}

fn differing(set: &Value, default: &Value) -> Vec<String> {
    let differs = |field: &str| set.get(field) != default.get(field);
    WITHOUT_EFFECT.into_iter().filter(|field| differs(field)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_without_effect() {
        let read = |value: Value| -> MeshConfig { serde_json::from_value(value).unwrap() };
        for (name, mesh, expected) in [
            ("nothing set", serde_json::json!({}), vec![]),
            ("a setting with effect", serde_json::json!({"connectTimeout": "3s"}), vec![]),
            ("set to its default", serde_json::json!({"proxyListenPort": 15001}), vec![]),
            ("set to something else", serde_json::json!({"proxyListenPort": 15002}), vec!["proxyListenPort"]),
            (
                "path normalization",
                serde_json::json!({"pathNormalization": {"normalization": "MERGE_SLASHES"}}),
                vec!["pathNormalization"],
            ),
        ] {
            assert_eq!(unhandled(&read(mesh)), expected, "{name}");
        }
    }

    #[test]
    fn names_are_those_of_fields() {
        let fields = &lateen_galley::mesh::mesh_schema()["properties"];
        for field in WITHOUT_EFFECT {
            assert!(fields.get(field).is_some(), "{field} is no field");
        }
    }
}
