//! ServiceEntry: services that no platform knows.

use crate::meta::{resource, versions};
use crate::networking::WorkloadEntry;
use crate::selection::WorkloadSelector;

message! {
    /// Adds a service to the mesh: something outside, or workloads that the platform does not know.
    #[schemars(extend("required" = ["hosts"], "x-kubernetes-validations" = [
        {
            "rule": "(has(self.workloadSelector) ? 1 : 0) + (has(self.endpoints) ? 1 : 0) <= 1",
            "message": "set either workloadSelector or endpoints, not both",
        },
        {
            "rule": "!((has(self.addresses) ? self.addresses : []).exists(k, k.contains(\"/\")) && !((has(self.resolution) ? self.resolution : \"NONE\") in [\"STATIC\", \"NONE\"]))",
            "message": "an address range (CIDR) needs resolution NONE or STATIC",
        },
        {
            "rule": "((has(self.resolution) ? self.resolution : \"NONE\") == \"NONE\") ? (!has(self.endpoints) || size(self.endpoints) == 0) : true",
            "message": "resolution NONE has no endpoints",
        },
        {
            "rule": "((has(self.resolution) ? self.resolution : \"\") == \"DNS_ROUND_ROBIN\") ? (!has(self.endpoints) || size(self.endpoints) <= 1) : true",
            "message": "resolution DNS_ROUND_ROBIN has at most one endpoint",
        },
    ]))]
    pub struct ServiceEntry {
        /// Host names, possibly with a wildcard at the front.
        #[schemars(length(min = 1, max = 256), transform = no_bare_wildcard)]
        pub hosts: Vec<String>,
        /// Virtual addresses or ranges, for ports that are not HTTP or TLS.
        #[schemars(length(max = 256), inner(length(max = 64)))]
        pub addresses: Vec<String>,
        /// Ports.
        #[schemars(length(max = 256), extend(
            "x-kubernetes-list-type" = "map",
            "x-kubernetes-list-map-keys" = ["name"],
            "x-kubernetes-validations" = [{
                "rule": "self.all(l1, self.exists_one(l2, l1.number == l2.number))",
                "message": "two ports have the same number",
            }],
        ))]
        pub ports: Vec<ServicePort>,
        /// Whether the service is part of the mesh.
        pub location: ServiceEntryLocation,
        /// How endpoints are found.
        pub resolution: ServiceEntryResolution,
        /// Endpoints.
        #[schemars(length(max = 4096))]
        pub endpoints: Vec<WorkloadEntry>,
        /// Selects Pods and WorkloadEntries as endpoints.
        pub workload_selector: Option<WorkloadSelector>,
        /// Namespaces that see this object: `*` all, `.` its own.
        pub export_to: Vec<String>,
        /// Names of which the server's certificate must have one.
        pub subject_alt_names: Vec<String>,
    }

    /// A port of a service.
    #[schemars(extend("required" = ["number", "name"]))]
    pub struct ServicePort {
        /// Number.
        #[schemars(schema_with = "crate::schema::port")]
        pub number: u32,
        /// Protocol: HTTP, HTTPS, GRPC, HTTP2, MONGO, TCP or TLS.
        #[schemars(length(max = 256))]
        pub protocol: String,
        /// Name, unique in the service.
        #[schemars(length(max = 256))]
        pub name: String,
        /// Port of the endpoints, where it differs.
        #[schemars(schema_with = "crate::schema::port")]
        pub target_port: u32,
    }
}

fn no_bare_wildcard(schema: &mut schemars::Schema) {
    if let Some(items) = schema.get_mut("items") {
        items["x-kubernetes-validations"] = serde_json::json!([
            {"rule": "self != \"*\"", "message": "a host cannot be * alone; give it a domain, such as *.example.com"},
        ]);
    }
}

enumeration! {
    /// Whether a service is outside or inside of the mesh.
    pub enum ServiceEntryLocation { #[default] MeshExternal, MeshInternal }

    /// How endpoints are found: where the client wanted to go, listed, or by DNS (each address, or the first one).
    pub enum ServiceEntryResolution { #[default] None, Static, Dns, DnsRoundRobin, DynamicDns }
}

resource!(
    ServiceEntry, "networking.istio.io", versions!("v1", "v1beta1", "v1alpha3"), "serviceentries", "serviceentry",
    short: ["se"], category: "networking-istio-io", spec_required: true,
    columns: [
        "Hosts" "string" ".spec.hosts" "Hosts of the service",
        "Location" "string" ".spec.location" "Inside or outside of the mesh",
        "Resolution" "string" ".spec.resolution" "How endpoints are found",
        "Age" "date" ".metadata.creationTimestamp" "Time since creation"
    ]
);
