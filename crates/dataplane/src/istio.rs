//! Istio's standard metrics: who the two ends of a request are, and the labels of its statistics.
//!
//! Source of names and meanings: Istio's page "Istio Standard Metrics", and the metadata exchange of its proxies.

use std::sync::{Arc, LazyLock};

use lateen_envoy::google::protobuf;
use lateen_envoy::prost::Message;

use crate::format::{Source, grpc_status_number, wire_bytes};
use crate::metadata::Struct;
use crate::stat_tags::Label;

/// Carries the workload, as base64 of a protobuf struct.
pub const PEER_METADATA: &str = "x-envoy-peer-metadata";
/// Carries the workload's node id.
pub const PEER_METADATA_ID: &str = "x-envoy-peer-metadata-id";

const UNKNOWN: &str = "unknown";

/// A workload, as far as metrics name it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Workload {
    /// `reviews-v1`.
    pub name: Box<str>,
    /// Its namespace.
    pub namespace: Box<str>,
    /// The cluster it runs in.
    pub cluster: Box<str>,
    /// Its label `app`.
    pub app: Box<str>,
    /// Its label `version`.
    pub version: Box<str>,
    /// Its canonical service.
    pub canonical_name: Box<str>,
    /// The canonical service's revision.
    pub canonical_revision: Box<str>,
    /// The name of its instance.
    pub instance: Box<str>,
    /// What it belongs to.
    pub owner: Box<str>,
}

/// The two ends, as metadata exchange tells them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Peers {
    /// The client.
    pub downstream: Option<Arc<Workload>>,
    /// The host.
    pub upstream: Option<Arc<Workload>>,
}

impl Workload {
    /// Of a node's metadata, or of what a peer told.
    pub fn from_metadata(metadata: &Struct) -> Self {
        let text =
            |name: &str| metadata.get(name).and_then(|value| value.as_str()).unwrap_or_default().into();
        let label = |names: &[&str]| -> Box<str> {
            let value = names.iter().find_map(|name| metadata.get("LABELS")?.at([*name])?.as_str());
            value.unwrap_or_default().into()
        };
        let name: Box<str> = text("WORKLOAD_NAME");
        let mut canonical_name = label(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]);
        if canonical_name.is_empty() {
            canonical_name = name.clone();
        }
        Self {
            namespace: text("NAMESPACE"),
            cluster: text("CLUSTER_ID"),
            app: label(&["app"]),
            version: label(&["version"]),
            canonical_name,
            canonical_revision: label(&[
                "service.istio.io/canonical-revision",
                "app.kubernetes.io/version",
                "version",
            ]),
            instance: text("NAME"),
            owner: text("OWNER"),
            name,
        }
    }

    /// Reads the value of `x-envoy-peer-metadata`.
    pub fn from_header(value: &[u8]) -> Option<Self> {
        let message = protobuf::Struct::decode(base64_decoded(value)?.as_slice()).ok()?;
        Some(Self::from_metadata(&crate::compile::structure(message)))
    }

    /// The value of `x-envoy-peer-metadata`.
    pub fn to_header(&self) -> String {
        base64_encoded(&self.to_struct().encode_to_vec())
    }

    /// As peers are told.
    pub fn to_struct(&self) -> protobuf::Struct {
        use protobuf::value::Kind;
        let text = |value: &str| protobuf::Value { kind: Some(Kind::StringValue(value.to_owned())) };
        let some = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter().filter(|(_, value)| !value.is_empty());
            pairs.map(|(name, value)| ((*name).to_owned(), text(value))).collect()
        };
        let labels = protobuf::Struct {
            fields: some(&[
                ("service.istio.io/canonical-name", &self.canonical_name),
                ("service.istio.io/canonical-revision", &self.canonical_revision),
                ("app", &self.app),
                ("version", &self.version),
            ]),
        };
        let mut message = protobuf::Struct {
            fields: some(&[
                ("NAME", &self.instance),
                ("NAMESPACE", &self.namespace),
                ("WORKLOAD_NAME", &self.name),
                ("CLUSTER_ID", &self.cluster),
                ("OWNER", &self.owner),
            ]),
        };
        if !labels.fields.is_empty() {
            let labels = protobuf::Value { kind: Some(Kind::StructValue(labels)) };
            message.fields.insert("LABELS".to_owned(), labels);
        }
        message
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// RFC 4648, section 4.
fn base64_encoded(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group =
            chunk.iter().fold(0u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for index in 0..4 {
            let sextet = (group >> (18 - 6 * index) & 63) as usize;
            out.push(if index <= chunk.len() { ALPHABET[sextet] as char } else { '=' });
        }
    }
    out
}

fn base64_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let text = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    let mut out = Vec::with_capacity(text.len() * 3 / 4);
    let (mut group, mut bits) = (0u32, 0);
    for byte in text {
        let sextet = ALPHABET.iter().position(|candidate| candidate == byte)? as u32;
        group = group << 6 | sextet;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push((group >> bits) as u8);
            group &= (1 << bits) - 1;
        }
    }
    Some(out)
}

/// From which end a request is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Reporter {
    /// The client's proxy, and gateways.
    #[default]
    Source,
    /// The host's proxy.
    Destination,
    /// A waypoint: both ends are peers.
    Waypoint,
}

/// The service a request is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Service {
    /// `reviews.default.svc.cluster.local`.
    pub host: Box<str>,
    /// `reviews`.
    pub name: Box<str>,
    /// `default`.
    pub namespace: Box<str>,
}

impl Service {
    /// Of a cluster: its metadata (`istio`, `services`), or its name where it is for what is unknown.
    pub fn of_cluster(name: &str, metadata: Option<&crate::metadata::Metadata>) -> Self {
        const CATCH_ALL: [&str; 5] = [
            "BlackHoleCluster",
            "PassthroughCluster",
            "InboundPassthroughCluster",
            "InboundPassthroughClusterIpv4",
            "InboundPassthroughClusterIpv6",
        ];
        if CATCH_ALL.contains(&name) {
            return Self { name: name.into(), ..Self::default() };
        }
        let services = metadata.and_then(|metadata| metadata.get("istio", ["services"]));
        let Some(crate::metadata::Value::List(services)) = services else { return Self::default() };
        let Some(first) = services.first() else { return Self::default() };
        let text = |name| first.at([name]).and_then(|value| value.as_str()).unwrap_or_default().into();
        Self { host: text("host"), name: text("name"), namespace: text("namespace") }
    }
}

/// A value for a label that the configuration sets: the expressions that are understood of CEL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expression {
    /// `'text'` or `"text"`.
    Literal(Box<str>),
    /// `request.headers['name']`.
    RequestHeader(Box<str>),
    /// `request.host`.
    Host,
    /// `request.method`.
    Method,
    /// `request.path`.
    Path,
    /// `request.url_path`.
    UrlPath,
    /// `request.useragent`.
    UserAgent,
    /// `response.code`.
    ResponseCode,
    /// `response.flags`, as text.
    ResponseFlags,
    /// `route_name`, `xds.route_name`.
    RouteName,
    /// `cluster_name`, `xds.cluster_name`.
    ClusterName,
    /// `connection.requested_server_name`.
    ServerName,
}

impl Expression {
    /// Reads an expression; none where it is not understood.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let quoted = |text: &str| -> Option<Box<str>> {
            let quote = text.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
            let inner = text.strip_prefix(quote)?.strip_suffix(quote)?;
            (!inner.contains([quote, '\\'])).then(|| inner.into())
        };
        if let Some(literal) = quoted(text) {
            return Some(Self::Literal(literal));
        }
        if let Some(name) = text.strip_prefix("request.headers[").and_then(|rest| rest.strip_suffix(']')) {
            return quoted(name).map(|name| Self::RequestHeader(name.to_ascii_lowercase().into()));
        }
        Some(match text {
            "request.host" => Self::Host,
            "request.method" => Self::Method,
            "request.path" => Self::Path,
            "request.url_path" => Self::UrlPath,
            "request.useragent" => Self::UserAgent,
            "response.code" => Self::ResponseCode,
            "response.flags" => Self::ResponseFlags,
            "route_name" | "xds.route_name" => Self::RouteName,
            "cluster_name" | "xds.cluster_name" => Self::ClusterName,
            "connection.requested_server_name" => Self::ServerName,
            _ => return None,
        })
    }

    /// Its value, `unknown` where there is none.
    pub fn value(&self, source: &Source<'_>) -> String {
        let info = source.info;
        let request = |read: fn(&crate::head::RequestHead) -> &[u8]| {
            source.request.map(|head| String::from_utf8_lossy(read(head)).into_owned())
        };
        let found = match self {
            Self::Literal(text) => Some(text.to_string()),
            Self::RequestHeader(name) => source
                .request
                .and_then(|head| head.field(name.as_bytes()))
                .map(|value| String::from_utf8_lossy(value).into_owned()),
            Self::Host => request(crate::head::RequestHead::authority),
            Self::Method => request(crate::head::RequestHead::method),
            Self::Path => request(crate::head::RequestHead::path),
            Self::UrlPath => request(crate::head::RequestHead::path_only),
            Self::UserAgent => return Self::RequestHeader("user-agent".into()).value(source),
            Self::ResponseCode => Some(info.response_code.to_string()),
            Self::ResponseFlags => {
                let mut text = Vec::new();
                info.flags.write(&mut text);
                Some(String::from_utf8_lossy(&text).into_owned())
            }
            Self::RouteName => info.route_name.as_ref().map(ToString::to_string),
            Self::ClusterName => info.upstream_cluster.as_ref().map(ToString::to_string),
            Self::ServerName => info.server_name.as_ref().map(ToString::to_string),
        };
        found.filter(|text| !text.is_empty()).unwrap_or_else(|| UNKNOWN.to_owned())
    }
}

/// What the configuration changes of one metric, or of all (`stats.MetricConfig`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Override {
    /// The metric, without `istio_`; none is all.
    pub metric: Option<Box<str>>,
    /// Labels that are set or replaced.
    pub labels: Vec<(Box<str>, Expression)>,
    /// Labels that are left out.
    pub removed: Vec<Box<str>>,
    /// Whether the metric is left out.
    pub drop: bool,
}

/// The filter's configuration (`stats.PluginConfig`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatsFilter {
    /// Whether it reports as a waypoint.
    pub waypoint: bool,
    /// Whether a service that is not known is not called by the host header.
    pub disable_host_fallback: bool,
    /// In the order of the configuration: later ones win.
    pub overrides: Vec<Override>,
    /// How often open TCP connections are reported.
    pub tcp_interval: std::time::Duration,
}

/// What the peer metadata filter does with Istio's headers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerMetadataFilter {
    /// The client is read from the request.
    pub discover_downstream: bool,
    /// The host is read from the response.
    pub discover_upstream: bool,
    /// The client is told in the response.
    pub tell_downstream: bool,
    /// The host is told in the request.
    pub tell_upstream: bool,
    /// Hosts outside of the mesh are not told.
    pub skip_external: bool,
}

/// Istio's metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// `istio_requests_total`.
    Requests,
    /// `istio_request_duration_milliseconds`.
    Duration,
    /// `istio_request_bytes`.
    RequestBytes,
    /// `istio_response_bytes`.
    ResponseBytes,
    /// `istio_request_messages_total`.
    RequestMessages,
    /// `istio_response_messages_total`.
    ResponseMessages,
    /// `istio_tcp_sent_bytes_total`.
    TcpSent,
    /// `istio_tcp_received_bytes_total`.
    TcpReceived,
    /// `istio_tcp_connections_opened_total`.
    TcpOpened,
    /// `istio_tcp_connections_closed_total`.
    TcpClosed,
}

impl Metric {
    /// As overrides name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests_total",
            Self::Duration => "request_duration_milliseconds",
            Self::RequestBytes => "request_bytes",
            Self::ResponseBytes => "response_bytes",
            Self::RequestMessages => "request_messages_total",
            Self::ResponseMessages => "response_messages_total",
            Self::TcpSent => "tcp_sent_bytes_total",
            Self::TcpReceived => "tcp_received_bytes_total",
            Self::TcpOpened => "tcp_connections_opened_total",
            Self::TcpClosed => "tcp_connections_closed_total",
        }
    }
}

/// All that tells one combination of labels from another, cheap to hash and compare.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    peer: usize,
    cluster: (usize, usize),
    /// Digests of the identities, and of the authority where it stands for an unknown service.
    names: [u128; 3],
    code: u16,
    flags: crate::stream_info::ResponseFlags,
    grpc: Option<Option<u32>>,
    tcp: bool,
    mutual_tls: bool,
    /// Values of expressions that depend on the request.
    custom: Vec<Box<str>>,
}

/// A number that stands for a text; different texts have different ones as good as always.
fn digest(text: Option<&[u8]>) -> u128 {
    use std::hash::BuildHasher;
    static SEEDS: LazyLock<[foldhash::quality::RandomState; 2]> = LazyLock::new(Default::default);
    text.map_or(0, |text| u128::from(SEEDS[0].hash_one(text)) << 64 | u128::from(SEEDS[1].hash_one(text)))
}

/// What labels are made of. It keeps alive what a [`Key`] knows by address.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The end that is not ours.
    pub peer: Option<Arc<Workload>>,
    /// The cluster's name.
    pub cluster: Option<Arc<str>>,
    /// Its metadata.
    pub cluster_metadata: Option<Arc<crate::metadata::Metadata>>,
    /// The TLS connection between the two proxies.
    pub tls: Option<Arc<dyn crate::stream_info::TlsView>>,
}

impl StatsFilter {
    /// What the labels of a request are made of. `source` is complete: the response was sent.
    pub fn facts(&self, reporter: Reporter, source: &Source<'_>) -> Facts {
        let info = source.info;
        let peers = info.peers.as_deref();
        let connection = info.connection.as_deref();
        let (peer, tls) = match reporter {
            Reporter::Source => (peers.and_then(|peers| peers.upstream.clone()), info.upstream_tls.clone()),
            Reporter::Destination | Reporter::Waypoint => (
                peers.and_then(|peers| peers.downstream.clone()),
                connection.and_then(|connection| connection.tls.clone()),
            ),
        };
        Facts {
            peer,
            cluster: info.upstream_cluster.clone(),
            cluster_metadata: info.cluster_metadata.clone(),
            tls,
        }
    }

    /// What tells this request's labels from those of others.
    pub fn key(&self, facts: &Facts, source: &Source<'_>) -> Key {
        let info = source.info;
        let tls = facts.tls.as_deref();
        let identity = |peer| digest(tls.and_then(|tls| tls.uri(peer)).map(str::as_bytes));
        let tcp = info.protocol.is_none();
        let grpc = source.request.is_some_and(crate::head::RequestHead::is_grpc);
        let by_host = facts.cluster_metadata.is_none() && !self.disable_host_fallback;
        let custom = self.overrides.iter().flat_map(|change| &change.labels);
        let custom = custom.filter(|(_, expression)| !matches!(expression, Expression::Literal(_)));
        Key {
            peer: facts.peer.as_ref().map_or(0, |peer| Arc::as_ptr(peer) as usize),
            cluster: (
                facts.cluster.as_ref().map_or(0, |name| name.as_ptr() as usize),
                facts.cluster_metadata.as_ref().map_or(0, |metadata| Arc::as_ptr(metadata) as usize),
            ),
            names: [
                identity(false),
                identity(true),
                digest(source.request.filter(|_| by_host).map(crate::head::RequestHead::authority)),
            ],
            code: info.response_code,
            flags: info.flags,
            grpc: grpc.then(|| grpc_status_number(source, true)),
            tcp,
            mutual_tls: tls.is_some_and(|tls| tls.has_peer()),
            custom: custom.map(|(_, expression)| expression.value(source).into()).collect(),
        }
    }

    /// All labels of a request, in Istio's order, without what the configuration changes.
    pub fn labels(
        &self,
        reporter: Reporter,
        local: &Workload,
        facts: &Facts,
        source: &Source<'_>,
    ) -> Vec<(&'static str, String)> {
        let info = source.info;
        let or_unknown = |text: &str| if text.is_empty() { UNKNOWN.to_owned() } else { text.to_owned() };
        let none = Workload::default();
        let peer = facts.peer.as_deref().unwrap_or(&none);
        let (from, to) = match reporter {
            Reporter::Source => (local, peer),
            Reporter::Destination | Reporter::Waypoint => (peer, local),
        };
        let tls = facts.tls.as_deref();
        let identity = |peer| or_unknown(tls.and_then(|tls| tls.uri(peer)).unwrap_or_default());
        let (ours, theirs) = (identity(false), identity(true));
        let (from_principal, to_principal) =
            if reporter == Reporter::Source { (ours, theirs) } else { (theirs, ours) };
        let mut service = Service::of_cluster(
            facts.cluster.as_deref().unwrap_or_default(),
            facts.cluster_metadata.as_deref(),
        );
        if service.host.is_empty()
            && !self.disable_host_fallback
            && let Some(head) = source.request
        {
            service.host = String::from_utf8_lossy(head.authority()).into();
        }
        if service.namespace.is_empty() {
            service.namespace = to.namespace.clone();
        }
        let revision = |text: &str| if text.is_empty() { "latest".to_owned() } else { text.to_owned() };
        let grpc = source.request.is_some_and(crate::head::RequestHead::is_grpc);
        let tcp = info.protocol.is_none();
        let mut flags = Vec::new();
        info.flags.write(&mut flags);
        let security = match (reporter, tls) {
            (Reporter::Source, _) => UNKNOWN,
            (_, Some(tls)) if tls.has_peer() => "mutual_tls",
            _ => "none",
        };
        let mut labels = vec![
            (
                "reporter",
                match reporter {
                    Reporter::Source => "source",
                    Reporter::Destination => "destination",
                    Reporter::Waypoint => "waypoint",
                }
                .to_owned(),
            ),
            ("source_workload", or_unknown(&from.name)),
            ("source_canonical_service", or_unknown(&from.canonical_name)),
            ("source_canonical_revision", revision(&from.canonical_revision)),
            ("source_workload_namespace", or_unknown(&from.namespace)),
            ("source_principal", from_principal),
            ("source_app", or_unknown(&from.app)),
            ("source_version", or_unknown(&from.version)),
            ("source_cluster", or_unknown(&from.cluster)),
            ("destination_workload", or_unknown(&to.name)),
            ("destination_workload_namespace", or_unknown(&to.namespace)),
            ("destination_principal", to_principal),
            ("destination_app", or_unknown(&to.app)),
            ("destination_version", or_unknown(&to.version)),
            ("destination_service", or_unknown(&service.host)),
            ("destination_canonical_service", or_unknown(&to.canonical_name)),
            ("destination_canonical_revision", revision(&to.canonical_revision)),
            ("destination_service_name", or_unknown(&service.name)),
            ("destination_service_namespace", or_unknown(&service.namespace)),
            ("destination_cluster", or_unknown(&to.cluster)),
            (
                "request_protocol",
                if tcp {
                    "tcp"
                } else if grpc {
                    "grpc"
                } else {
                    "http"
                }
                .to_owned(),
            ),
        ];
        if !tcp {
            labels.push(("response_code", info.response_code.to_string()));
            let status = if grpc { grpc_status_number(source, true) } else { None };
            labels.push(("grpc_response_status", status.map_or(String::new(), |status| status.to_string())));
        }
        labels.push(("response_flags", String::from_utf8_lossy(&flags).into_owned()));
        labels.push(("connection_security_policy", security.to_owned()));
        labels
    }

    /// The labels of one metric; none where it is left out.
    pub fn labels_of(
        &self,
        metric: Metric,
        all: &[(&'static str, String)],
        source: &Source<'_>,
    ) -> Option<Vec<Label>> {
        let mut labels: Vec<Label> =
            all.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let concerned = self
            .overrides
            .iter()
            .filter(|change| change.metric.as_deref().is_none_or(|name| name == metric.name()));
        for change in concerned {
            if change.drop {
                return None;
            }
            labels.retain(|(name, _)| !change.removed.iter().any(|removed| **removed == *name));
            for (name, expression) in &change.labels {
                let value = expression.value(source);
                match labels.iter_mut().find(|(other, _)| **other == **name) {
                    Some((_, there)) => *there = value,
                    None => labels.push((crate::stat_tags::sanitized(name), value)),
                }
            }
        }
        Some(labels)
    }
}

/// Bytes of the request and of its answer, heads included.
pub fn sizes(source: &Source<'_>) -> (u64, u64) {
    wire_bytes(source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::RequestHead;
    use crate::metadata::{Metadata, Value};
    use crate::stream_info::{CertificateInfo, ConnectionInfo, Protocol, ResponseFlags, StreamInfo, TlsInfo};

    fn workload(name: &str) -> Workload {
        let text = |value: &str| Value::String(value.into());
        let labels: Struct =
            [("app", text(name)), ("version", text("v1")), ("service.istio.io/canonical-name", text(name))]
                .into_iter()
                .collect();
        let metadata: Struct = [
            ("WORKLOAD_NAME", text(&format!("{name}-v1"))),
            ("NAMESPACE", text("default")),
            ("CLUSTER_ID", text("Kubernetes")),
            ("LABELS", Value::Struct(labels)),
        ]
        .into_iter()
        .collect();
        Workload::from_metadata(&metadata)
    }

    fn certificate(name: &str) -> Option<Arc<CertificateInfo>> {
        Some(Arc::new(CertificateInfo {
            uris: vec![format!("spiffe://cluster.local/ns/default/sa/{name}").into()],
            ..CertificateInfo::default()
        }))
    }

    fn cluster_metadata() -> Arc<Metadata> {
        let text = |value: &str| Value::String(value.into());
        let service: Struct = [
            ("host", text("reviews.default.svc.cluster.local")),
            ("name", text("reviews")),
            ("namespace", text("default")),
        ]
        .into_iter()
        .collect();
        let mut metadata = Metadata::default();
        let services: Struct =
            [("services", Value::List(vec![Value::Struct(service)]))].into_iter().collect();
        metadata.merge("istio", services);
        Arc::new(metadata)
    }

    #[test]
    fn the_header_is_read_as_it_is_written() {
        let reviews = workload("reviews");
        let header = reviews.to_header();
        assert_eq!(Workload::from_header(header.as_bytes()), Some(reviews));
        assert_eq!(header.len() % 4, 0);
        for broken in ["%", "AAAA=A", "////"] {
            assert_eq!(Workload::from_header(broken.as_bytes()), None, "{broken}");
        }
        for (plain, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64_encoded(plain.as_bytes()), coded);
            assert_eq!(base64_decoded(coded.as_bytes()).as_deref(), Some(plain.as_bytes()));
        }
    }

    #[test]
    fn the_whole_label_set_on_both_reporters() {
        let tls = TlsInfo {
            version: "TLSv1.3",
            local: certificate("ours"),
            peer: certificate("theirs"),
            ..TlsInfo::default()
        };
        let tls: Arc<dyn crate::stream_info::TlsView> = Arc::new(tls);
        let mut info = StreamInfo {
            protocol: Some(Protocol::Http11),
            response_code: 503,
            upstream_cluster: Some("outbound|80||reviews".into()),
            cluster_metadata: Some(cluster_metadata()),
            upstream_tls: Some(Arc::clone(&tls)),
            connection: Some(Arc::new(ConnectionInfo { tls: Some(tls), ..ConnectionInfo::default() })),
            peers: Some(Box::new(Peers {
                downstream: Some(workload("productpage").into()),
                upstream: Some(workload("reviews").into()),
            })),
            ..StreamInfo::default()
        };
        info.flags.set(ResponseFlags::UPSTREAM_OVERFLOW);
        let mut request = RequestHead::new("POST", "reviews:80", "/");
        request.headers.append("content-type", "application/grpc");
        let source =
            Source { info: &info, request: Some(&request), response: None, trailers: None, hostname: "" };
        let filter = StatsFilter::default();
        let text = |reporter, local: &str| {
            let facts = filter.facts(reporter, &source);
            let labels = filter.labels(reporter, &workload(local), &facts, &source);
            labels.into_iter().map(|(name, value)| format!("{name}={value}\n")).collect::<String>()
        };
        let ends = |policy: &str, reporter: &str, from: &str, to: &str| {
            format!(
                "reporter={reporter}\nsource_workload=productpage-v1\nsource_canonical_service=productpage\n\
                 source_canonical_revision=v1\nsource_workload_namespace=default\n\
                 source_principal=spiffe://cluster.local/ns/default/sa/{from}\nsource_app=productpage\n\
                 source_version=v1\nsource_cluster=Kubernetes\ndestination_workload=reviews-v1\n\
                 destination_workload_namespace=default\n\
                 destination_principal=spiffe://cluster.local/ns/default/sa/{to}\ndestination_app=reviews\n\
                 destination_version=v1\ndestination_service=reviews.default.svc.cluster.local\n\
                 destination_canonical_service=reviews\ndestination_canonical_revision=v1\n\
                 destination_service_name=reviews\ndestination_service_namespace=default\n\
                 destination_cluster=Kubernetes\nrequest_protocol=grpc\nresponse_code=503\n\
                 grpc_response_status=14\nresponse_flags=UO\nconnection_security_policy={policy}\n"
            )
        };
        assert_eq!(text(Reporter::Source, "productpage"), ends("unknown", "source", "ours", "theirs"));
        assert_eq!(
            text(Reporter::Destination, "reviews"),
            ends("mutual_tls", "destination", "theirs", "ours")
        );
    }

    #[test]
    fn what_is_not_known_is_called_so() {
        let info =
            StreamInfo { protocol: Some(Protocol::Http11), response_code: 200, ..StreamInfo::default() };
        let request = RequestHead::new("GET", "example.com", "/");
        let source =
            Source { info: &info, request: Some(&request), response: None, trailers: None, hostname: "" };
        let value = |filter: &StatsFilter, wanted: &str| {
            let facts = filter.facts(Reporter::Destination, &source);
            let labels = filter.labels(Reporter::Destination, &workload("reviews"), &facts, &source);
            labels.into_iter().find(|(name, _)| *name == wanted).unwrap().1
        };
        let filter = StatsFilter::default();
        for (label, expect) in [
            ("source_workload", "unknown"),
            ("source_canonical_revision", "latest"),
            ("source_principal", "unknown"),
            ("destination_service", "example.com"),
            ("destination_service_name", "unknown"),
            ("destination_service_namespace", "default"),
            ("grpc_response_status", ""),
            ("response_flags", "-"),
            ("connection_security_policy", "none"),
            ("request_protocol", "http"),
        ] {
            assert_eq!(value(&filter, label), expect, "{label}");
        }
        let without = StatsFilter { disable_host_fallback: true, ..StatsFilter::default() };
        assert_eq!(value(&without, "destination_service"), "unknown");
        let passthrough = Service::of_cluster("PassthroughCluster", None);
        assert_eq!((&*passthrough.name, &*passthrough.host), ("PassthroughCluster", ""));
    }

    #[test]
    fn overrides() {
        let info =
            StreamInfo { protocol: Some(Protocol::Http11), response_code: 200, ..StreamInfo::default() };
        let request = RequestHead::new("GET", "example.com", "/a?b");
        let source =
            Source { info: &info, request: Some(&request), response: None, trailers: None, hostname: "" };
        let set = |name: &str, text: &str| (name.into(), Expression::parse(text).unwrap());
        let filter = StatsFilter {
            overrides: vec![
                Override { removed: vec!["source_app".into()], ..Override::default() },
                Override {
                    metric: Some("requests_total".into()),
                    labels: vec![set("request_host", "request.host"), set("response_code", "\"class\"")],
                    ..Override::default()
                },
                Override { metric: Some("request_bytes".into()), drop: true, ..Override::default() },
            ],
            ..StatsFilter::default()
        };
        let all = vec![("source_app", "x".to_owned()), ("response_code", "200".to_owned())];
        let shown = |metric| {
            let labels = filter.labels_of(metric, &all, &source)?;
            Some(
                labels
                    .into_iter()
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect::<Vec<_>>()
                    .join(" "),
            )
        };
        assert_eq!(shown(Metric::Requests).as_deref(), Some("response_code=class request_host=example.com"));
        assert_eq!(shown(Metric::Duration).as_deref(), Some("response_code=200"));
        assert_eq!(shown(Metric::RequestBytes), None);
        for (text, expect) in [
            ("request.headers['X-A']", Some(Expression::RequestHeader("x-a".into()))),
            ("'a'", Some(Expression::Literal("a".into()))),
            ("request.url_path", Some(Expression::UrlPath)),
            ("a ? b : c", None),
            ("'a' + 'b'", None),
        ] {
            assert_eq!(Expression::parse(text), expect, "{text}");
        }
        // A value of the request is part of what tells combinations apart.
        let facts = filter.facts(Reporter::Source, &source);
        let other = RequestHead::new("GET", "other.example", "/a?b");
        let other = Source { request: Some(&other), ..source };
        assert_ne!(filter.key(&facts, &source), filter.key(&facts, &other));
    }
}
