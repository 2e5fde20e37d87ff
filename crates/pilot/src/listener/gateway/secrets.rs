//! Where keys and certificates come from: by name, from the control plane or from the agent beside the proxy.

use crate::proto::{core, ext};
use crate::secrets::{ROOTS, WORKLOAD, from_agent};
use ext::transport_sockets::tls::v3::SdsSecretConfig;

/// Ends the name of the secret that holds the certificates that clients are checked with.
const CA_SUFFIX: &str = "-cacert";
/// Stands for the workload's own certificate.
const BUILTIN: &str = "builtin://";

/// A secret of the platform, by the name that a `credentialName` gives it. It comes over the stream that all else comes
/// over. A secret that is missing holds up its own server only: no limit of time is lifted here.
pub(super) fn credential(name: &str) -> SdsSecretConfig {
    if name == BUILTIN {
        return from_agent(WORKLOAD);
    }
    let known = ["kubernetes://", "kubernetes-gateway://", "configmap://", "invalid://"];
    let whole = if known.iter().any(|scheme| name.starts_with(scheme)) {
        name.to_owned()
    } else {
        format!("kubernetes://{name}")
    };
    SdsSecretConfig {
        name: whole,
        sds_config: Some(core::ConfigSource {
            resource_api_version: core::ApiVersion::V3 as i32,
            config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
                core::AggregatedConfigSource::default(),
            )),
            ..Default::default()
        }),
    }
}

/// The certificates that clients of a `credentialName` are checked with.
pub(super) fn credential_authority(name: &str) -> SdsSecretConfig {
    if name == BUILTIN { from_agent(ROOTS) } else { credential(&format!("{name}{CA_SUFFIX}")) }
}
