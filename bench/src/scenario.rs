//! What is measured, and how much of Envoy's figure ours may be.

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Down {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 without TLS.
    Http2,
    /// HTTP/1.1 in TLS.
    Tls,
}

/// How the load is made.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// What the clients speak.
    pub down: Down,
    /// Whether the upstream speaks HTTP/2.
    pub http2_upstream: bool,
    /// A TCP proxy in place of an HTTP one.
    pub tcp: bool,
    /// Two proxies, and mutual TLS with HTTP/2 between them.
    pub pair: bool,
    /// What is asked for.
    pub path: &'static str,
    /// How many connections at a time.
    pub connections: u32,
    /// How many streams on each.
    pub streams: u32,
    /// A new connection for each request.
    pub close: bool,
    /// Whether a message is posted.
    pub post: bool,
    /// How many requests a second come at random moments; none for as many as go.
    pub rate: Option<u32>,
    /// With the filters that Istio's telemetry needs.
    pub telemetry: bool,
}

/// What kind of measurement it is.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Processor time a request.
    Load(Load),
    /// Memory after the first answer, with so many clusters.
    Clusters(u32),
    /// Milliseconds from the start to the first answer.
    Start,
    /// Bytes that a connection takes that waits for its next request; so many of them.
    IdleConnections(u32),
}

/// A measurement.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// A short name.
    pub name: &'static str,
    /// A line about it.
    pub what: &'static str,
    /// What it is.
    pub kind: Kind,
    /// The target.
    pub target: Target,
}

/// What is wanted.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    /// At most this part of Envoy's figure.
    OfEnvoy(f64),
    /// At most this part of our own figure in another scenario.
    OfOurs(&'static str, f64),
    /// At most this.
    AtMost(f64),
}

/// Many small HTTP/1.1 requests; the others say what differs.
const SMALL: Load = Load {
    down: Down::Http1,
    http2_upstream: false,
    tcp: false,
    pair: false,
    path: "/small",
    connections: 64,
    streams: 1,
    close: false,
    post: false,
    rate: None,
    telemetry: false,
};

const fn load(name: &'static str, what: &'static str, load: Load, target: f64) -> Scenario {
    Scenario { name, what, kind: Kind::Load(load), target: Target::OfEnvoy(target) }
}

/// Everything.
pub const ALL: &[Scenario] = &[
    load("h1-small", "HTTP/1.1, 128 bytes", SMALL, 0.45),
    load("h1-paced", "the same, 2000 requests a second", Load { rate: Some(2000), ..SMALL }, 0.55),
    load("h1-64k", "HTTP/1.1, 64 KiB", Load { path: "/64k", connections: 32, ..SMALL }, 0.60),
    load(
        "h2-h1",
        "HTTP/2 to HTTP/1.1",
        Load { down: Down::Http2, connections: 16, streams: 10, ..SMALL },
        0.50,
    ),
    load(
        "h2-h2",
        "HTTP/2 to HTTP/2, like gRPC",
        Load {
            down: Down::Http2,
            http2_upstream: true,
            connections: 16,
            streams: 10,
            path: "/grpc",
            post: true,
            ..SMALL
        },
        0.70,
    ),
    load("tls-h1", "HTTP/1.1 in TLS 1.3", Load { down: Down::Tls, ..SMALL }, 0.55),
    load("mtls-pair", "two proxies, mutual TLS between them", Load { pair: true, ..SMALL }, 0.50),
    load("tcp-small", "TCP proxy, 128 bytes", Load { tcp: true, ..SMALL }, 0.85),
    load("tcp-bulk", "TCP proxy, 16 MiB", Load { tcp: true, path: "/16m", connections: 8, ..SMALL }, 0.65),
    load("churn", "a connection a request", Load { close: true, connections: 32, ..SMALL }, 0.65),
    load(
        "tls-churn",
        "a TLS connection a request",
        Load { down: Down::Tls, close: true, connections: 32, ..SMALL },
        1.00,
    ),
    Scenario {
        name: "telemetry",
        what: "h1-small with Istio's telemetry filters, to h1-small",
        kind: Kind::Load(Load { telemetry: true, ..SMALL }),
        target: Target::OfOurs("h1-small", 1.25),
    },
    Scenario {
        name: "start",
        what: "start to first answer",
        kind: Kind::Start,
        target: Target::OfEnvoy(0.30),
    },
    Scenario {
        name: "idle",
        what: "memory, one cluster",
        kind: Kind::Clusters(1),
        target: Target::OfEnvoy(0.20),
    },
    Scenario {
        name: "clusters-1k",
        what: "memory, 1,000 clusters",
        kind: Kind::Clusters(1000),
        target: Target::OfEnvoy(0.20),
    },
    Scenario {
        name: "clusters-10k",
        what: "memory, 10,000 clusters",
        kind: Kind::Clusters(10_000),
        target: Target::OfEnvoy(0.10),
    },
    Scenario {
        name: "connections",
        what: "memory of an idle connection, 2,000 of them",
        kind: Kind::IdleConnections(2000),
        target: Target::AtMost(4096.0),
    },
];

impl Scenario {
    /// How often it is measured: memory does not vary, and Envoy takes long to start with many clusters.
    pub fn rounds(&self, rounds: usize) -> usize {
        match self.kind {
            Kind::Clusters(2..) => rounds.min(1),
            Kind::IdleConnections(_) => rounds.min(3),
            _ => rounds,
        }
    }

    /// What its figure is counted in.
    pub fn unit(&self) -> &'static str {
        match self.kind {
            Kind::Load(Load { path: "/16m", .. }) => "us CPU / MiB",
            Kind::Load(_) => "us CPU / request",
            Kind::Clusters(_) => "MiB",
            Kind::Start => "ms",
            Kind::IdleConnections(_) => "bytes",
        }
    }
}
