//! Servers that answer as a case says and write down what they got.

mod http1;
mod http2;
mod raw;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::Result;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::case::{Response, Upstream, UpstreamKind};
use crate::config::free_address;
use crate::http1::{Body, Connection, Fields, Head};
use crate::tls::Certificates;

/// A request as it arrived.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// The number of its connection.
    pub connection: usize,
    /// First line (HTTP/2: method and path) and fields (HTTP/2: pseudo-fields too).
    pub head: Head,
    /// The body.
    pub body: Vec<u8>,
    /// The trailers.
    pub trailers: Fields,
    /// How the request ended; empty while it has not.
    pub end: String,
}

/// A connection as it was.
#[derive(Debug, Clone, Default)]
pub struct ConnectionRecord {
    /// What it began with: server name, protocol, client certificate, PROXY protocol header.
    pub beginning: Vec<(String, String)>,
    /// What came, where that is not HTTP.
    pub bytes: Vec<u8>,
    /// How the proxy ended it.
    pub end: String,
}

#[derive(Debug, Default)]
struct State {
    name: String,
    responses: Vec<(Response, usize)>,
    records: Vec<Record>,
    connections: Vec<ConnectionRecord>,
}

/// What an upstream's tasks share.
#[derive(Debug, Clone, Default)]
struct Shared(Arc<Mutex<State>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn connection(&self) -> usize {
        let mut state = self.lock();
        state.connections.push(ConnectionRecord::default());
        state.connections.len()
    }

    /// Notes a request; gives back its index.
    fn arrived(&self, connection: usize, head: Head) -> usize {
        let mut state = self.lock();
        state.records.push(Record { connection, head, ..Record::default() });
        state.records.len() - 1
    }

    fn record(&self, index: usize, change: impl FnOnce(&mut Record)) {
        if let Some(record) = self.lock().records.get_mut(index) {
            change(record);
        }
    }

    fn finished(&self, index: usize, body: Body) {
        self.record(index, |record| {
            record.body = body.bytes;
            record.trailers = body.trailers;
            record.end = body.end.to_string();
        });
    }

    fn on_connection(&self, number: usize, change: impl FnOnce(&mut ConnectionRecord)) {
        if let Some(connection) = self.lock().connections.get_mut(number - 1) {
            change(connection);
        }
    }

    /// What to answer a request for this target, and the body that stands in for none.
    fn response(&self, target: &str) -> (Response, String) {
        let path = target.split('?').next().unwrap_or_default();
        let mut state = self.lock();
        let name = state.name.clone();
        let fits = |(response, used): &&mut (Response, usize)| {
            response.path.as_deref().is_none_or(|wanted| wanted == path)
                && response.times.is_none_or(|times| *used < times)
        };
        match state.responses.iter_mut().find(fits) {
            Some((response, used)) => {
                *used += 1;
                (response.clone(), name)
            }
            None => (Response::default(), name),
        }
    }
}

/// A running upstream.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    spec: Upstream,
    shared: Shared,
    certificates: Certificates,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    /// Finds an address; nothing listens yet.
    pub fn new(name: &str, spec: &Upstream, certificates: &Certificates) -> Result<Self> {
        let shared = Shared::default();
        shared.lock().name = name.to_owned();
        let server = Self {
            address: free_address()?,
            spec: spec.clone(),
            shared,
            certificates: certificates.clone(),
            accepting: None,
        };
        Ok(server)
    }

    /// Listens, with the script from its beginning and nothing on record.
    pub async fn start(&mut self) -> Result<()> {
        self.stop().await;
        {
            let mut state = self.shared.lock();
            state.responses = self.spec.responses.iter().map(|response| (response.clone(), 0)).collect();
            state.records.clear();
            state.connections.clear();
        }
        if self.spec.kind == UpstreamKind::Refuses {
            return Ok(());
        }
        let listener = TcpListener::bind(self.address).await?;
        let acceptor = match &self.spec.tls {
            Some(tls) => Some(TlsAcceptor::from(self.certificates.server(tls)?)),
            None => None,
        };
        self.accepting =
            Some(tokio::spawn(accept(listener, acceptor, self.spec.clone(), self.shared.clone())));
        Ok(())
    }

    /// Ends it with all its connections.
    pub async fn stop(&mut self) {
        if let Some(task) = self.accepting.take() {
            task.abort();
            let _ = task.await;
        }
    }

    /// How many requests have come.
    pub fn requests(&self) -> usize {
        self.shared.lock().records.len()
    }

    /// How many requests have come and not ended.
    pub fn unfinished(&self) -> usize {
        self.shared.lock().records.iter().filter(|record| record.end.is_empty()).count()
    }

    /// What came.
    pub fn seen(&self) -> (Vec<Record>, Vec<ConnectionRecord>) {
        let state = self.shared.lock();
        (state.records.clone(), state.connections.clone())
    }
}

async fn accept(listener: TcpListener, acceptor: Option<TlsAcceptor>, spec: Upstream, shared: Shared) {
    // Dropped with this task, and with it all connections.
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        let _ = stream.set_nodelay(true);
        let number = shared.connection();
        connections.spawn(serve(stream, acceptor.clone(), spec.clone(), shared.clone(), number));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(
    mut stream: TcpStream,
    acceptor: Option<TlsAcceptor>,
    spec: Upstream,
    shared: Shared,
    number: usize,
) {
    match spec.kind {
        UpstreamKind::Closes => return,
        UpstreamKind::Resets => {
            // Closing with no lingering sends a reset.
            let _ = stream.set_zero_linger();
            return;
        }
        _ => {}
    }
    if spec.proxy_protocol {
        let header = raw::proxy_header(&mut stream).await;
        note(&shared, number, "proxy-protocol", header);
    }
    let connection = match acceptor {
        None => Connection::new(stream),
        Some(acceptor) => match acceptor.accept(stream).await {
            Ok(stream) => {
                let session = stream.get_ref().1;
                note(&shared, number, "sni", session.server_name().unwrap_or("-").to_owned());
                let protocol = session.alpn_protocol().map_or("-".into(), String::from_utf8_lossy);
                note(&shared, number, "alpn", protocol.into_owned());
                let certificates = session.peer_certificates().map_or(0, <[_]>::len);
                note(&shared, number, "client-certificates", certificates.to_string());
                Connection::new(stream)
            }
            Err(_) => {
                note(&shared, number, "tls", "failed".to_owned());
                return;
            }
        },
    };
    match spec.kind {
        UpstreamKind::Http => http(connection, &shared, number).await,
        UpstreamKind::Echo => raw::echo(connection, &spec, &shared, number).await,
        _ => raw::silent(connection, &shared, number).await,
    }
}

async fn http(mut connection: Connection, shared: &Shared, number: usize) {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    if connection.peek(3).await.starts_with(b"PRI") {
        connection.peek(PREFACE.len()).await;
        http2::serve(connection, shared, number).await;
    } else {
        http1::serve(connection, shared, number).await;
    }
}

fn note(shared: &Shared, number: usize, what: &str, value: String) {
    shared.on_connection(number, |connection| connection.beginning.push((what.to_owned(), value)));
}

async fn pause(milliseconds: u64) {
    if milliseconds > 0 {
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    }
}
