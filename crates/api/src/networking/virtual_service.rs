//! VirtualService: where requests to a host go.

use std::collections::BTreeMap;

use crate::meta::{resource, versions};
use crate::{Double, Duration};

message! {
    /// Says where requests to certain hosts go: by path, header, weight and so on.
    pub struct VirtualService {
        /// Host names, wildcards (`*.example.com`) or addresses that the rules are for. Short names are of this namespace.
        pub hosts: Vec<String>,
        /// Gateways and sidecars that apply the rules; `mesh`, the default, means all sidecars.
        pub gateways: Vec<String>,
        /// Rules for HTTP, tried in order.
        pub http: Vec<HttpRoute>,
        /// Rules for TLS that is passed through, chosen by SNI.
        pub tls: Vec<TlsRoute>,
        /// Rules for TCP.
        pub tcp: Vec<TcpRoute>,
        /// Namespaces that see this object: `*` all, `.` its own.
        pub export_to: Vec<String>,
    }

    /// A rule for HTTP: what it matches and what then happens.
    #[schemars(transform = mirror_percent_alias)]
    pub struct HttpRoute {
        /// Name, for logs and statistics.
        pub name: String,
        /// Conditions; one of them must hold. Without any, every request matches.
        pub r#match: Vec<HttpMatchRequest>,
        /// Destinations, by weight.
        pub route: Vec<HttpRouteDestination>,
        /// Answers with a redirect instead of forwarding.
        pub redirect: Option<HttpRedirect>,
        /// Answers with a fixed response instead of forwarding.
        pub direct_response: Option<HttpDirectResponse>,
        /// Another VirtualService that holds the rules below this match.
        pub delegate: Option<Delegate>,
        /// Changes path or authority before forwarding.
        pub rewrite: Option<HttpRewrite>,
        /// How long a request may take in all; none by default.
        pub timeout: Option<Duration>,
        /// What is tried again.
        pub retries: Option<HttpRetry>,
        /// Delays and errors injected on purpose.
        pub fault: Option<HttpFaultInjection>,
        /// Sends a copy of each request there and ignores the answer.
        pub mirror: Option<Destination>,
        /// Old form of mirrorPercentage.
        #[serde(alias = "mirror_percent")]
        #[schemars(extend("nullable" = true))]
        pub mirror_percent: Option<u32>,
        /// Share of the requests that is mirrored; all by default.
        pub mirror_percentage: Option<Percent>,
        /// Several mirrors, each with a share.
        pub mirrors: Vec<HttpMirrorPolicy>,
        /// Cross-origin resource sharing.
        pub cors_policy: Option<CorsPolicy>,
        /// Headers to set, add or remove.
        pub headers: Option<Headers>,
    }

    /// A condition on a request; all that is given must hold.
    pub struct HttpMatchRequest {
        /// Name, for logs and statistics.
        pub name: String,
        /// Path.
        pub uri: Option<StringMatch>,
        /// Scheme, `http` or `https`.
        pub scheme: Option<StringMatch>,
        /// Method.
        pub method: Option<StringMatch>,
        /// Authority (the Host header).
        pub authority: Option<StringMatch>,
        /// Headers, by lower-case name; an empty condition asks for presence.
        pub headers: BTreeMap<String, StringMatch>,
        /// Headers that must not match.
        pub without_headers: BTreeMap<String, StringMatch>,
        /// Query parameters, by name.
        pub query_params: BTreeMap<String, StringMatch>,
        /// Whether upper and lower case of the path are the same. Not for regular expressions.
        pub ignore_uri_case: bool,
        /// Port of the request.
        pub port: u32,
        /// Labels of the client's workload.
        pub source_labels: BTreeMap<String, String>,
        /// Namespace of the client's workload.
        pub source_namespace: String,
        /// Gateways that apply this condition, instead of those of the whole object.
        pub gateways: Vec<String>,
        /// Prefix of the statistics of this route.
        pub stat_prefix: String,
    }

    /// A destination and its share of the requests.
    #[schemars(extend("required" = ["destination"]))]
    pub struct HttpRouteDestination {
        /// Service, subset and port.
        pub destination: Destination,
        /// Share among the destinations of this rule; a single one needs none.
        pub weight: i32,
        /// Headers to set, add or remove for this destination.
        pub headers: Option<Headers>,
    }

    /// Where requests go.
    #[schemars(extend("required" = ["host"]))]
    pub struct Destination {
        /// Service name. Short names are of the rule's namespace.
        pub host: String,
        /// Subset that a DestinationRule defines.
        pub subset: String,
        /// Port; needed where the service has several.
        pub port: Option<PortSelector>,
    }

    /// A port by its number.
    pub struct PortSelector {
        /// Number.
        pub number: u32,
    }

    /// A condition on a text. An empty one asks for presence only.
    #[schemars(transform = crate::schema::one_of_string_match)]
    pub struct StringMatch {
        /// The whole text.
        pub exact: Option<String>,
        /// How the text begins.
        pub prefix: Option<String>,
        /// Regular expression (RE2) that the whole text matches.
        pub regex: Option<String>,
    }

    /// Redirects instead of forwarding.
    #[schemars(transform = crate::schema::one_of_redirect_port)]
    pub struct HttpRedirect {
        /// New path.
        pub uri: String,
        /// Replaces the prefix that matched.
        pub prefix_rewrite: String,
        /// New authority.
        pub authority: String,
        /// New port.
        pub port: Option<u32>,
        /// Takes the port from the protocol or from the request.
        pub derive_port: Option<RedirectPortSelection>,
        /// New scheme.
        pub scheme: String,
        /// Status code, 301 by default.
        pub redirect_code: u32,
    }

    /// A fixed answer.
    #[schemars(extend("required" = ["status"]))]
    pub struct HttpDirectResponse {
        /// Status code.
        pub status: u32,
        /// Body; none by default.
        pub body: Option<HttpBody>,
    }

    /// A fixed body.
    #[schemars(transform = crate::schema::one_of_body)]
    pub struct HttpBody {
        /// As text.
        pub string: Option<String>,
        /// In base64.
        #[schemars(extend("format" = "byte"))]
        pub bytes: Option<String>,
    }

    /// Another VirtualService.
    pub struct Delegate {
        /// Name.
        pub name: String,
        /// Namespace; that of the rule by default.
        pub namespace: String,
    }

    /// Changes a request before forwarding.
    pub struct HttpRewrite {
        /// Replaces the path, or the prefix that matched.
        pub uri: String,
        /// Replaces the authority.
        pub authority: String,
        /// Rewrites the path by a regular expression.
        pub uri_regex_rewrite: Option<RegexRewrite>,
    }

    /// A rewrite by regular expression.
    pub struct RegexRewrite {
        /// Regular expression (RE2).
        pub r#match: String,
        /// Replacement; `\1` is the first group.
        pub rewrite: String,
    }

    /// What is tried again, and how often.
    pub struct HttpRetry {
        /// Number of retries; 0 turns them off.
        pub attempts: i32,
        /// How long each try may take.
        pub per_try_timeout: Option<Duration>,
        /// Conditions, such as `5xx,connect-failure` or status codes.
        pub retry_on: String,
        /// Whether retries may leave the locality.
        #[schemars(extend("nullable" = true))]
        pub retry_remote_localities: Option<bool>,
        /// Whether retries avoid the hosts that were tried; yes by default.
        #[schemars(extend("nullable" = true))]
        pub retry_ignore_previous_hosts: Option<bool>,
        /// First pause between tries.
        pub backoff: Option<Duration>,
    }

    /// Errors made on purpose.
    pub struct HttpFaultInjection {
        /// Delays requests.
        pub delay: Option<FaultDelay>,
        /// Answers requests with an error.
        pub abort: Option<FaultAbort>,
    }

    /// A delay before forwarding.
    #[schemars(transform = crate::schema::one_of_delay)]
    pub struct FaultDelay {
        /// How long.
        pub fixed_delay: Option<Duration>,
        /// Mean of an exponential distribution. Not implemented by Istio either.
        pub exponential_delay: Option<Duration>,
        /// Old form of percentage, in whole percent.
        pub percent: i32,
        /// Share of the requests; all by default.
        pub percentage: Option<Percent>,
    }

    /// An error instead of forwarding.
    #[schemars(transform = crate::schema::one_of_abort)]
    pub struct FaultAbort {
        /// HTTP status code.
        pub http_status: Option<i32>,
        /// gRPC status by name, such as `UNAVAILABLE`.
        pub grpc_status: Option<String>,
        /// HTTP/2 error. Not implemented by Istio either.
        pub http2_error: Option<String>,
        /// Share of the requests; all by default.
        pub percentage: Option<Percent>,
    }

    /// A share from 0 to 100.
    pub struct Percent {
        /// Percent, with fractions.
        pub value: Double,
    }

    /// A mirror and its share.
    #[schemars(extend("required" = ["destination"]))]
    pub struct HttpMirrorPolicy {
        /// Where copies go.
        pub destination: Destination,
        /// Share of the requests; all by default.
        pub percentage: Option<Percent>,
    }

    /// Cross-origin resource sharing.
    pub struct CorsPolicy {
        /// Old form of allowOrigins: whole origins.
        pub allow_origin: Vec<String>,
        /// Origins that may ask.
        pub allow_origins: Vec<StringMatch>,
        /// Methods that may be used.
        pub allow_methods: Vec<String>,
        /// Headers that may be sent.
        pub allow_headers: Vec<String>,
        /// Headers that scripts may read.
        pub expose_headers: Vec<String>,
        /// How long a browser may keep the answer.
        pub max_age: Option<Duration>,
        /// Whether credentials may be sent.
        #[schemars(extend("nullable" = true))]
        pub allow_credentials: Option<bool>,
        /// What happens to preflights that match no origin.
        pub unmatched_preflights: UnmatchedPreflights,
    }

    /// Changes to headers.
    pub struct Headers {
        /// Of the request, before forwarding.
        pub request: Option<HeaderOperations>,
        /// Of the response, before answering.
        pub response: Option<HeaderOperations>,
    }

    /// Changes to a set of headers.
    pub struct HeaderOperations {
        /// Replaces the header.
        pub set: BTreeMap<String, String>,
        /// Adds a value to the header.
        pub add: BTreeMap<String, String>,
        /// Takes the header away.
        pub remove: Vec<String>,
    }

    /// A rule for TLS that is passed through.
    #[schemars(extend("required" = ["match"]))]
    pub struct TlsRoute {
        /// Conditions; one of them must hold.
        pub r#match: Vec<TlsMatchAttributes>,
        /// Destinations, by weight.
        pub route: Vec<RouteDestination>,
    }

    /// A condition on a TLS connection.
    #[schemars(extend("required" = ["sniHosts"]))]
    pub struct TlsMatchAttributes {
        /// Server names, possibly with a wildcard; each must fit a host of the VirtualService.
        pub sni_hosts: Vec<String>,
        /// Destination addresses as CIDR.
        pub destination_subnets: Vec<String>,
        /// Port.
        pub port: u32,
        /// Labels of the client's workload.
        pub source_labels: BTreeMap<String, String>,
        /// Gateways that apply this condition.
        pub gateways: Vec<String>,
        /// Namespace of the client's workload.
        pub source_namespace: String,
    }

    /// A rule for TCP.
    pub struct TcpRoute {
        /// Conditions; one of them must hold. Without any, every connection matches.
        pub r#match: Vec<L4MatchAttributes>,
        /// Destinations, by weight.
        pub route: Vec<RouteDestination>,
    }

    /// A condition on a TCP connection.
    pub struct L4MatchAttributes {
        /// Destination addresses as CIDR.
        pub destination_subnets: Vec<String>,
        /// Port.
        pub port: u32,
        /// Source addresses as CIDR.
        pub source_subnet: String,
        /// Labels of the client's workload.
        pub source_labels: BTreeMap<String, String>,
        /// Gateways that apply this condition.
        pub gateways: Vec<String>,
        /// Namespace of the client's workload.
        pub source_namespace: String,
    }

    /// A destination of connections and its share.
    #[schemars(extend("required" = ["destination"]))]
    pub struct RouteDestination {
        /// Service, subset and port.
        pub destination: Destination,
        /// Share among the destinations of this rule.
        pub weight: i32,
    }
}

fn mirror_percent_alias(schema: &mut schemars::Schema) {
    crate::schema::alias(schema, "mirrorPercent", "mirror_percent");
}

enumeration! {
    /// Where a redirect takes its port from.
    pub enum RedirectPortSelection { #[default] FromProtocolDefault, FromRequestPort }

    /// What happens to CORS preflights that match no origin.
    pub enum UnmatchedPreflights { #[default] Unspecified, Forward, Ignore }
}

resource!(
    VirtualService, "networking.istio.io", versions!("v1", "v1beta1", "v1alpha3"), "virtualservices", "virtualservice",
    short: ["vs"], category: "networking-istio-io", spec_required: false,
    columns: [
        "Gateways" "string" ".spec.gateways" "Gateways and sidecars that apply the rules",
        "Hosts" "string" ".spec.hosts" "Hosts that the rules are for",
        "Age" "date" ".metadata.creationTimestamp" "Time since creation"
    ]
);

/// What [`FaultAbort::grpc_status`] may say; a name's position is its number (gRPC's "Status codes and their use").
pub const GRPC_STATUS_NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
