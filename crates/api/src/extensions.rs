//! Kinds of `extensions.istio.io`: code that users add to proxies.

use crate::JsonObject;
use crate::meta::{resource, versions};
use crate::selection::{LabelSelector, PolicyTargetReference};

message! {
    /// Adds a WebAssembly filter to proxies.
    #[schemars(extend("required" = ["url"], "x-kubernetes-validations" = [{
        "rule": "(has(self.selector) ? 1 : 0) + (has(self.targetRef) ? 1 : 0) + (has(self.targetRefs) ? 1 : 0) <= 1",
        "message": "set only one of selector, targetRef and targetRefs",
    }]))]
    pub struct WasmPlugin {
        /// Workloads; without it, all of the namespace.
        pub selector: Option<LabelSelector>,
        /// Object that it is attached to.
        pub target_ref: Option<PolicyTargetReference>,
        /// Objects that it is attached to.
        #[schemars(length(max = 16))]
        pub target_refs: Vec<PolicyTargetReference>,
        /// Where the code is: `oci://`, `file://`, `http://` or `https://`; `oci` without a scheme.
        #[schemars(schema_with = "module_url")]
        pub url: String,
        /// SHA-256 of the code, in hex.
        #[schemars(regex(pattern = "(^$|^[a-f0-9]{64}$)"))]
        pub sha256: String,
        /// When the code is fetched again.
        pub image_pull_policy: PullPolicy,
        /// Secret with the registry's credentials.
        #[schemars(length(min = 1, max = 253))]
        pub image_pull_secret: String,
        /// Public key that signed the code.
        pub verification_key: String,
        /// Configuration for the code.
        pub plugin_config: Option<JsonObject>,
        /// Name that the code is told.
        #[schemars(length(min = 1, max = 256))]
        pub plugin_name: String,
        /// Where it goes among the filters.
        pub phase: WasmPhase,
        /// Order within the phase; higher ones come first.
        #[schemars(extend("nullable" = true))]
        pub priority: Option<i32>,
        /// What happens to traffic when the code fails.
        pub fail_strategy: FailStrategy,
        /// Settings of the virtual machine.
        pub vm_config: Option<VmConfig>,
        /// Which traffic.
        pub r#match: Vec<TrafficSelector>,
        /// HTTP or network filter.
        #[serde(rename = "type")]
        pub plugin_type: PluginType,
    }

    /// Adds WebAssembly or Lua code to proxies.
    #[schemars(transform = crate::schema::one_of_extension, extend("x-kubernetes-validations" = [
        {
            "rule": "(has(self.selector) ? 1 : 0) + (has(self.targetRefs) ? 1 : 0) <= 1",
            "message": "set either selector or targetRefs, not both",
        },
        {"rule": "has(self.wasm) != has(self.lua)", "message": "set one of wasm and lua"},
    ]))]
    pub struct TrafficExtension {
        /// Workloads; without it, all of the namespace.
        pub selector: Option<LabelSelector>,
        /// Objects that it is attached to.
        #[schemars(length(max = 16))]
        pub target_refs: Vec<PolicyTargetReference>,
        /// Where it goes among the filters.
        pub phase: ExtensionPhase,
        /// Order within the phase; higher ones come first.
        #[schemars(extend("nullable" = true))]
        pub priority: Option<i32>,
        /// Which traffic.
        pub r#match: Vec<TrafficSelector>,
        /// WebAssembly.
        pub wasm: Option<WasmExtension>,
        /// Lua.
        pub lua: Option<LuaExtension>,
    }

    /// WebAssembly code.
    #[schemars(extend("required" = ["url"]))]
    pub struct WasmExtension {
        /// Where the code is: `oci://`, `file://`, `http://` or `https://`; `oci` without a scheme.
        #[schemars(schema_with = "module_url")]
        pub url: String,
        /// SHA-256 of the code, in hex.
        #[schemars(regex(pattern = "(^$|^[a-f0-9]{64}$)"))]
        pub sha256: String,
        /// When the code is fetched again.
        pub image_pull_policy: PullPolicy,
        /// Secret with the registry's credentials.
        #[schemars(length(min = 1, max = 253))]
        pub image_pull_secret: String,
        /// Public key that signed the code.
        pub verification_key: String,
        /// Configuration for the code.
        pub plugin_config: Option<JsonObject>,
        /// Name that the code is told.
        #[schemars(length(min = 1, max = 256))]
        pub plugin_name: String,
        /// What happens to traffic when the code fails.
        pub fail_strategy: FailStrategy,
        /// Settings of the virtual machine.
        pub vm_config: Option<VmConfig>,
        /// HTTP or network filter.
        #[serde(rename = "type")]
        pub plugin_type: PluginType,
    }

    /// Lua code.
    #[schemars(extend("required" = ["inlineCode"]))]
    pub struct LuaExtension {
        /// The code.
        #[schemars(length(min = 1, max = 65536))]
        pub inline_code: String,
    }

    /// Which traffic an extension is for.
    pub struct TrafficSelector {
        /// Direction.
        pub mode: ExtensionMode,
        /// Ports; all by default.
        #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["number"]))]
        pub ports: Vec<ExtensionPort>,
    }

    /// A port.
    #[schemars(extend("required" = ["number"]))]
    pub struct ExtensionPort {
        /// Number.
        #[schemars(range(min = 1, max = 65535))]
        pub number: u32,
    }

    /// Settings of the virtual machine.
    pub struct VmConfig {
        /// Environment variables.
        #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
        pub env: Vec<VmEnvironment>,
    }

    /// An environment variable of the code.
    #[schemars(extend("required" = ["name"], "x-kubernetes-validations" = [{
        "rule": "(has(self.valueFrom) ? self.valueFrom : \"\") != \"HOST\" || !has(self.value)",
        "message": "value is only for valueFrom INLINE",
    }]))]
    pub struct VmEnvironment {
        /// Name.
        #[schemars(length(min = 1, max = 256))]
        pub name: String,
        /// Where the value comes from.
        pub value_from: EnvironmentSource,
        /// The value itself.
        #[schemars(length(max = 2048))]
        pub value: String,
    }
}

fn module_url(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "string",
        "minLength": 1,
        "x-kubernetes-validations": [{
            "rule": "isURL(self) ? (url(self).getScheme() in [\"\", \"http\", \"https\", \"oci\", \"file\"]) : (isURL(\"http://\" + self) && url(\"http://\" + self).getScheme() in [\"\", \"http\", \"https\", \"oci\", \"file\"])",
            "message": "the scheme must be http, https, file or oci",
        }],
    })
}

enumeration! {
    /// Where a Wasm filter goes: at the end, or before authentication, authorization or statistics.
    pub enum WasmPhase { #[default] UnspecifiedPhase, Authn, Authz, Stats }

    /// Where an extension goes: at the end, or before authentication, authorization or statistics.
    pub enum ExtensionPhase { #[default] Unspecified, Authn, Authz, Stats }

    /// What happens to traffic when the code fails: refused, let through, or refused once and started again.
    pub enum FailStrategy { #[default] FailClose, FailOpen, FailReload }

    /// HTTP or network filter.
    pub enum PluginType { #[default] UnspecifiedPluginType, Http, Network }

    /// Direction of traffic, from the workload's view.
    pub enum ExtensionMode { #[default] Undefined, Client, Server, ClientAndServer }

    /// Where an environment variable's value comes from.
    pub enum EnvironmentSource { #[default] Inline, Host }

    /// When the code is fetched again.
    pub enum PullPolicy {
        #[default]
        UnspecifiedPolicy,
        #[serde(rename = "IfNotPresent")]
        IfNotPresent,
        #[serde(rename = "Always")]
        Always,
    }
}

resource!(
    WasmPlugin, "extensions.istio.io", versions!("v1alpha1"), "wasmplugins", "wasmplugin",
    short: [], category: "extensions-istio-io", spec_required: true,
    columns: ["Age" "date" ".metadata.creationTimestamp" "Time since creation"]
);

resource!(
    TrafficExtension, "extensions.istio.io", versions!("v1alpha1"), "trafficextensions", "trafficextension",
    short: [], category: "extensions-istio-io", spec_required: true,
    columns: ["Age" "date" ".metadata.creationTimestamp" "Time since creation"]
);
