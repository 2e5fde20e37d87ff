//! Accepting connections: where they wanted to go, what they speak, which filter chain serves them.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use lateen_dataplane::filter_chain;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::state::{ActiveListener, ChainRuntime, ListenerHandle};
use crate::stream::Stream;
use crate::worker::{ConnectionGuard, Worker};
use crate::{connection, inspect, socket, tcp};

/// What is known of a client's connection.
#[derive(Debug, Clone, Default)]
pub struct ConnectionFacts {
    /// The original destination where the connection was redirected, else our end.
    pub local: Option<SocketAddr>,
    /// The client.
    pub remote: Option<SocketAddr>,
    /// The peer.
    pub direct: Option<SocketAddr>,
    /// SNI.
    pub server_name: Option<Arc<str>>,
    /// What the HTTP inspector found.
    pub http: Option<inspect::Http>,
}

/// Accepts until told to stop.
pub async fn accept(
    worker: Rc<Worker>,
    handle: Arc<ListenerHandle>,
    socket: TcpListener,
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

fn serve_accepted(worker: &Rc<Worker>, handle: &Arc<ListenerHandle>, stream: TcpStream, peer: SocketAddr) {
    let _ = stream.set_nodelay(true);
    let mut active = handle.active.load_full();
    let mut local = stream.local_addr().ok();
    if (active.config.original_destination || active.config.hand_off)
        && let Some(original) = socket::original_destination(&stream.as_fd())
    {
        // A connection that was not redirected has its own address as the original one.
        let redirected = Some(original) != local;
        local = Some(original);
        if active.config.hand_off
            && redirected
            && let Some(other) = worker.state.listeners.load().for_destination(original)
            && !Arc::ptr_eq(other, handle)
        {
            active = other.active.load_full();
        }
    }
    let facts =
        ConnectionFacts { local, remote: Some(peer), direct: Some(peer), ..ConnectionFacts::default() };
    tokio::task::spawn_local(serve(Rc::clone(worker), active, Stream::Tcp(stream), facts));
}

/// Serves a connection that was made in this process.
pub async fn serve_memory(worker: Rc<Worker>, handle: Arc<ListenerHandle>, stream: tokio::io::DuplexStream) {
    let active = handle.active.load_full();
    serve(worker, active, Stream::Memory(stream), ConnectionFacts::default()).await;
}

async fn serve(worker: Rc<Worker>, listener: Arc<ActiveListener>, stream: Stream, facts: ConnectionFacts) {
    let _guard = ConnectionGuard::new(&worker);
    let stats = listener.stats;
    worker.stats.increment(stats.downstream_cx_total);
    worker.stats.increment(stats.downstream_cx_active);
    dispatch(&worker, &listener, stream, facts).await;
    worker.stats.decrement(stats.downstream_cx_active);
    worker.stats.increment(stats.downstream_cx_destroy);
}

async fn dispatch(
    worker: &Rc<Worker>,
    listener: &Arc<ActiveListener>,
    mut stream: Stream,
    mut facts: ConnectionFacts,
) {
    let config = &listener.config;
    let mut input = BytesMut::new();
    let mut found = inspect::Found::default();
    if config.inspect_http || config.inspect_tls {
        let inspection = look(&mut stream, &mut input, config.inspect_tls, config.inspect_http);
        match tokio::time::timeout(config.inspect_timeout.unwrap_or(Duration::from_secs(86_400)), inspection)
            .await
        {
            Ok(Some(seen)) => found = seen,
            Ok(None) => return,
            Err(_) => {
                worker.stats.increment(listener.stats.downstream_pre_cx_timeout);
                if !config.continue_on_timeout {
                    return;
                }
            }
        }
    }
    facts.server_name = found.server_name.as_deref().map(Arc::from);
    facts.http = found.http;
    let protocols: Vec<&str> = match found.http {
        Some(http) => vec![http.as_str()],
        None => found.application_protocols.iter().map(String::as_str).collect(),
    };
    let chain = config.chains.find(&filter_chain::ConnectionFacts {
        destination: facts.local,
        source: facts.remote,
        direct_source: facts.direct,
        server_name: found.server_name.as_deref(),
        transport_protocol: match found.tls {
            Some(true) => "tls",
            _ => "raw_buffer",
        },
        application_protocols: &protocols,
    });
    let Some(chain) = chain else {
        worker.stats.increment(listener.stats.no_filter_chain_match);
        tracing::debug!(listener = %config.name, destination = ?facts.local, "no filter chain serves this connection");
        return;
    };
    match listener.chain(chain) {
        ChainRuntime::Http(runtime) => {
            connection::serve(worker, listener, &runtime, stream, input, facts).await
        }
        ChainRuntime::Tcp(runtime) => tcp::serve(worker, listener, &runtime, stream, input, facts).await,
        ChainRuntime::Close => {}
    }
}

/// Reads until the inspectors know enough. None where the client is gone before it said anything.
async fn look(stream: &mut Stream, input: &mut BytesMut, tls: bool, http: bool) -> Option<inspect::Found> {
    loop {
        if !input.is_empty()
            && let Some(found) = inspect::inspect(input, tls, http)
        {
            return Some(found);
        }
        if input.len() > inspect::MAX {
            return Some(inspect::Found::default());
        }
        match stream.read_buf(input).await {
            Ok(0) | Err(_) if input.is_empty() => return None,
            Ok(0) | Err(_) => return Some(inspect::inspect(input, tls, http).unwrap_or_default()),
            Ok(_) => {}
        }
    }
}
