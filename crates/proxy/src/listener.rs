//! Accepting connections: where they wanted to go, what they speak, which filter chain serves them.

use std::any::Any;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use lateen_dataplane::filter_chain;
use lateen_dataplane::filter_state::FilterState;
use lateen_dataplane::format::Source;
use lateen_dataplane::stream_info::{ConnectionInfo, ResponseFlags, StreamInfo, TlsView};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::oneshot;

use crate::bind::Listening;
use crate::overload::Counted;
use crate::state::{ActiveChain, ActiveListener, ChainRuntime, ListenerHandle};
use crate::stream::Stream;
use crate::tls::TlsInfo;
use crate::worker::{ConnectionGuard, Worker};
use crate::{connection, inspect, network, preamble, proxy_protocol, socket, tcp, tls};

/// What is known of a client's connection.
#[derive(Debug, Clone, Default)]
pub struct ConnectionFacts {
    /// The original destination where the connection was redirected, else our end.
    pub local: Option<SocketAddr>,
    /// Whether `local` is where the client wanted to go, and not our own address.
    pub restored: bool,
    /// The client.
    pub remote: Option<SocketAddr>,
    /// The peer.
    pub direct: Option<SocketAddr>,
    /// SNI.
    pub server_name: Option<Arc<str>>,
    /// What the HTTP inspector found.
    pub http: Option<inspect::Http>,
    /// What filters set.
    pub filter_state: FilterState,
    /// The header that came before everything else; of its values, those that are passed on.
    pub proxy_header: Option<Arc<proxy_protocol::Header>>,
    /// What HTTP filters keep for as long as the connection lives, by the address of their configuration.
    pub kept: RefCell<Vec<(usize, Rc<dyn Any>)>>,
    /// What is known of its TLS.
    pub tls: Option<Arc<TlsInfo>>,
    /// What does not change while it lives.
    pub info: Option<Arc<ConnectionInfo>>,
    /// Who is at the other end, where both tell each other.
    pub peer: Option<network::exchange::Peer>,
}

impl ConnectionFacts {
    /// Where an ORIGINAL_DST cluster sends the connection. Not to our own address: that would come back here.
    pub fn destination(&self) -> Option<SocketAddr> {
        self.local.filter(|_| self.restored)
    }
}

/// Connections are numbered, for logs.
static NEXT_CONNECTION: AtomicU64 = AtomicU64::new(0);

/// A socket that connections come from, on this thread's runtime.
#[derive(Debug)]
pub enum Acceptor {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixListener),
}

impl Acceptor {
    /// Of a socket that does not block.
    pub fn new(socket: Listening) -> std::io::Result<Self> {
        Ok(match socket {
            Listening::Tcp(socket) => Self::Tcp(TcpListener::from_std(socket)?),
            Listening::Unix(socket) => Self::Unix(UnixListener::from_std(socket)?),
        })
    }

    /// The next connection, and the peer's address where it has one.
    async fn accept(&self) -> std::io::Result<(Stream, Option<SocketAddr>)> {
        match self {
            Self::Tcp(socket) => {
                let (stream, peer) = socket.accept().await?;
                let _ = stream.set_nodelay(true);
                Ok((Stream::Tcp(stream), Some(peer)))
            }
            Self::Unix(socket) => Ok((Stream::Unix(socket.accept().await?.0), None)),
        }
    }
}

/// Accepts until told to stop.
pub async fn accept(
    worker: Rc<Worker>,
    handle: Arc<ListenerHandle>,
    socket: Acceptor,
    mut stop: oneshot::Receiver<()>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            // Told to stop, or the one who would tell is gone.
            _ = &mut stop => break,
        };
        match accepted {
            Ok((stream, peer)) => serve_accepted(&worker, &handle, stream, peer),
            Err(error) => {
                tracing::debug!(listener = %handle.name, %error, "accepting failed");
                if is_exhaustion(&error) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }
    // What the kernel has accepted already must not be reset by closing the socket.
    while let Some(Ok((stream, peer))) = futures::FutureExt::now_or_never(socket.accept()) {
        serve_accepted(&worker, &handle, stream, peer);
    }
}

fn is_exhaustion(error: &std::io::Error) -> bool {
    use nix::libc::{EMFILE, ENFILE, ENOBUFS, ENOMEM};
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS | ENOMEM))
}

fn serve_accepted(
    worker: &Rc<Worker>,
    handle: &Arc<ListenerHandle>,
    stream: Stream,
    peer: Option<SocketAddr>,
) {
    let mut active = handle.active.load_full();
    let mut local = stream.local_address();
    let mut restored = false;
    if (active.config.original_destination || active.config.hand_off)
        && let Stream::Tcp(stream) = &stream
        && let Some(original) = socket::original_destination(stream)
    {
        // A connection that was not redirected has its own address as the original one.
        let redirected = Some(original) != local;
        local = Some(original);
        restored = redirected;
        if active.config.hand_off
            && redirected
            && let Some(other) = worker.state.listeners.load().for_destination(original)
            && !Arc::ptr_eq(other, handle)
        {
            active = other.active.load_full();
        }
    }
    // Boxed, as all that is large and passed on: each future on the way would hold a copy, for as long as the
    // connection is open.
    let facts = Box::new(ConnectionFacts {
        local,
        restored,
        remote: peer,
        direct: peer,
        ..ConnectionFacts::default()
    });
    tokio::task::spawn_local(serve(Rc::clone(worker), active, stream, facts));
}

/// Serves a connection that was made in this process.
pub async fn serve_memory(worker: Rc<Worker>, handle: Arc<ListenerHandle>, stream: tokio::io::DuplexStream) {
    let active = handle.active.load_full();
    serve(worker, active, Stream::Memory(stream), Box::default()).await;
}

/// Serves a connection to its end.
async fn serve(
    worker: Rc<Worker>,
    listener: Arc<ActiveListener>,
    stream: Stream,
    facts: Box<ConnectionFacts>,
) {
    let Some(_limited) = admit(&worker, &listener) else { return };
    let _guard = ConnectionGuard::new(&worker);
    let begun = Instant::now();
    let mut info = None;
    dispatch(&worker, &listener, stream, facts, &mut info).await;
    if let Some(mut info) = info.filter(|_| !listener.log.is_empty()) {
        info.duration = Some(begun.elapsed());
        let hostname = &worker.state.hostname;
        let source = Source { info: &info, request: None, response: None, trailers: None, hostname };
        for sink in &listener.log {
            sink.log(&source, worker.random());
        }
    }
}

/// Whether there may be one more connection.
fn admit<'a>(worker: &Worker, listener: &'a ActiveListener) -> Option<Option<Counted<'a>>> {
    let state = &worker.state;
    if state.connections.load(Relaxed) >= state.limits.connections && !listener.config.ignore_global_limit {
        worker.stats.increment(listener.stats.downstream_global_cx_overflow);
        return None;
    }
    match &listener.limit {
        None => Some(None),
        Some((limit, count)) => {
            let counted = Counted::take(count, *limit);
            if counted.is_none() {
                worker.stats.increment(listener.stats.downstream_cx_overflow);
            }
            counted.map(Some)
        }
    }
}

/// Inspects a connection, finds its chain and serves it. What is to be logged of it is left in `info`.
async fn dispatch(
    worker: &Rc<Worker>,
    listener: &Arc<ActiveListener>,
    mut stream: Stream,
    mut facts: Box<ConnectionFacts>,
    info: &mut Option<Box<StreamInfo>>,
) {
    let mut input = BytesMut::new();
    let Some(found) = preamble::read(worker, listener, &mut stream, &mut input, &mut facts).await else {
        *info = Some(Box::new(facts.stream_info(worker)));
        refuse_bytes(&stream, &input);
        return;
    };
    facts.server_name = found.server_name.as_deref().map(Arc::from);
    facts.http = found.http;
    let Some(chain) = find_chain(listener, &facts, &found) else {
        worker.stats.increment(listener.stats.no_filter_chain_match);
        let mut missed = facts.stream_info(worker);
        missed.flags.set(ResponseFlags::NO_ROUTE);
        missed.response_code_details = Some("filter_chain_not_found");
        *info = Some(Box::new(missed));
        tracing::debug!(listener = %listener.config.name, destination = ?facts.local, "no filter chain serves this connection");
        refuse_bytes(&stream, &input);
        return;
    };
    let stats = listener.stats;
    worker.stats.increment(stats.downstream_cx_total);
    worker.stats.increment(stats.downstream_cx_active);
    let begun = Instant::now();
    let socket = facts.direct.zip(stream.descriptor());
    if let Some((peer, socket)) = socket {
        worker.open.borrow_mut().add(socket, &chain.drain, peer);
    }
    *info = run_chain(worker, listener, &chain, stream, input, facts).await;
    if let Some((_, socket)) = socket {
        worker.open.borrow_mut().remove(socket);
    }
    worker.stats.decrement(stats.downstream_cx_active);
    worker.stats.increment(stats.downstream_cx_destroy);
    worker.stats.record(stats.downstream_cx_length_ms, begun.elapsed().as_millis() as u64);
}

/// Of a connection that is closed before anything is served on it, with bytes that were only looked at: these count as
/// not read, and the kernel resets such a connection.
fn refuse_bytes(stream: &Stream, input: &BytesMut) {
    if !input.is_empty() {
        stream.reset_when_closed();
    }
}

fn find_chain(
    listener: &ActiveListener,
    facts: &ConnectionFacts,
    found: &inspect::Found,
) -> Option<Arc<ActiveChain>> {
    let protocols: Vec<&str> = match found.http {
        Some(http) => vec![http.as_str()],
        None => found.application_protocols.iter().map(String::as_str).collect(),
    };
    let chain = listener.config.chains.find(&filter_chain::ConnectionFacts {
        destination: facts.local,
        source: facts.remote,
        direct_source: facts.direct,
        server_name: found.server_name.as_deref(),
        transport_protocol: match found.tls {
            Some(true) => "tls",
            _ => "raw_buffer",
        },
        application_protocols: &protocols,
    })?;
    listener.chain(chain).cloned()
}

/// Takes a connection through its chain. Gives what the listener's log says of it, if there is such a log.
async fn run_chain(
    worker: &Rc<Worker>,
    listener: &Arc<ActiveListener>,
    chain: &ActiveChain,
    stream: Stream,
    input: BytesMut,
    mut facts: Box<ConnectionFacts>,
) -> Option<Box<StreamInfo>> {
    facts.info = Some(Arc::new(ConnectionInfo {
        id: NEXT_CONNECTION.fetch_add(1, Relaxed),
        direct_local: stream.local_address(),
        filter_chain: Some(Arc::clone(&chain.name)),
        direction: listener.config.direction,
        tls: facts.tls.clone().map(|tls| tls as Arc<dyn TlsView>),
        listener_metadata: listener.config.metadata.clone(),
        filter_chain_metadata: chain.metadata.clone(),
        ..ConnectionInfo::default()
    }));
    let _held = match chain.gates.enter(worker, &mut facts) {
        Ok(held) => held,
        Err(refused) => {
            let mut info = Box::new(facts.stream_info(worker));
            tcp::note_refusal(&mut info, &refused);
            if let Some(delay) = refused.delay {
                tokio::time::sleep(delay).await;
                info.duration = Some(delay);
            }
            if let ChainRuntime::Tcp(runtime) = &chain.end {
                tcp::refused(worker, runtime, &info);
            }
            refuse_bytes(&stream, &input);
            return Some(info);
        }
    };
    let (mut stream, mut input) = match &chain.tls {
        None => (stream, input),
        Some(tls) => {
            // Boxed: the state of a handshake is large, and a connection that is served needs it no more.
            let accepted = Box::pin(tls::accept(&worker.stats, tls, stream, input, chain.tls_timeout)).await;
            match accepted {
                Ok(stream) => {
                    facts.tls = Some(Arc::clone(stream.info()));
                    let tls = Some(Arc::clone(stream.info()) as Arc<dyn TlsView>);
                    if let Some(info) = &mut facts.info {
                        Arc::make_mut(info).tls = tls;
                    }
                    (Stream::Tls(Box::new(stream)), BytesMut::new())
                }
                Err(reason) => {
                    tracing::debug!(listener = %listener.config.name, %reason, "a TLS handshake failed");
                    let mut info = Box::new(facts.stream_info(worker));
                    if let ChainRuntime::Http(runtime) = &chain.end {
                        // To the connection manager it was a connection.
                        worker.stats.increment(runtime.stats.downstream_cx_total);
                        worker.stats.increment(runtime.stats.downstream_cx_ssl_total);
                        worker.stats.increment(runtime.stats.downstream_cx_destroy);
                        // As Envoy has it, the client is who ended it, unless it was too slow.
                        worker.stats.increment(match tls::is_timeout(&reason) {
                            true => runtime.stats.downstream_cx_destroy_local,
                            false => runtime.stats.downstream_cx_destroy_remote,
                        });
                    }
                    info.downstream_transport_failure = Some(reason);
                    if let ChainRuntime::Tcp(runtime) = &chain.end {
                        tcp::refused(worker, runtime, &info);
                    }
                    return Some(info);
                }
            }
        }
    };
    if chain.gates.has_late() {
        // Boxed: few chains have such gates.
        match Box::pin(chain.gates.pass(worker, &mut facts, stream, &mut input)).await {
            Ok(passed) => stream = passed,
            Err(refused) => {
                let mut info = Box::new(facts.stream_info(worker));
                tcp::note_refusal(&mut info, &refused);
                if let ChainRuntime::Tcp(runtime) = &chain.end {
                    tcp::refused(worker, runtime, &info);
                }
                return Some(info);
            }
        }
    }
    let mut info = (!listener.log.is_empty()).then(|| Box::new(facts.stream_info(worker)));
    match &chain.end {
        ChainRuntime::Http(runtime) => {
            connection::serve(worker, listener, &chain.drain, runtime, stream, input, facts).await;
        }
        ChainRuntime::Tcp(runtime) => {
            let begun = info.unwrap_or_else(|| Box::new(facts.stream_info(worker)));
            // Boxed: the other ends of a chain need less.
            let served = tcp::serve(worker, listener, runtime, chain, stream, input, &facts, *begun);
            info = Some(Box::new(Box::pin(served).await));
        }
        ChainRuntime::Echo => {
            network::echo(&chain.drain, stream, input, info.get_or_insert_default()).await;
        }
        ChainRuntime::DirectResponse(text) => {
            network::respond(text, stream, input, info.get_or_insert_default()).await;
        }
        ChainRuntime::Close => {}
    }
    info
}
