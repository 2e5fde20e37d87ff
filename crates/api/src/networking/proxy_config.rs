//! ProxyConfig: settings of the proxies themselves.

use std::collections::BTreeMap;

use crate::meta::{resource, versions};
use crate::selection::LabelSelector;

message! {
    /// Settings of the proxies of some workloads, which take effect when a Pod starts.
    pub struct ProxyConfig {
        /// Workloads; without it, all of the namespace.
        pub selector: Option<LabelSelector>,
        /// Number of worker threads; 0 is one a core.
        #[schemars(range(min = 0), extend("nullable" = true))]
        pub concurrency: Option<i32>,
        /// Environment variables of the proxy.
        #[schemars(transform = limit_values)]
        pub environment_variables: BTreeMap<String, String>,
        /// Image of the proxy.
        pub image: Option<ProxyImage>,
    }

    /// Image of the proxy.
    pub struct ProxyImage {
        /// `default`, `debug` or `distroless`.
        pub image_type: String,
    }
}

fn limit_values(schema: &mut schemars::Schema) {
    if let Some(values) = schema.get_mut("additionalProperties") {
        values["maxLength"] = 2048.into();
    }
}

resource!(
    ProxyConfig, "networking.istio.io", versions!("v1beta1"), "proxyconfigs", "proxyconfig",
    short: [], category: "networking-istio-io", spec_required: false,
    columns: []
);
