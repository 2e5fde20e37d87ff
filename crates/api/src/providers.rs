//! Extension providers of `MeshConfig`: where traces, logs and questions of authorization go
//! (`istio.mesh.v1alpha1.MeshConfig.ExtensionProvider`).

use std::collections::BTreeMap;

use crate::{Duration, JsonObject};

message! {
    /// One provider: a name and one of the others.
    pub struct ExtensionProvider {
        /// What Telemetries and AuthorizationPolicies call it.
        pub name: String,
        /// Asks a service over HTTP whether a request may pass.
        pub envoy_ext_authz_http: Option<ExternalAuthorizationHttp>,
        /// Asks a service over gRPC whether a request may pass.
        pub envoy_ext_authz_grpc: Option<ExternalAuthorizationGrpc>,
        /// Traces to Zipkin.
        pub zipkin: Option<ZipkinProvider>,
        /// Traces to Lightstep; deprecated.
        pub lightstep: Option<LightstepProvider>,
        /// Traces to Datadog.
        pub datadog: Option<DatadogProvider>,
        /// Traces, metrics and logs to Stackdriver.
        pub stackdriver: Option<StackdriverProvider>,
        /// Traces to OpenCensus; deprecated.
        pub opencensus: Option<OpenCensusProvider>,
        /// Traces to SkyWalking.
        pub skywalking: Option<SkyWalkingProvider>,
        /// Traces to OpenTelemetry.
        pub opentelemetry: Option<OpenTelemetryProvider>,
        /// Metrics for Prometheus.
        pub prometheus: Option<JsonObject>,
        /// Logs to a file.
        pub envoy_file_access_log: Option<FileAccessLogProvider>,
        /// Logs of requests to a gRPC service.
        pub envoy_http_als: Option<HttpAccessLogService>,
        /// Logs of connections to a gRPC service.
        pub envoy_tcp_als: Option<TcpAccessLogService>,
        /// Logs to OpenTelemetry.
        pub envoy_otel_als: Option<OpenTelemetryAccessLogService>,
        /// Secrets from a service of one's own.
        pub sds: Option<SecretProvider>,
    }

    /// Asks a service over HTTP.
    pub struct ExternalAuthorizationHttp {
        /// The service: `namespace/host` or a host.
        pub service: String,
        /// Its port.
        pub port: u32,
        /// How long an answer may take, 600 ms by default.
        pub timeout: Option<Duration>,
        /// What the path of the question begins with.
        pub path_prefix: String,
        /// Whether requests pass if the service fails.
        pub fail_open: bool,
        /// Whether the route is chosen anew after the answer.
        pub clear_route_cache: bool,
        /// The status of requests that are refused because the service failed.
        pub status_on_error: String,
        /// The old name of `includeRequestHeadersInCheck`.
        pub include_headers_in_check: Vec<String>,
        /// Headers of the request that the service sees.
        pub include_request_headers_in_check: Vec<String>,
        /// Headers that the service sees besides.
        pub include_additional_headers_in_check: BTreeMap<String, String>,
        /// How much of the body the service sees.
        pub include_request_body_in_check: Option<RequestBody>,
        /// Headers of the answer that go on with the request.
        pub headers_to_upstream_on_allow: Vec<String>,
        /// Headers of the answer that the refused client gets.
        pub headers_to_downstream_on_deny: Vec<String>,
        /// Headers of the answer that the accepted client gets.
        pub headers_to_downstream_on_allow: Vec<String>,
    }

    /// Asks a service over gRPC.
    pub struct ExternalAuthorizationGrpc {
        /// The service: `namespace/host` or a host.
        pub service: String,
        /// Its port.
        pub port: u32,
        /// How long an answer may take, 600 ms by default.
        pub timeout: Option<Duration>,
        /// Whether requests pass if the service fails.
        pub fail_open: bool,
        /// Whether the route is chosen anew after the answer.
        pub clear_route_cache: bool,
        /// The status of requests that are refused because the service failed.
        pub status_on_error: String,
        /// How much of the body the service sees.
        pub include_request_body_in_check: Option<RequestBody>,
    }

    /// How much of a request's body a service sees.
    pub struct RequestBody {
        /// At most so many bytes.
        pub max_request_bytes: u32,
        /// Whether longer bodies are cut, and not refused.
        pub allow_partial_message: bool,
        /// Whether the body is bytes, and not a text.
        pub pack_as_bytes: bool,
    }

    /// Traces to Zipkin.
    pub struct ZipkinProvider {
        /// The service.
        pub service: String,
        /// Its port.
        pub port: u32,
        /// Longest path in a tag.
        pub max_tag_length: u32,
        /// Whether ids of traces have 64 bits.
        #[serde(rename = "enable64bitTraceId")]
        pub enable_64bit_trace_id: bool,
        /// Where traces go, `/api/v2/spans` by default.
        pub path: String,
        /// Which headers carry the trace.
        pub trace_context_option: TraceContextOption,
        /// How long sending may take.
        pub timeout: Option<Duration>,
        /// Headers of what is sent.
        pub headers: Vec<HttpHeader>,
    }

    /// Traces to Lightstep.
    pub struct LightstepProvider {
        /// The service.
        pub service: String,
        /// Its port.
        pub port: u32,
        /// What it is to be trusted by.
        pub access_token: String,
        /// Longest path in a tag.
        pub max_tag_length: u32,
    }

    /// Traces to Datadog.
    pub struct DatadogProvider {
        /// The service.
        pub service: String,
        /// Its port.
        pub port: u32,
        /// Longest path in a tag.
        pub max_tag_length: u32,
    }

    /// Traces, metrics and logs to Stackdriver.
    pub struct StackdriverProvider {
        /// Longest path in a tag.
        pub max_tag_length: u32,
        /// What logs say.
        pub logging: Option<JsonObject>,
        /// Whether traces are printed; deprecated.
        pub debug: bool,
        /// Limits of traces; deprecated.
        pub max_number_of_attributes: Option<i64>,
        /// Limits of traces; deprecated.
        pub max_number_of_annotations: Option<i64>,
        /// Limits of traces; deprecated.
        pub max_number_of_message_events: Option<i64>,
    }

    /// Traces to OpenCensus.
    pub struct OpenCensusProvider {
        /// The service.
        pub service: String,
        /// Its port.
        pub port: u32,
        /// Which headers carry the trace.
        pub context: Vec<String>,
        /// Longest path in a tag.
        pub max_tag_length: u32,
    }

    /// Traces to SkyWalking.
    pub struct SkyWalkingProvider {
        /// The service.
        pub service: String,
        /// Its port.
        pub port: u32,
        /// What it is to be trusted by.
        pub access_token: String,
    }

    /// Traces to OpenTelemetry, over gRPC or HTTP.
    pub struct OpenTelemetryProvider {
        /// The service.
        pub service: String,
        /// Its port.
        pub port: u32,
        /// Longest path in a tag.
        pub max_tag_length: u32,
        /// Over HTTP.
        pub http: Option<OpenTelemetryHttp>,
        /// Over gRPC.
        pub grpc: Option<OpenTelemetryGrpc>,
        /// What a trace says of where it is from.
        pub resource_detectors: Option<JsonObject>,
        /// Dynatrace's choice of traces.
        pub dynatrace_sampler: Option<JsonObject>,
    }

    /// OpenTelemetry over HTTP.
    pub struct OpenTelemetryHttp {
        /// Where traces go.
        pub path: String,
        /// How long sending may take.
        pub timeout: Option<Duration>,
        /// Headers of what is sent.
        pub headers: Vec<HttpHeader>,
    }

    /// OpenTelemetry over gRPC.
    pub struct OpenTelemetryGrpc {
        /// How long sending may take.
        pub timeout: Option<Duration>,
        /// Metadata of what is sent.
        pub initial_metadata: Vec<HttpHeader>,
    }

    /// A header.
    pub struct HttpHeader {
        /// Its name.
        pub name: String,
        /// Its value.
        pub value: String,
        /// A variable of the proxy's environment that has its value.
        pub env_name: String,
    }

    /// Logs to a file.
    pub struct FileAccessLogProvider {
        /// The file.
        pub path: String,
        /// What a line looks like.
        pub log_format: Option<LogFormat>,
        /// Whether values that are absent are left out.
        pub omit_empty_values: Option<bool>,
    }

    /// What a line of a log looks like: one of the two.
    pub struct LogFormat {
        /// A text with commands.
        pub text: String,
        /// Fields with commands.
        pub labels: Option<JsonObject>,
    }

    /// Logs of requests to a gRPC service.
    pub struct HttpAccessLogService {
        /// The service.
        pub service: String,
        /// Its port.
        pub port: u32,
        /// What the log is called.
        pub log_name: String,
        /// State of filters that is logged.
        pub filter_state_objects_to_log: Vec<String>,
        /// Headers of requests that are logged.
        pub additional_request_headers_to_log: Vec<String>,
        /// Headers of responses that are logged.
        pub additional_response_headers_to_log: Vec<String>,
        /// Trailers of responses that are logged.
        pub additional_response_trailers_to_log: Vec<String>,
    }

    /// Logs of connections to a gRPC service.
    pub struct TcpAccessLogService {
        /// The service.
        pub service: String,
        /// Its port.
        pub port: u32,
        /// What the log is called.
        pub log_name: String,
        /// State of filters that is logged.
        pub filter_state_objects_to_log: Vec<String>,
    }

    /// Logs to OpenTelemetry.
    pub struct OpenTelemetryAccessLogService {
        /// The service.
        pub service: String,
        /// Its port.
        pub port: u32,
        /// What the log is called.
        pub log_name: String,
        /// What an entry looks like.
        pub log_format: Option<LogFormat>,
    }

    /// Secrets from a service of one's own.
    pub struct SecretProvider {
        /// What credentials call it.
        pub name: String,
        /// The service.
        pub service: String,
        /// Its port.
        pub port: u32,
    }

    /// Providers of Telemetries that name none.
    pub struct DefaultProviders {
        /// For traces.
        pub tracing: Vec<String>,
        /// For metrics.
        pub metrics: Vec<String>,
        /// For logs.
        pub access_logging: Vec<String>,
    }
}

enumeration! {
    /// Which headers carry a trace.
    pub enum TraceContextOption { #[default] UseB3, UseB3WithW3cPropagation }
}
