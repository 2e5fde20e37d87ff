//! Services: what clients name, whatever registry it came from.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

use crate::{AddressRange, ClusterId, Hostname, Namespace};

/// What tells one service from another. One host name may be defined by several clusters and namespaces.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ServiceKey {
    /// The fully qualified name.
    pub hostname: Hostname,
    /// The namespace that owns it.
    pub namespace: Namespace,
    /// The cluster whose registry told of it.
    pub cluster: ClusterId,
}

/// The object of the platform that a value was made from; for messages to people.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ObjectRef {
    /// `Service`, `ServiceEntry`, ...
    pub kind: String,
    /// Its namespace, empty for cluster-wide objects.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Service {
    /// Its identity.
    pub key: ServiceKey,
    /// The ports clients may call, in the object's order.
    pub ports: Vec<ServicePort>,
    /// The virtual addresses clients call it by: cluster IPs, or a ServiceEntry's addresses, of which some may be
    /// ranges. Empty for headless. Those of the cluster in `key`; see [`Self::addresses_in`].
    pub addresses: Vec<AddressRange>,
    /// The addresses in further clusters that have the service too.
    pub cluster_addresses: BTreeMap<ClusterId, Vec<AddressRange>>,
    /// Addresses that the mesh gave to a ServiceEntry without any: clients that ask the mesh for names get them.
    pub auto_addresses: Vec<IpAddr>,
    /// How endpoints are found.
    pub resolution: Resolution,
    /// Outside the mesh (ServiceEntry `MESH_EXTERNAL`, ExternalName).
    pub external: bool,
    /// Who may see it. Empty means the mesh's default (all).
    pub export_to: Vec<Visibility>,
    /// Names of which the server's certificate must have one (ServiceEntry `subjectAltNames`).
    pub subject_alt_names: Vec<String>,
    /// Whether endpoints that are not ready count all the same (`publishNotReadyAddresses`).
    pub publish_not_ready: bool,
    /// Whether clients only go to endpoints of their own node (`internalTrafficPolicy: Local`).
    pub node_local: bool,
    /// Which endpoints clients prefer.
    pub traffic_distribution: TrafficDistribution,
    /// How it is reached from outside of its cluster, as gateways of other networks are.
    pub external_access: ExternalAccess,
    /// Labels of the workloads behind it; `None` where the platform keeps the endpoints by hand.
    pub selector: Option<BTreeMap<String, String>>,
    /// The object's labels.
    pub labels: BTreeMap<String, String>,
    /// Where the service only is another name (`ExternalName`).
    pub external_name: Option<Hostname>,
    /// Seconds since 1970 when the object was created; order between conflicting definitions.
    pub created: i64,
    /// The object it was made from.
    pub source: ObjectRef,
}

impl Service {
    /// A service with nothing but a name.
    pub fn new(key: ServiceKey) -> Self {
        Self {
            key,
            ports: Vec::new(),
            addresses: Vec::new(),
            cluster_addresses: BTreeMap::new(),
            auto_addresses: Vec::new(),
            resolution: Resolution::ClientSide,
            external: false,
            export_to: Vec::new(),
            subject_alt_names: Vec::new(),
            publish_not_ready: false,
            node_local: false,
            traffic_distribution: TrafficDistribution::default(),
            external_access: ExternalAccess::default(),
            selector: None,
            labels: BTreeMap::new(),
            external_name: None,
            created: 0,
            source: ObjectRef::default(),
        }
    }

    /// The virtual addresses by which clients of a cluster call it.
    pub fn addresses_in(&self, cluster: &ClusterId) -> &[AddressRange] {
        self.cluster_addresses.get(cluster).unwrap_or(&self.addresses)
    }

    /// The service's host name.
    pub fn hostname(&self) -> &Hostname {
        &self.key.hostname
    }

    /// The port with this number.
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.number == number)
    }

    /// Whether clients get the endpoints' own addresses from DNS.
    pub fn is_headless(&self) -> bool {
        self.resolution == Resolution::Passthrough
    }

    /// The short name of a Kubernetes service (`reviews`), empty for any other.
    pub fn short_name(&self) -> &str {
        if self.source.kind == "Service" { &self.source.name } else { "" }
    }

    /// Whether proxies of `namespace` may see it (`exportTo`).
    pub fn visible_to(&self, namespace: &Namespace) -> bool {
        Visibility::any(&self.export_to, &self.key.namespace, namespace)
    }

    /// Whether the service's selector picks a workload with these labels in this namespace.
    pub fn selects(&self, namespace: &Namespace, labels: &BTreeMap<String, String>) -> bool {
        self.key.namespace == *namespace
            && self.selector.as_ref().is_some_and(|selector| {
                !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
            })
    }
}

/// How a service is reached from outside of its cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ExternalAccess {
    /// IP addresses or names: of its load balancer, `externalIPs`, or of the nodes that
    /// `traffic.istio.io/nodeSelector` picks.
    pub addresses: Vec<String>,
    /// Where the addresses are those of nodes: node ports, by the service's port.
    pub node_ports: BTreeMap<u16, u16>,
    /// Labels of the nodes whose addresses count.
    pub node_selector: Option<BTreeMap<String, String>>,
}

/// Which endpoints clients prefer (`spec.trafficDistribution`, `networking.istio.io/traffic-distribution`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum TrafficDistribution {
    /// As the locality settings say.
    #[default]
    Any,
    /// Those of the same zone (`PreferClose`, `PreferSameZone`).
    PreferSameZone,
    /// Those of the same node (`PreferSameNode`), then as `PreferSameZone`.
    PreferSameNode,
}

impl TrafficDistribution {
    /// What the annotation of a Service or ServiceEntry says, if there is one.
    pub fn of_annotations(annotations: &BTreeMap<String, String>) -> Option<Self> {
        annotations.get("networking.istio.io/traffic-distribution").map(|text| Self::parse(text))
    }

    /// Reads Kubernetes' word, in any case; unknown ones mean no preference.
    pub fn parse(text: &str) -> Self {
        match text.to_ascii_lowercase().as_str() {
            "preferclose" | "prefersamezone" => Self::PreferSameZone,
            "prefersamenode" => Self::PreferSameNode,
            _ => Self::Any,
        }
    }
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct ServicePort {
    /// Its name, empty where the only port has none.
    pub name: String,
    /// The number clients call.
    pub number: u16,
    /// The application protocol.
    pub protocol: PortProtocol,
    /// The port of the workload.
    pub target: TargetPort,
}

/// The port of a workload that a service's port stands for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub enum TargetPort {
    /// A number.
    Number(u16),
    /// The name of a container's port.
    Name(String),
}

/// The application protocol of a port, as declared by its name or `appProtocol`
/// (Istio's documentation, "Protocol Selection").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum PortProtocol {
    /// HTTP/1.1, and HTTP/2 from clients that know it.
    Http,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// gRPC, over HTTP/2.
    Grpc,
    /// gRPC-Web, over HTTP/1.1.
    GrpcWeb,
    /// HTTP over TLS: opaque but for the server name.
    Https,
    /// TLS: opaque but for the server name.
    Tls,
    /// Opaque bytes.
    Tcp,
    /// MongoDB; handled as opaque bytes.
    Mongo,
    /// Redis; handled as opaque bytes.
    Redis,
    /// MySQL; handled as opaque bytes, never sniffed, since its server speaks first.
    MySql,
    /// Datagrams: left alone.
    Udp,
    /// HBONE, the ambient tunnel.
    Hbone,
    /// Not declared: found out from the first bytes.
    Unknown,
}

impl PortProtocol {
    /// The protocol that a port declares. `app_protocol` wins over the name; the name counts up to its first `-`.
    pub fn declared(transport: &str, app_protocol: Option<&str>, name: &str) -> Self {
        if transport.eq_ignore_ascii_case("UDP") || transport.eq_ignore_ascii_case("SCTP") {
            return Self::Udp;
        }
        if let Some(app_protocol) = app_protocol {
            match app_protocol {
                "kubernetes.io/h2c" => return Self::Http2,
                "kubernetes.io/ws" => return Self::Http,
                "kubernetes.io/wss" => return Self::Https,
                other => return Self::parse(other),
            }
        }
        if name.get(..8).is_some_and(|prefix| prefix.eq_ignore_ascii_case("grpc-web")) {
            return Self::GrpcWeb;
        }
        Self::parse(name.split('-').next().unwrap_or_default())
    }

    /// The protocol of this name, in any case; `Unknown` for what is none.
    pub fn parse(name: &str) -> Self {
        match name.to_ascii_lowercase().as_str() {
            "http" | "http1" | "http_proxy" => Self::Http,
            "http2" | "h2c" => Self::Http2,
            "grpc" => Self::Grpc,
            "grpc-web" => Self::GrpcWeb,
            "https" => Self::Https,
            "tls" => Self::Tls,
            "tcp" => Self::Tcp,
            "mongo" => Self::Mongo,
            "redis" => Self::Redis,
            "mysql" => Self::MySql,
            "udp" => Self::Udp,
            "hbone" => Self::Hbone,
            _ => Self::Unknown,
        }
    }

    /// Whether the proxy reads requests on such a port.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc | Self::GrpcWeb)
    }

    /// Whether servers of this protocol want HTTP/2.
    pub fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc)
    }

    /// Whether the proxy must find out the protocol.
    pub fn is_unknown(self) -> bool {
        self == Self::Unknown
    }

    /// Whether the proxy sees bytes only, perhaps with a server name.
    pub fn is_tcp(self) -> bool {
        matches!(self, Self::Tcp | Self::Tls | Self::Https | Self::Mongo | Self::Redis | Self::MySql)
    }

    /// Whether a server name can be read from the first bytes.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Tls | Self::Https)
    }
}

/// How a service's endpoints are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Resolution {
    /// The proxy balances over endpoints that the control plane knows (EDS).
    ClientSide,
    /// The connection's own destination (headless services; ServiceEntry `NONE`).
    Passthrough,
    /// The proxy asks DNS, and balances over every address (ServiceEntry `DNS`).
    Dns,
    /// The proxy asks DNS, and uses one address at a time (ServiceEntry `DNS_ROUND_ROBIN`, ExternalName).
    DnsRoundRobin,
    /// The proxy asks DNS for the very name that the client called (ServiceEntry `DYNAMIC_DNS`).
    DynamicDns,
    /// The endpoints written into the object (ServiceEntry `STATIC`); served by EDS too.
    Static,
}

/// One entry of `exportTo`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Visibility {
    /// `*`
    Public,
    /// `.`
    Private,
    /// `~`
    Nobody,
    /// A namespace.
    Namespace(Namespace),
}

impl Visibility {
    /// Reads one entry.
    pub fn parse(text: &str) -> Self {
        match text {
            "*" => Self::Public,
            "." => Self::Private,
            "~" => Self::Nobody,
            other => Self::Namespace(other.into()),
        }
    }

    /// Whether an object of `owner` with these entries is visible in `namespace`; no entries means visible to all.
    pub fn any(entries: &[Visibility], owner: &Namespace, namespace: &Namespace) -> bool {
        entries.is_empty()
            || entries.iter().any(|entry| match entry {
                Self::Public => true,
                Self::Private => owner == namespace,
                Self::Nobody => false,
                Self::Namespace(allowed) => allowed == namespace,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declared_protocols() {
        for (name, transport, app_protocol, port_name, expected) in [
            ("plain", "TCP", None, "http", PortProtocol::Http),
            ("suffix", "TCP", None, "http-web", PortProtocol::Http),
            ("not a suffix", "TCP", None, "httpweb", PortProtocol::Unknown),
            ("grpc-web", "TCP", None, "grpc-web-x", PortProtocol::GrpcWeb),
            ("app protocol wins", "TCP", Some("tcp"), "http", PortProtocol::Tcp),
            ("h2c", "TCP", Some("kubernetes.io/h2c"), "", PortProtocol::Http2),
            ("udp", "UDP", None, "http", PortProtocol::Udp),
            ("nothing", "TCP", None, "", PortProtocol::Unknown),
            ("upper case", "TCP", None, "HTTP2-x", PortProtocol::Http2),
        ] {
            assert_eq!(PortProtocol::declared(transport, app_protocol, port_name), expected, "{name}");
        }
    }

    #[test]
    fn visibility() {
        let (owner, other) = (Namespace::from("a"), Namespace::from("b"));
        for (name, entries, visible) in [
            ("none", vec![], true),
            ("all", vec!["*"], true),
            ("own", vec!["."], false),
            ("nobody", vec!["~"], false),
            ("named", vec!["b"], true),
            ("other named", vec!["c"], false),
        ] {
            let entries: Vec<_> = entries.into_iter().map(Visibility::parse).collect();
            assert_eq!(Visibility::any(&entries, &owner, &other), visible, "{name}");
        }
    }
}
