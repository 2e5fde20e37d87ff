//! Sidecar: what the proxies of some workloads listen to and know.

use crate::meta::{resource, versions};
use crate::networking::{ConnectionPoolSettings, Destination, ServerTlsSettings};
use crate::selection::WorkloadSelector;

message! {
    /// Narrows what the proxies of some workloads listen to and what they may reach.
    pub struct Sidecar {
        /// Workloads; without it, all of the namespace.
        pub workload_selector: Option<WorkloadSelector>,
        /// Inbound listeners; without any, they follow the services.
        pub ingress: Vec<IstioIngressListener>,
        /// Outbound listeners and the services they know.
        pub egress: Vec<IstioEgressListener>,
        /// Limits of inbound connections.
        pub inbound_connection_pool: Option<ConnectionPoolSettings>,
        /// What happens to destinations that nobody knows.
        pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
    }

    /// An inbound listener.
    #[schemars(extend("required" = ["port"]))]
    pub struct IstioIngressListener {
        /// Port.
        pub port: SidecarPort,
        /// Address to bind to.
        pub bind: String,
        /// How traffic gets there.
        pub capture_mode: CaptureMode,
        /// Where the application listens: `127.0.0.1:PORT`, `0.0.0.0:PORT`, `[::1]:PORT` or `unix:///path`.
        pub default_endpoint: String,
        /// TLS of the listener.
        pub tls: Option<ServerTlsSettings>,
        /// Limits of connections to the application.
        pub connection_pool: Option<ConnectionPoolSettings>,
    }

    /// An outbound listener.
    #[schemars(extend("required" = ["hosts"]))]
    pub struct IstioEgressListener {
        /// Port; without it, all ports of the hosts.
        pub port: Option<SidecarPort>,
        /// Address or Unix socket to bind to.
        pub bind: String,
        /// How traffic gets there.
        pub capture_mode: CaptureMode,
        /// Services, as `namespace/host`: `*` any namespace, `.` this one, `~` none.
        pub hosts: Vec<String>,
    }

    /// A port of a sidecar's listener.
    pub struct SidecarPort {
        /// Number.
        pub number: u32,
        /// Protocol.
        pub protocol: String,
        /// Name.
        pub name: String,
        /// Not used.
        pub target_port: u32,
    }

    /// What happens to destinations that nobody knows.
    pub struct OutboundTrafficPolicy {
        /// Whether they are let through.
        pub mode: OutboundTrafficPolicyMode,
        /// Proxy that takes them.
        pub egress_proxy: Option<Destination>,
    }
}

enumeration! {
    /// How traffic gets to a listener: as the proxy is set up, by redirection, or not at all.
    pub enum CaptureMode { #[default] Default, Iptables, None }

    /// Whether unknown destinations are refused or let through.
    pub enum OutboundTrafficPolicyMode { #[default] RegistryOnly, AllowAny }
}

resource!(
    Sidecar, "networking.istio.io", versions!("v1", "v1beta1", "v1alpha3"), "sidecars", "sidecar",
    short: [], category: "networking-istio-io", spec_required: false,
    columns: []
);
