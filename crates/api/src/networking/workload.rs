//! WorkloadEntry and WorkloadGroup: workloads that are no Pods.

use std::collections::BTreeMap;

use crate::meta::{resource, versions};

message! {
    /// A workload that is no Pod, such as a program on a virtual machine.
    #[schemars(extend("x-kubernetes-validations" = [
        {"rule": "has(self.address) || has(self.network)", "message": "set address (or network, behind a gateway)"},
        {
            "rule": "(has(self.address) ? self.address : \"\").startsWith(\"unix://\") ? !has(self.ports) : true",
            "message": "a Unix socket has no ports",
        },
    ]))]
    pub struct WorkloadEntry {
        /// IP address, host name, or `unix://` and the path of a socket.
        #[schemars(length(max = 256), extend("x-kubernetes-validations" = [
            {
                "rule": "self.startsWith(\"unix://\") ? (self.substring(7, 8) == \"/\" || self.substring(7, 8) == \"@\") : true",
                "message": "a Unix socket is an absolute path, or @ and a name",
            },
            {
                "rule": "self.startsWith(\"unix://\") ? !self.endsWith(\"/\") : true",
                "message": "a Unix socket is a file, not a folder",
            },
        ]))]
        pub address: String,
        /// Ports by name, where they differ from the service's.
        #[schemars(schema_with = "crate::schema::named_ports")]
        pub ports: BTreeMap<String, u32>,
        /// Labels.
        #[schemars(extend("maxProperties" = 256))]
        pub labels: BTreeMap<String, String>,
        /// Network; workloads of one network reach each other directly.
        #[schemars(length(max = 2048))]
        pub network: String,
        /// Locality, `region/zone/subzone`.
        #[schemars(length(max = 2048))]
        pub locality: String,
        /// Share of the load.
        pub weight: u32,
        /// Service account, for the identity.
        #[schemars(length(max = 253))]
        pub service_account: String,
    }

    /// A pattern for workloads that register themselves.
    #[schemars(extend("required" = ["template"]))]
    pub struct WorkloadGroup {
        /// Labels and annotations of each WorkloadEntry.
        pub metadata: Option<WorkloadGroupMeta>,
        /// Pattern of each WorkloadEntry.
        #[schemars(transform = without_address_rule)]
        pub template: WorkloadEntry,
        /// How health is probed.
        pub probe: Option<ReadinessProbe>,
    }

    /// Labels and annotations of each entry of a group.
    pub struct WorkloadGroupMeta {
        /// Labels.
        #[schemars(extend("maxProperties" = 256))]
        pub labels: BTreeMap<String, String>,
        /// Annotations.
        #[schemars(extend("maxProperties" = 256))]
        pub annotations: BTreeMap<String, String>,
    }

    /// How health is probed.
    #[schemars(transform = crate::schema::one_of_probe)]
    pub struct ReadinessProbe {
        /// Pause before the first probe.
        #[schemars(range(min = 0))]
        pub initial_delay_seconds: i32,
        /// How long an answer may take, 1 by default.
        #[schemars(range(min = 0))]
        pub timeout_seconds: i32,
        /// Pause between probes, 10 by default.
        #[schemars(range(min = 0))]
        pub period_seconds: i32,
        /// Good probes in a row to be ready, 1 by default.
        #[schemars(range(min = 0))]
        pub success_threshold: i32,
        /// Bad probes in a row to be unready, 3 by default.
        #[schemars(range(min = 0))]
        pub failure_threshold: i32,
        /// An HTTP request.
        pub http_get: Option<HttpHealthCheck>,
        /// A connection.
        pub tcp_socket: Option<TcpHealthCheck>,
        /// A command.
        pub exec: Option<ExecHealthCheck>,
        /// A gRPC health request.
        pub grpc: Option<GrpcHealthCheck>,
    }

    /// A probe by HTTP.
    #[schemars(extend("required" = ["port"]))]
    pub struct HttpHealthCheck {
        /// Path.
        pub path: String,
        /// Port.
        #[schemars(schema_with = "crate::schema::port")]
        pub port: u32,
        /// Host; the workload by default.
        pub host: String,
        /// `HTTP` or `HTTPS`.
        #[schemars(extend("x-kubernetes-validations" = [
            {"rule": "self in [\"\", \"HTTP\", \"HTTPS\"]", "message": "must be HTTP or HTTPS"},
        ]))]
        pub scheme: String,
        /// Headers.
        pub http_headers: Vec<HttpHeader>,
    }

    /// A header of a probe.
    pub struct HttpHeader {
        /// Name.
        #[schemars(regex(pattern = "^[-_A-Za-z0-9]+$"))]
        pub name: String,
        /// Value.
        pub value: String,
    }

    /// A probe by connecting.
    #[schemars(extend("required" = ["port"]))]
    pub struct TcpHealthCheck {
        /// Host; the workload by default.
        pub host: String,
        /// Port.
        #[schemars(schema_with = "crate::schema::port")]
        pub port: u32,
    }

    /// A probe by a command.
    #[schemars(extend("required" = ["command"]))]
    pub struct ExecHealthCheck {
        /// Command and arguments.
        #[schemars(inner(length(min = 1)))]
        pub command: Vec<String>,
    }

    /// A probe by gRPC.
    pub struct GrpcHealthCheck {
        /// Port.
        #[schemars(schema_with = "crate::schema::port")]
        pub port: u32,
        /// Service name to ask for.
        pub service: String,
    }
}

/// A template has no address yet, so the rule that asks for one is taken out.
fn without_address_rule(schema: &mut schemars::Schema) {
    if let Some(serde_json::Value::Array(rules)) = schema.get_mut("x-kubernetes-validations") {
        rules.retain(|rule| !rule["rule"].as_str().unwrap_or_default().contains("self.network"));
    }
}

resource!(
    WorkloadEntry, "networking.istio.io", versions!("v1", "v1beta1", "v1alpha3"), "workloadentries", "workloadentry",
    short: ["we"], category: "networking-istio-io", spec_required: true,
    columns: [
        "Age" "date" ".metadata.creationTimestamp" "Time since creation",
        "Address" "string" ".spec.address" "Address of the workload"
    ]
);

resource!(
    WorkloadGroup, "networking.istio.io", versions!("v1", "v1beta1", "v1alpha3"), "workloadgroups", "workloadgroup",
    short: ["wg"], category: "networking-istio-io", spec_required: true,
    columns: ["Age" "date" ".metadata.creationTimestamp" "Time since creation"]
);
