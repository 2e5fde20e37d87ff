//! The client's side of a step.

mod http1;
mod http2;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;

use crate::case::{Content, Step};
use crate::config::Names;
use crate::http1::{Connection, End, Fields};
use crate::tls::Certificates;

/// How long an answer may take, and an end that is waited for.
pub const PATIENCE: Duration = Duration::from_secs(6);
const CLOSING: Duration = Duration::from_secs(3);

/// What a client saw of an answer.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    /// 0 if none came.
    pub status: u16,
    /// The fields.
    pub fields: Fields,
    /// The body, or the raw bytes.
    pub body: Vec<u8>,
    /// The trailers.
    pub trailers: Fields,
    /// Statuses of interim responses.
    pub interim: Vec<String>,
    /// How it ended.
    pub end: String,
}

/// What a step came to.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// The answers in their order; most steps have one.
    pub replies: Vec<Reply>,
    /// What the handshake came to.
    pub handshake: Vec<(String, String)>,
    /// For `closes`: how the connection ended.
    pub closing: Option<String>,
}

/// A connection of a client.
#[derive(Debug)]
enum Link {
    One(Connection),
    Two(http2::Link),
    /// It is over.
    Gone,
}

/// Connections that steps share, by name; `None`: not opened yet.
type Shared = Arc<Mutex<Option<Link>>>;

/// The client of one run of a case.
#[derive(Debug)]
pub struct Client {
    names: Names,
    certificates: Certificates,
    connections: Mutex<HashMap<String, Shared>>,
}

impl Client {
    /// A client without connections.
    pub fn new(names: Names, certificates: Certificates) -> Self {
        Self { names, certificates, connections: Mutex::default() }
    }

    /// Closes a connection that steps share.
    pub async fn close(&self, name: &str) {
        self.connections.lock().await.remove(name);
    }

    /// Closes all.
    pub async fn close_all(&self) {
        self.connections.lock().await.clear();
    }

    /// Sends what the step says and reads what comes.
    pub async fn play(&self, step: &Step) -> Outcome {
        let shared = match &step.on {
            Some(name) => Arc::clone(self.connections.lock().await.entry(name.clone()).or_default()),
            None => Shared::default(),
        };
        let mut outcome = Outcome::default();
        let mut link = shared.lock().await;
        if link.is_none() {
            match self.open(step, &mut outcome.handshake).await {
                Ok(opened) => *link = Some(opened),
                Err(end) => {
                    outcome.replies.push(Reply { end, ..Reply::default() });
                    return outcome;
                }
            }
        }
        // Streams of HTTP/2 share a connection at the same time.
        if let Some(Link::Two(two)) = &*link {
            let mut two = two.clone();
            drop(link);
            outcome.replies.push(limited(step, two.exchange(step, &self.names)).await);
            if step.closes {
                outcome.closing = Some(two.closing(CLOSING).await);
            }
            return outcome;
        }
        let Some(Link::One(connection)) = &mut *link else {
            outcome.replies.push(Reply { end: "gone".to_owned(), ..Reply::default() });
            return outcome;
        };
        let exchange = async {
            if step.request_line().is_some() {
                vec![http1::exchange(connection, step, &self.names).await]
            } else {
                http1::raw(connection, step, &self.names).await
            }
        };
        let limit = step.cancel_after_ms.map_or(PATIENCE, Duration::from_millis);
        outcome.replies = match tokio::time::timeout(limit, exchange).await {
            Ok(replies) => replies,
            Err(_) => {
                *link = Some(Link::Gone);
                let end = if step.cancel_after_ms.is_some() { "cancelled" } else { "timeout" };
                outcome.replies = vec![Reply { end: end.to_owned(), ..Reply::default() }];
                return outcome;
            }
        };
        if step.closes {
            outcome.closing = Some(closing(connection).await);
        }
        outcome
    }

    async fn open(&self, step: &Step, handshake: &mut Vec<(String, String)>) -> Result<Link, String> {
        let listener = step.listener.as_deref().unwrap_or("main");
        let address: SocketAddr =
            *self.names.addresses.get(listener).ok_or_else(|| format!("there is no listener {listener}"))?;
        let mut stream = TcpStream::connect(address).await.map_err(|_| "refused".to_owned())?;
        let _ = stream.set_nodelay(true);
        let prelude = match (&step.prelude, &step.prelude_hex) {
            (Some(text), _) => self.names.substitute(text).into_bytes(),
            (_, Some(hex)) => Content::Hex { hex: hex.clone() }.bytes(),
            _ => Vec::new(),
        };
        let _ = stream.write_all(&prelude).await;
        let Some(tls) = &step.tls else {
            return if step.http2 {
                http2::Link::open(stream).await.map(Link::Two)
            } else {
                Ok(Link::One(Connection::new(stream)))
            };
        };
        let config = self.certificates.client(tls).map_err(|error| error.to_string())?;
        let name = tls.sni.clone().unwrap_or_else(|| "unnamed".to_owned());
        let name = ServerName::try_from(name).map_err(|error| error.to_string())?;
        let connect = TlsConnector::from(config).connect(name, stream);
        let stream = tokio::time::timeout(PATIENCE, connect)
            .await
            .map_err(|_| "tls: timeout".to_owned())?
            .map_err(|_| "tls: refused".to_owned())?;
        let session = stream.get_ref().1;
        let protocol = session.alpn_protocol().map_or("-".into(), String::from_utf8_lossy).into_owned();
        let version = session.protocol_version().map_or("-".to_owned(), |version| format!("{version:?}"));
        let certificate = session.peer_certificates().and_then(<[_]>::first).map(|certificate| {
            let digits: Vec<String> =
                certificate.as_ref().iter().rev().take(8).map(|byte| format!("{byte:02x}")).collect();
            digits.concat()
        });
        let http2 = step.http2 || protocol == "h2";
        handshake.push(("alpn".to_owned(), protocol));
        handshake.push(("version".to_owned(), version));
        handshake.push(("certificate".to_owned(), certificate.unwrap_or_default()));
        if http2 {
            http2::Link::open(stream).await.map(Link::Two)
        } else {
            Ok(Link::One(Connection::new(stream)))
        }
    }
}

async fn limited(step: &Step, exchange: impl Future<Output = Reply>) -> Reply {
    let limit = step.cancel_after_ms.map_or(PATIENCE, Duration::from_millis);
    tokio::time::timeout(limit, exchange).await.unwrap_or_else(|_| Reply {
        end: if step.cancel_after_ms.is_some() { "cancelled" } else { "timeout" }.to_owned(),
        ..Reply::default()
    })
}

async fn closing(connection: &mut Connection) -> String {
    let unread = !connection.take_buffer().is_empty();
    match tokio::time::timeout(CLOSING, connection.fill()).await {
        Err(_) if unread => "open, with more bytes".to_owned(),
        Err(_) => "open".to_owned(),
        Ok(End::Complete) => "more bytes".to_owned(),
        Ok(end) => end.to_string(),
    }
}
