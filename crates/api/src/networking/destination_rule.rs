//! DestinationRule: what applies to traffic once its destination is known.

use std::collections::BTreeMap;

use crate::meta::{resource, versions};
use crate::networking::PortSelector;
use crate::selection::LabelSelector;
use crate::{Double, Duration};

message! {
    /// Says how connections to a service are made: subsets, load balancing, pools, ejection of bad hosts, TLS.
    #[schemars(extend("required" = ["host"]))]
    pub struct DestinationRule {
        /// Service name or wildcard that the rule is for. Short names are of this namespace.
        pub host: String,
        /// Policy for all subsets and ports.
        pub traffic_policy: Option<TrafficPolicy>,
        /// Named parts of the service's workloads.
        pub subsets: Vec<Subset>,
        /// Namespaces that see this object: `*` all, `.` its own.
        pub export_to: Vec<String>,
        /// Client workloads that apply the rule; all by default.
        pub workload_selector: Option<LabelSelector>,
    }

    /// A named part of a service's workloads.
    #[schemars(extend("required" = ["name"]))]
    pub struct Subset {
        /// Name, which routes refer to.
        pub name: String,
        /// Labels of the workloads.
        pub labels: BTreeMap<String, String>,
        /// Policy that overrides the rule's.
        pub traffic_policy: Option<TrafficPolicy>,
    }

    /// How connections are made.
    pub struct TrafficPolicy {
        /// Which endpoint is chosen.
        pub load_balancer: Option<LoadBalancerSettings>,
        /// How many connections and requests there may be.
        pub connection_pool: Option<ConnectionPoolSettings>,
        /// When an endpoint is set aside.
        pub outlier_detection: Option<OutlierDetection>,
        /// TLS to the endpoints.
        pub tls: Option<ClientTlsSettings>,
        /// Policies of single ports; nothing is inherited from this level.
        #[schemars(length(max = 4096))]
        pub port_level_settings: Vec<PortTrafficPolicy>,
        /// Tunnels TCP through a proxy.
        pub tunnel: Option<TunnelSettings>,
        /// Sends the PROXY protocol header.
        pub proxy_protocol: Option<ProxyProtocol>,
        /// Limits concurrent retries to a share of the requests.
        pub retry_budget: Option<RetryBudget>,
    }

    /// The policy of one port.
    pub struct PortTrafficPolicy {
        /// The port of the service.
        pub port: Option<PortSelector>,
        /// Which endpoint is chosen.
        pub load_balancer: Option<LoadBalancerSettings>,
        /// How many connections and requests there may be.
        pub connection_pool: Option<ConnectionPoolSettings>,
        /// When an endpoint is set aside.
        pub outlier_detection: Option<OutlierDetection>,
        /// TLS to the endpoints.
        pub tls: Option<ClientTlsSettings>,
    }

    /// Which endpoint is chosen.
    #[schemars(transform = crate::schema::one_of_balancer)]
    pub struct LoadBalancerSettings {
        /// An algorithm without settings.
        pub simple: Option<SimpleLoadBalancer>,
        /// Chooses by a hash of the request, so that like requests go to the same endpoint.
        pub consistent_hash: Option<ConsistentHash>,
        /// Chooses by the load that endpoints report.
        pub backend_utilization: Option<BackendUtilization>,
        /// Preference for near endpoints.
        pub locality_lb_setting: Option<LocalityLoadBalancerSetting>,
        /// Spreads over zones by the size of the client's zone.
        pub zone_aware_lb_setting: Option<ZoneAwareLoadBalancerSetting>,
        /// Old form of warmup.
        pub warmup_duration_secs: Option<Duration>,
        /// Lets a new endpoint's share grow slowly.
        pub warmup: Option<Warmup>,
    }

    /// Choice by a hash.
    #[schemars(transform = crate::schema::one_of_hash)]
    pub struct ConsistentHash {
        /// Hashes this header.
        pub http_header_name: Option<String>,
        /// Hashes a cookie, made where it is missing.
        pub http_cookie: Option<HttpCookie>,
        /// Hashes the client's address.
        pub use_source_ip: Option<bool>,
        /// Hashes this query parameter.
        pub http_query_parameter_name: Option<String>,
        /// Ring hash.
        pub ring_hash: Option<RingHash>,
        /// Maglev.
        pub maglev: Option<Maglev>,
        /// Old form of ringHash.minimumRingSize.
        pub minimum_ring_size: u64,
    }

    /// A cookie to hash.
    #[schemars(extend("required" = ["name"]))]
    pub struct HttpCookie {
        /// Name.
        pub name: String,
        /// Path.
        pub path: String,
        /// Life time; 0 makes a session cookie. Without it, no cookie is made.
        #[schemars(schema_with = "crate::schema::duration_or_zero")]
        pub ttl: Option<Duration>,
        /// More attributes.
        pub attributes: Vec<HttpCookieAttribute>,
    }

    /// An attribute of a cookie.
    #[schemars(extend("required" = ["name"]))]
    pub struct HttpCookieAttribute {
        /// Name.
        pub name: String,
        /// Value.
        pub value: String,
    }

    /// Ring hash's settings.
    pub struct RingHash {
        /// Least number of points on the ring, 1024 by default.
        pub minimum_ring_size: u64,
    }

    /// Maglev's settings.
    pub struct Maglev {
        /// Size of the table, a prime, 65537 by default.
        pub table_size: u64,
    }

    /// Choice by reported load.
    pub struct BackendUtilization {
        /// How long a new endpoint's report is not believed.
        #[schemars(schema_with = "crate::schema::duration_or_zero")]
        pub weight_stabilization_period: Option<Duration>,
        /// How long a report is believed.
        #[schemars(schema_with = "crate::schema::duration_or_zero")]
        pub weight_expiration_period: Option<Duration>,
        /// How often weights are computed.
        #[schemars(schema_with = "crate::schema::duration_or_zero")]
        pub weight_update_period: Option<Duration>,
        /// How strongly errors lower a weight.
        pub error_utilization_penalty_percent: Option<u32>,
        /// Which reported metrics count.
        pub metric_names_for_computing_utilization: Vec<String>,
    }

    /// Preference for near endpoints.
    pub struct LocalityLoadBalancerSetting {
        /// Explicit shares between localities.
        pub distribute: Vec<LocalityDistribute>,
        /// Explicit order of regions when one fails.
        pub failover: Vec<LocalityFailover>,
        /// Labels by which endpoints are ordered.
        pub failover_priority: Vec<String>,
        /// Turns it on or off; unset follows the mesh.
        #[schemars(extend("nullable" = true))]
        pub enabled: Option<bool>,
    }

    /// Shares for clients of one locality.
    pub struct LocalityDistribute {
        /// The clients' locality, `region/zone/subzone` with `*`.
        pub from: String,
        /// Percent by locality; together 100.
        pub to: BTreeMap<String, u32>,
    }

    /// Where a region's traffic goes when it fails.
    pub struct LocalityFailover {
        /// The region that fails.
        pub from: String,
        /// The region that takes over.
        pub to: String,
    }

    /// Zone-aware balancing.
    pub struct ZoneAwareLoadBalancerSetting {
        /// Turns it on or off; unset follows the mesh.
        #[schemars(extend("nullable" = true))]
        pub enabled: Option<bool>,
        /// Explicit order of regions when one fails.
        pub failover: Vec<LocalityFailover>,
        /// Labels by which endpoints are ordered.
        pub failover_priority: Vec<String>,
        /// Least number of endpoints for it to be used.
        #[schemars(range(min = 1), extend("nullable" = true))]
        pub min_cluster_size: Option<u32>,
    }

    /// Slow start of new endpoints.
    #[schemars(extend("required" = ["duration"]))]
    pub struct Warmup {
        /// How long an endpoint is new.
        pub duration: Option<Duration>,
        /// Share at the beginning, 10 by default.
        #[schemars(range(min = 0, max = 100), extend("nullable" = true))]
        pub minimum_percent: Option<Double>,
        /// How fast the share grows; 1 is linear.
        #[schemars(range(min = 0), extend("nullable" = true))]
        pub aggression: Option<Double>,
    }

    /// How many connections and requests there may be.
    pub struct ConnectionPoolSettings {
        /// Connections.
        pub tcp: Option<TcpSettings>,
        /// Requests.
        pub http: Option<HttpSettings>,
    }

    /// Limits of connections.
    pub struct TcpSettings {
        /// Most connections; practically unlimited by default.
        pub max_connections: i32,
        /// How long connecting may take, 10s by default.
        pub connect_timeout: Option<Duration>,
        /// Keep-alive of sockets.
        pub tcp_keepalive: Option<TcpKeepalive>,
        /// How long a connection may live.
        pub max_connection_duration: Option<Duration>,
        /// How long a TCP connection may be idle, 1h by default; 0s turns it off.
        #[schemars(schema_with = "crate::schema::duration_or_zero")]
        pub idle_timeout: Option<Duration>,
    }

    /// Keep-alive of sockets.
    pub struct TcpKeepalive {
        /// Unanswered probes before a connection is dead.
        pub probes: u32,
        /// Idle time before the first probe.
        pub time: Option<Duration>,
        /// Time between probes.
        pub interval: Option<Duration>,
    }

    /// Limits of requests.
    pub struct HttpSettings {
        /// Most requests that wait for a connection.
        pub http1_max_pending_requests: i32,
        /// Most requests at a time.
        pub http2_max_requests: i32,
        /// Requests on a connection before it is closed; 1 turns keep-alive off.
        pub max_requests_per_connection: i32,
        /// Most retries at a time.
        pub max_retries: i32,
        /// How long a connection without requests stays, 1h by default.
        pub idle_timeout: Option<Duration>,
        /// Whether HTTP/1.1 is turned into HTTP/2.
        pub h2_upgrade_policy: H2UpgradePolicy,
        /// Whether the client's version of HTTP is kept.
        pub use_client_protocol: bool,
        /// Most streams on an HTTP/2 connection.
        pub max_concurrent_streams: i32,
        /// Pings on HTTP/2 connections.
        pub http2_keep_alive: Option<Http2KeepAlive>,
    }

    /// Pings on HTTP/2 connections.
    pub struct Http2KeepAlive {
        /// Time between pings.
        pub interval: Option<Duration>,
        /// How long an answer may take.
        pub timeout: Option<Duration>,
    }

    /// When an endpoint is set aside.
    pub struct OutlierDetection {
        /// Old form of consecutive5xxErrors.
        pub consecutive_errors: i32,
        /// Whether errors of connecting are counted apart.
        pub split_external_local_origin_errors: bool,
        /// Errors of connecting in a row.
        #[schemars(extend("nullable" = true))]
        pub consecutive_local_origin_failures: Option<u32>,
        /// 502, 503 and 504 in a row.
        #[schemars(extend("nullable" = true))]
        pub consecutive_gateway_errors: Option<u32>,
        /// 5xx in a row, 5 by default; 0 turns it off.
        #[serde(rename = "consecutive5xxErrors")]
        #[schemars(extend("nullable" = true))]
        pub consecutive_5xx_errors: Option<u32>,
        /// Time between looks, 10s by default.
        pub interval: Option<Duration>,
        /// Least time aside, 30s by default; it grows with each time.
        pub base_ejection_time: Option<Duration>,
        /// Most endpoints aside, in percent, 10 by default.
        pub max_ejection_percent: i32,
        /// Below this share of healthy endpoints it is turned off.
        pub min_health_percent: i32,
        /// Status codes that count as errors.
        #[schemars(inner(range(min = 100, max = 599)))]
        pub outlier_detection_http_error_codes: Vec<u32>,
    }

    /// TLS to the endpoints.
    pub struct ClientTlsSettings {
        /// Whether and how TLS is used.
        pub mode: ClientTlsMode,
        /// File of the client's certificate.
        pub client_certificate: String,
        /// File of the client's key.
        pub private_key: String,
        /// File of the certificates that are trusted.
        pub ca_certificates: String,
        /// File of revoked certificates.
        pub ca_crl: String,
        /// Secret that holds keys and certificates.
        pub credential_name: String,
        /// Names of which the server's certificate must have one.
        pub subject_alt_names: Vec<String>,
        /// Server name to ask for.
        pub sni: String,
        /// Does not check the server's certificate.
        #[schemars(extend("nullable" = true))]
        pub insecure_skip_verify: Option<bool>,
    }

    /// Tunnels TCP through an HTTP proxy.
    #[schemars(extend("required" = ["targetHost", "targetPort"]))]
    pub struct TunnelSettings {
        /// `CONNECT`, the default, or `POST`.
        pub protocol: String,
        /// Host behind the proxy.
        pub target_host: String,
        /// Port behind the proxy.
        pub target_port: u32,
    }

    /// The PROXY protocol's header.
    pub struct ProxyProtocol {
        /// Version of the header.
        pub version: ProxyProtocolVersion,
    }

    /// A limit for concurrent retries.
    pub struct RetryBudget {
        /// Share of the active requests, 20 by default.
        #[schemars(range(min = 0, max = 100), extend("nullable" = true))]
        pub percent: Option<Double>,
        /// Retries that are always allowed, 3 by default.
        pub min_retry_concurrency: u32,
        /// Over which time requests are counted.
        #[schemars(schema_with = "crate::schema::duration_or_zero")]
        pub budget_interval: Option<Duration>,
    }
}

enumeration! {
    /// Load balancing without settings. UNSPECIFIED lets the mesh choose, PASSTHROUGH goes where the client wanted.
    pub enum SimpleLoadBalancer { #[default] Unspecified, LeastConn, Random, Passthrough, RoundRobin, LeastRequest }

    /// Whether HTTP/1.1 is turned into HTTP/2.
    pub enum H2UpgradePolicy { #[default] Default, DoNotUpgrade, Upgrade }

    /// TLS of a client: off, server's certificate only, both, or both with the mesh's identities.
    pub enum ClientTlsMode { #[default] Disable, Simple, Mutual, IstioMutual }

    /// Version of the PROXY protocol.
    pub enum ProxyProtocolVersion { #[default] V1, V2 }
}

resource!(
    DestinationRule, "networking.istio.io", versions!("v1", "v1beta1", "v1alpha3"), "destinationrules", "destinationrule",
    short: ["dr"], category: "networking-istio-io", spec_required: false,
    columns: [
        "Host" "string" ".spec.host" "Service that the rule is for",
        "Age" "date" ".metadata.creationTimestamp" "Time since creation"
    ]
);
