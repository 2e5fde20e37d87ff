//! Kinds of `telemetry.istio.io`: what the proxies report.

use std::collections::BTreeMap;

use crate::meta::{resource, versions};
use crate::selection::{LabelSelector, PolicyTargetReference};
use crate::{Double, Duration};

message! {
    /// Says which traces, metrics and logs the proxies of some workloads report.
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "(has(self.selector) ? 1 : 0) + (has(self.targetRef) ? 1 : 0) + (has(self.targetRefs) ? 1 : 0) <= 1",
        "message": "set only one of selector, targetRef and targetRefs",
    }]))]
    pub struct Telemetry {
        /// Workloads; without it, all of the namespace.
        pub selector: Option<LabelSelector>,
        /// Object that it is attached to.
        pub target_ref: Option<PolicyTargetReference>,
        /// Objects that it is attached to.
        #[schemars(length(max = 16))]
        pub target_refs: Vec<PolicyTargetReference>,
        /// Traces.
        pub tracing: Vec<Tracing>,
        /// Metrics.
        pub metrics: Vec<Metrics>,
        /// Access logs.
        pub access_logging: Vec<AccessLogging>,
    }

    /// Traces.
    pub struct Tracing {
        /// Which direction of traffic.
        pub r#match: Option<TracingSelector>,
        /// Where traces go.
        pub providers: Vec<ProviderRef>,
        /// Share of requests, in percent, that are traced when the request does not say.
        #[schemars(range(min = 0, max = 100), extend("nullable" = true))]
        pub random_sampling_percentage: Option<Double>,
        /// Stops reporting of spans.
        #[schemars(extend("nullable" = true))]
        pub disable_span_reporting: Option<bool>,
        /// Stops adding trace headers to requests.
        #[schemars(extend("nullable" = true))]
        pub disable_context_propagation: Option<bool>,
        /// Tags that every span gets, by name.
        pub custom_tags: BTreeMap<String, CustomTag>,
        /// Whether x-request-id decides about tracing; yes by default.
        #[schemars(extend("nullable" = true))]
        pub use_request_id_for_trace_sampling: Option<bool>,
        /// Whether spans get the mesh's own tags; yes by default.
        #[schemars(extend("nullable" = true))]
        pub enable_istio_tags: Option<bool>,
    }

    /// Which direction of traffic is traced.
    pub struct TracingSelector {
        /// Direction.
        pub mode: WorkloadMode,
    }

    /// A tag of a span.
    #[schemars(transform = crate::schema::one_of_custom_tag)]
    pub struct CustomTag {
        /// A fixed value.
        pub literal: Option<LiteralTag>,
        /// An environment variable of the proxy.
        pub environment: Option<EnvironmentTag>,
        /// A header of the request.
        pub header: Option<HeaderTag>,
        /// A format of the access log.
        pub formatter: Option<FormatterTag>,
    }

    /// A fixed value.
    #[schemars(extend("required" = ["value"]))]
    pub struct LiteralTag {
        /// Value.
        #[schemars(length(min = 1))]
        pub value: String,
    }

    /// An environment variable.
    #[schemars(extend("required" = ["name"]))]
    pub struct EnvironmentTag {
        /// Name.
        #[schemars(length(min = 1))]
        pub name: String,
        /// Value where it is not set.
        pub default_value: String,
    }

    /// A header of the request.
    #[schemars(extend("required" = ["name"]))]
    pub struct HeaderTag {
        /// Name.
        #[schemars(length(min = 1))]
        pub name: String,
        /// Value where it is missing.
        pub default_value: String,
    }

    /// A format of the access log.
    #[schemars(extend("required" = ["value"]))]
    pub struct FormatterTag {
        /// Format, such as `%REQ(x-tag)%`.
        #[schemars(length(min = 1))]
        pub value: String,
    }

    /// An extension provider of the mesh configuration.
    #[schemars(extend("required" = ["name"]))]
    pub struct ProviderRef {
        /// Name.
        #[schemars(length(min = 1))]
        pub name: String,
    }

    /// Metrics.
    pub struct Metrics {
        /// Where metrics go.
        pub providers: Vec<ProviderRef>,
        /// Changes to single metrics.
        pub overrides: Vec<MetricsOverrides>,
        /// How often metrics are pushed.
        pub reporting_interval: Option<Duration>,
    }

    /// Changes to metrics.
    pub struct MetricsOverrides {
        /// Which metrics.
        pub r#match: Option<MetricSelector>,
        /// Turns them off.
        #[schemars(extend("nullable" = true))]
        pub disabled: Option<bool>,
        /// Labels to add, change or remove, by name.
        pub tag_overrides: BTreeMap<String, TagOverride>,
    }

    /// Which metrics.
    #[schemars(transform = crate::schema::one_of_metric)]
    pub struct MetricSelector {
        /// One of the mesh's metrics.
        pub metric: Option<IstioMetric>,
        /// A metric by name.
        #[schemars(length(min = 1))]
        pub custom_metric: Option<String>,
        /// Direction of traffic.
        pub mode: WorkloadMode,
    }

    /// A change to a label of a metric.
    #[schemars(extend("x-kubernetes-validations" = [
        {
            "rule": "((has(self.operation) ? self.operation : \"\") == \"UPSERT\") ? (self.value != \"\") : true",
            "message": "operation UPSERT needs a value",
        },
        {
            "rule": "((has(self.operation) ? self.operation : \"\") == \"REMOVE\") ? !has(self.value) : true",
            "message": "operation REMOVE has no value",
        },
    ]))]
    pub struct TagOverride {
        /// What is done.
        pub operation: TagOperation,
        /// CEL expression for the label's value.
        pub value: String,
    }

    /// Access logs.
    pub struct AccessLogging {
        /// Which direction of traffic.
        pub r#match: Option<LogSelector>,
        /// Where logs go.
        pub providers: Vec<ProviderRef>,
        /// Turns them off.
        #[schemars(extend("nullable" = true))]
        pub disabled: Option<bool>,
        /// Which requests are logged; all by default.
        pub filter: Option<AccessLogFilter>,
    }

    /// Which direction of traffic is logged.
    pub struct LogSelector {
        /// Direction.
        pub mode: WorkloadMode,
    }

    /// Which requests are logged.
    pub struct AccessLogFilter {
        /// CEL expression that must be true.
        pub expression: String,
    }
}

enumeration! {
    /// Direction of traffic, from the workload's view.
    pub enum WorkloadMode { #[default] ClientAndServer, Client, Server }

    /// What is done to a label.
    pub enum TagOperation { #[default] Upsert, Remove }

    /// The mesh's metrics.
    pub enum IstioMetric {
        #[default]
        AllMetrics,
        RequestCount,
        RequestDuration,
        RequestSize,
        ResponseSize,
        TcpOpenedConnections,
        TcpClosedConnections,
        TcpSentBytes,
        TcpReceivedBytes,
        GrpcRequestMessages,
        GrpcResponseMessages,
    }
}

resource!(
    Telemetry, "telemetry.istio.io", versions!("v1alpha1", "v1"), "telemetries", "telemetry",
    short: ["telemetry"], category: "telemetry-istio-io", spec_required: false,
    columns: ["Age" "date" ".metadata.creationTimestamp" "Time since creation"]
);
