//! Istio's filters: who is at the other end (`peer_metadata`), and its standard metrics (`istio.stats`).

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use lateen_dataplane::format::Source;
use lateen_dataplane::head::{Headers, ResponseHead};
use lateen_dataplane::istio::{
    Facts, Key, Metric, PEER_METADATA, PEER_METADATA_ID, PeerMetadataFilter, Reporter, StatsFilter, Workload,
    sizes,
};
use lateen_dataplane::listener::Direction;

use super::{BodyFilter, BodyStep, HttpFilter, Step};
use crate::message::BodyEvent;
use crate::router::Exchange;
use crate::state::State;
use crate::stats::{Counter, Histogram, Kind, Shard, Stats};

type FastMap<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// Entries that a thread remembers of each kind before it begins anew.
const REMEMBERED: usize = 4096;

/// What peers said of themselves, as it was written.
type Peers = FastMap<Box<[u8]>, Option<Arc<Workload>>>;

/// Counts of messages to the host and from it.
type Messages = (Rc<Cell<u64>>, Rc<Cell<u64>>);

thread_local! {
    static PEERS: RefCell<Peers> = RefCell::default();
    static COMBINATIONS: RefCell<FastMap<(usize, Key), Rc<Combination>>> = RefCell::default();
}

/// What we are, as a workload.
#[derive(Debug, Default)]
pub struct Identity {
    /// For our own labels.
    pub workload: Workload,
    /// The value of `x-envoy-peer-metadata`.
    pub header: String,
    /// The value of `x-envoy-peer-metadata-id`.
    pub id: String,
}

impl Identity {
    /// Of the bootstrap's node.
    pub fn new(node: &lateen_envoy::envoy::config::core::v3::Node) -> Self {
        let metadata = node.metadata.clone().map(lateen_dataplane::compile::structure).unwrap_or_default();
        let workload = Workload::from_metadata(&metadata);
        Self { header: workload.to_header(), workload, id: node.id.clone() }
    }
}

/// The workload of a header; each is decoded once a thread.
fn peer_of(value: &[u8]) -> Option<Arc<Workload>> {
    PEERS.with_borrow_mut(|peers| {
        if let Some(known) = peers.get(value) {
            return known.clone();
        }
        if peers.len() >= REMEMBERED {
            peers.clear();
        }
        let peer = Workload::from_header(value).map(Arc::new);
        peers.insert(value.into(), peer.clone());
        peer
    })
}

/// Takes the two headers out.
fn take_headers(headers: &mut Headers) -> (Option<Arc<Workload>>, bool) {
    let peer = headers.get(PEER_METADATA).and_then(peer_of);
    let told = headers.contains(PEER_METADATA);
    let id = headers.remove(PEER_METADATA_ID);
    headers.remove(PEER_METADATA);
    (peer, told || id)
}

fn put_headers(headers: &mut Headers, identity: &Identity) {
    headers.set(PEER_METADATA, &identity.header);
    headers.set(PEER_METADATA_ID, &identity.id);
}

/// The exchange of metadata for one request.
pub struct PeerMetadata {
    config: PeerMetadataFilter,
    told: bool,
}

impl PeerMetadata {
    pub(super) fn start(config: PeerMetadataFilter) -> Self {
        Self { config, told: false }
    }

    /// Whether the request goes to a host outside of the mesh.
    fn is_external(exchange: &Exchange) -> bool {
        let Some(name) = exchange.found.as_ref().and_then(|found| found.cluster(&exchange.head)) else {
            return true;
        };
        if matches!(&*name, "PassthroughCluster" | "InboundPassthroughCluster" | "BlackHoleCluster") {
            return true;
        }
        let clusters = exchange.worker.state.clusters.load();
        let metadata = clusters.get(&name).and_then(|cluster| cluster.config.metadata.clone());
        let external = metadata.as_ref().and_then(|metadata| metadata.get("istio", ["external"]).cloned());
        external == Some(lateen_dataplane::metadata::Value::Bool(true))
    }
}

impl HttpFilter for PeerMetadata {
    fn request_head(&mut self, exchange: &mut Exchange) -> Step {
        if self.config.discover_downstream {
            let (peer, told) = take_headers(&mut exchange.head.headers);
            self.told = told;
            if peer.is_some() {
                exchange.info.peers.get_or_insert_default().downstream = peer;
            }
        }
        if self.config.tell_upstream && !(self.config.skip_external && Self::is_external(exchange)) {
            put_headers(&mut exchange.head.headers, exchange.worker.state.identity());
        }
        Step::Continue
    }

    fn response_head(&mut self, exchange: &mut Exchange, head: &mut ResponseHead) -> Step {
        if self.config.discover_upstream {
            let (peer, _) = take_headers(&mut head.headers);
            if peer.is_some() {
                exchange.info.peers.get_or_insert_default().upstream = peer;
            }
        }
        if self.config.tell_downstream && self.told {
            put_headers(&mut head.headers, exchange.worker.state.identity());
        }
        Step::Continue
    }
}

type Names = &'static [(&'static str, Kind)];

static REQUESTS: Names = &[("istio_requests_total", Kind::Counter)];
static DURATION: Names = &[("istio_request_duration_milliseconds", Kind::Histogram)];
static REQUEST_BYTES: Names = &[("istio_request_bytes", Kind::Histogram)];
static RESPONSE_BYTES: Names = &[("istio_response_bytes", Kind::Histogram)];
static REQUEST_MESSAGES: Names = &[("istio_request_messages_total", Kind::Counter)];
static RESPONSE_MESSAGES: Names = &[("istio_response_messages_total", Kind::Counter)];
static TCP_SENT: Names = &[("istio_tcp_sent_bytes_total", Kind::Counter)];
static TCP_RECEIVED: Names = &[("istio_tcp_received_bytes_total", Kind::Counter)];
static TCP_OPENED: Names = &[("istio_tcp_connections_opened_total", Kind::Counter)];
static TCP_CLOSED: Names = &[("istio_tcp_connections_closed_total", Kind::Counter)];

/// The statistics of one combination of labels; what is configured away is not there.
struct Combination {
    requests: Option<Counter>,
    duration: Option<Histogram>,
    request_bytes: Option<Histogram>,
    response_bytes: Option<Histogram>,
    request_messages: Option<Counter>,
    response_messages: Option<Counter>,
    tcp_sent: Option<Counter>,
    tcp_received: Option<Counter>,
    tcp_opened: Option<Counter>,
    tcp_closed: Option<Counter>,
    /// Keeps alive what the key knows by address.
    _facts: Facts,
}

/// What all requests share of the filter.
#[derive(Debug)]
pub struct Shared {
    config: Arc<StatsFilter>,
    stats: Stats,
    /// Which filter it is, in what threads remember.
    number: usize,
}

static NEXT_FILTER: AtomicUsize = AtomicUsize::new(0);

impl Shared {
    /// Of a filter's configuration.
    pub fn new(config: &Arc<StatsFilter>, stats: &Stats) -> Self {
        Self { config: Arc::clone(config), stats: stats.clone(), number: NEXT_FILTER.fetch_add(1, Relaxed) }
    }

    /// How often TCP connections that last are reported.
    pub fn tcp_interval(&self) -> Duration {
        self.config.tcp_interval
    }

    fn reporter(&self, source: &Source<'_>) -> Reporter {
        if self.config.waypoint {
            return Reporter::Waypoint;
        }
        match source.info.connection.as_ref().map(|connection| connection.direction) {
            Some(Direction::Inbound) => Reporter::Destination,
            _ => Reporter::Source,
        }
    }

    /// The statistics of a request or connection: one look into a map, unless the combination is new to this thread.
    fn combination(&self, state: &State, source: &Source<'_>) -> Rc<Combination> {
        let reporter = self.reporter(source);
        let facts = self.config.facts(reporter, source);
        let key = (self.number, self.config.key(&facts, source));
        COMBINATIONS.with_borrow_mut(|known| {
            if let Some(combination) = known.get(&key) {
                return Rc::clone(combination);
            }
            if known.len() >= REMEMBERED {
                known.clear();
            }
            let combination = Rc::new(self.resolve(state, reporter, facts, source));
            known.insert(key, Rc::clone(&combination));
            combination
        })
    }

    #[cold]
    fn resolve(&self, state: &State, reporter: Reporter, facts: Facts, source: &Source<'_>) -> Combination {
        let all = self.config.labels(reporter, &state.identity().workload, &facts, source);
        let tcp = source.info.protocol.is_none();
        let grpc = source.request.is_some_and(lateen_dataplane::head::RequestHead::is_grpc);
        let labels = |metric| self.config.labels_of(metric, &all, source);
        let counter = |wanted: bool, metric, names| {
            wanted.then(|| labels(metric)).flatten().map(|labels| self.stats.labelled_counter(labels, names))
        };
        let histogram = |metric, names| {
            (!tcp)
                .then(|| labels(metric))
                .flatten()
                .map(|labels| self.stats.labelled_histogram(labels, names))
        };
        Combination {
            requests: counter(!tcp, Metric::Requests, REQUESTS),
            duration: histogram(Metric::Duration, DURATION),
            request_bytes: histogram(Metric::RequestBytes, REQUEST_BYTES),
            response_bytes: histogram(Metric::ResponseBytes, RESPONSE_BYTES),
            request_messages: counter(grpc, Metric::RequestMessages, REQUEST_MESSAGES),
            response_messages: counter(grpc, Metric::ResponseMessages, RESPONSE_MESSAGES),
            tcp_sent: counter(tcp, Metric::TcpSent, TCP_SENT),
            tcp_received: counter(tcp, Metric::TcpReceived, TCP_RECEIVED),
            tcp_opened: counter(tcp, Metric::TcpOpened, TCP_OPENED),
            tcp_closed: counter(tcp, Metric::TcpClosed, TCP_CLOSED),
            _facts: facts,
        }
    }

    fn request(&self, state: &State, shard: &Shard, source: &Source<'_>, messages: Option<(u64, u64)>) {
        let found = self.combination(state, source);
        let (received, sent) = sizes(source);
        if let Some(requests) = found.requests {
            shard.increment(requests);
        }
        if let Some(duration) = found.duration {
            shard.record(duration, source.info.duration.unwrap_or_default().as_millis() as u64);
        }
        if let Some(bytes) = found.request_bytes {
            shard.record(bytes, received);
        }
        if let Some(bytes) = found.response_bytes {
            shard.record(bytes, sent);
        }
        if let (Some((requests, responses)), Some(up), Some(down)) =
            (messages, found.request_messages, found.response_messages)
        {
            shard.add(up, requests);
            shard.add(down, responses);
        }
    }

    /// A TCP connection has found its upstream.
    pub fn opened(&self, state: &State, shard: &Shard, source: &Source<'_>) {
        if let Some(opened) = self.combination(state, source).tcp_opened {
            shard.increment(opened);
        }
    }

    /// Bytes of a TCP connection since the last report, and whether it has ended.
    pub fn moved(
        &self,
        state: &State,
        shard: &Shard,
        source: &Source<'_>,
        received: u64,
        sent: u64,
        end: bool,
    ) {
        let found = self.combination(state, source);
        if let Some(counter) = found.tcp_received {
            shard.add(counter, received);
        }
        if let Some(counter) = found.tcp_sent {
            shard.add(counter, sent);
        }
        if let Some(closed) = found.tcp_closed.filter(|_| end) {
            shard.increment(closed);
        }
    }
}

/// The metrics of one request.
pub struct IstioStats {
    shared: Arc<Shared>,
    /// Messages to the host and from it, where the request is gRPC.
    messages: Option<Messages>,
}

impl IstioStats {
    pub(super) fn start(shared: &Arc<Shared>, exchange: &Exchange) -> Self {
        Self { shared: Arc::clone(shared), messages: exchange.head.is_grpc().then(Default::default) }
    }
}

impl HttpFilter for IstioStats {
    fn request_body(&mut self, _exchange: &mut Exchange) -> Option<Box<dyn BodyFilter>> {
        let (requests, _) = self.messages.as_ref()?;
        Some(Box::new(MessageCounter { count: Rc::clone(requests), frame: Frame::default() }))
    }

    fn response_body(
        &mut self,
        _exchange: &mut Exchange,
        _head: &ResponseHead,
    ) -> Option<Box<dyn BodyFilter>> {
        let (_, responses) = self.messages.as_ref()?;
        Some(Box::new(MessageCounter { count: Rc::clone(responses), frame: Frame::default() }))
    }

    fn complete(&mut self, exchange: &mut Exchange, response: Option<&(ResponseHead, Option<Headers>)>) {
        let state = &exchange.worker.state;
        let source = Source {
            info: &exchange.info,
            request: Some(&exchange.head),
            response: response.map(|(head, _)| head),
            trailers: response.and_then(|(_, trailers)| trailers.as_ref()),
            hostname: &state.hostname,
        };
        let messages = self.messages.as_ref().map(|(requests, responses)| (requests.get(), responses.get()));
        self.shared.request(state, &exchange.worker.stats, &source, messages);
    }
}

/// Where in a stream of messages we are: each has a flag, a length of four bytes, and so many bytes (gRPC over HTTP/2,
/// "Length-Prefixed-Message").
#[derive(Debug, Default)]
struct Frame {
    prefix: [u8; 5],
    read: usize,
    left: usize,
}

impl Frame {
    /// How many messages begin in `bytes`.
    fn count(&mut self, mut bytes: &[u8]) -> u64 {
        let mut count = 0;
        while !bytes.is_empty() {
            if self.left > 0 {
                let skip = self.left.min(bytes.len());
                self.left -= skip;
                bytes = &bytes[skip..];
                continue;
            }
            let take = (5 - self.read).min(bytes.len());
            self.prefix[self.read..self.read + take].copy_from_slice(&bytes[..take]);
            self.read += take;
            bytes = &bytes[take..];
            if self.read == 5 {
                let [_, length @ ..] = self.prefix;
                self.left = u32::from_be_bytes(length) as usize;
                self.read = 0;
                count += 1;
            }
        }
        count
    }
}

/// Counts the messages of one direction.
struct MessageCounter {
    count: Rc<Cell<u64>>,
    frame: Frame,
}

impl BodyFilter for MessageCounter {
    fn event(&mut self, event: BodyEvent, out: &mut VecDeque<BodyEvent>) -> BodyStep {
        if let BodyEvent::Data(bytes) = &event {
            self.count.set(self.count.get() + self.frame.count(bytes));
        }
        out.push_back(event);
        BodyStep::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let stream = [&[0, 0, 0, 0, 3, 1, 2, 3][..], &[1, 0, 0, 0, 0], &[0, 0, 0, 0, 1, 9]].concat();
        for size in 1..stream.len() {
            let mut frame = Frame::default();
            let count: u64 = stream.chunks(size).map(|chunk| frame.count(chunk)).sum();
            assert_eq!(count, 3, "in parts of {size}");
        }
    }

    #[test]
    fn headers_are_taken_and_put() {
        let mut headers = Headers::new();
        assert_eq!(take_headers(&mut headers), (None, false));
        let workload = Workload { name: "a-v1".into(), namespace: "ns".into(), ..Workload::default() };
        let identity = Identity { header: workload.to_header(), workload, id: "sidecar~a".to_owned() };
        put_headers(&mut headers, &identity);
        let (peer, told) = take_headers(&mut headers);
        assert!(told && headers.is_empty());
        let peer = peer.unwrap();
        assert_eq!((&*peer.name, &*peer.namespace, &*peer.canonical_name), ("a-v1", "ns", "a-v1"));
        // What cannot be read is taken out, too.
        headers.set(PEER_METADATA, "%%%");
        assert_eq!(take_headers(&mut headers), (None, true));
        assert!(headers.is_empty());
    }
}
