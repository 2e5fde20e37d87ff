//! The sockets: UDP and TCP on port 53 of the cluster's DNS address.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::Query;
use hickory_proto::op::{Message, OpCode, ResponseCode};
use parking_lot::RwLock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::answer::{Outcome, answer};
use super::{Records, forward};

/// Queries on their way to other resolvers, and TCP connections, at once: more are refused.
const CONCURRENT: usize = 512;

/// A TCP client that is silent this long is let go.
const IDLE: Duration = Duration::from_secs(10);

/// The largest datagram for a client that does not say (RFC 1035).
const PLAIN_DATAGRAM: u16 = 512;

/// The sockets could not be opened.
#[derive(Debug, thiserror::Error)]
#[error(
    "cluster DNS cannot listen on {address} ({transport}): {source}; is the address on `lo`, and the port free?"
)]
pub struct ServerError {
    address: SocketAddr,
    transport: &'static str,
    source: io::Error,
}

/// A running DNS server. Dropping it ends the server.
#[derive(Debug)]
pub struct Dns {
    state: Arc<State>,
    address: SocketAddr,
    tasks: tokio::task::JoinSet<()>,
}

#[derive(Debug)]
struct State {
    records: RwLock<Arc<Records>>,
    resolvers: Vec<SocketAddr>,
    permits: Semaphore,
}

impl Dns {
    /// Listens on `address`; names outside the zone are asked of `resolvers`.
    pub async fn start(address: SocketAddr, resolvers: Vec<SocketAddr>) -> Result<Self, ServerError> {
        let failed = |transport| move |source| ServerError { address, transport, source };
        let (datagrams, listener) = bind(address).await.map_err(failed("UDP and TCP"))?;
        let address = listener.local_addr().map_err(failed("TCP"))?;
        let state = Arc::new(State {
            records: RwLock::new(Arc::new(Records::new([]))),
            resolvers: resolvers.into_iter().filter(|resolver| *resolver != address).collect(),
            permits: Semaphore::new(CONCURRENT),
        });
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(serve_datagrams(Arc::new(datagrams), state.clone()));
        tasks.spawn(serve_streams(listener, state.clone()));
        Ok(Self { state, address, tasks })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Puts a new zone in the place of the old one.
    pub fn update(&self, records: Records) {
        *self.state.records.write() = Arc::new(records);
    }

    /// Waits until the server ends, which it does only when it is dropped.
    pub async fn ended(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Both sockets on one port; with port 0 the second may find the first's number taken, so it is tried again.
async fn bind(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        let datagrams = UdpSocket::bind(address).await?;
        match TcpListener::bind(datagrams.local_addr()?).await {
            Ok(listener) => return Ok((datagrams, listener)),
            Err(error) if address.port() != 0 || attempts == 10 => return Err(error),
            Err(_) => {}
        }
    }
}

async fn serve_datagrams(socket: Arc<UdpSocket>, state: Arc<State>) {
    let mut buffer = vec![0; 4096];
    loop {
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                // A client that closed its socket shows up here as an ICMP error; anything else will show again.
                tracing::debug!(%error, "receiving a DNS query");
                tokio::task::yield_now().await;
                continue;
            }
        };
        let Ok(query) = Message::from_vec(&buffer[..length]) else { continue };
        let records = state.records.read().clone();
        let outcome = answer(&records, &query);
        if let Outcome::Answer(message) = outcome {
            reply(&socket, client, &query, &message).await;
            continue;
        }
        let (socket, state) = (socket.clone(), state.clone());
        tokio::spawn(async move {
            let Ok(_permit) = state.permits.try_acquire() else { return };
            let message = finish(&state, &query, outcome, false).await;
            reply(&socket, client, &query, &message).await;
        });
    }
}

async fn reply(socket: &UdpSocket, client: SocketAddr, query: &Message, message: &Message) {
    let limit = query.edns.as_ref().map_or(PLAIN_DATAGRAM, |edns| edns.max_payload().max(PLAIN_DATAGRAM));
    let bytes = message.to_vec().and_then(|bytes| match bytes.len() > usize::from(limit) {
        true => message.truncate().to_vec(),
        false => Ok(bytes),
    });
    match bytes {
        Ok(bytes) => {
            if let Err(error) = socket.send_to(&bytes, client).await {
                tracing::debug!(%error, %client, "sending a DNS answer");
            }
        }
        Err(error) => tracing::warn!(%error, "a DNS answer cannot be encoded"),
    }
}

async fn serve_streams(listener: TcpListener, state: Arc<State>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let state = state.clone();
                tokio::spawn(async move {
                    let Ok(_permit) = state.permits.try_acquire() else { return };
                    let _ = serve_stream(stream, &state).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a DNS connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_stream(mut stream: TcpStream, state: &State) -> io::Result<()> {
    let silent = || io::Error::from(io::ErrorKind::TimedOut);
    loop {
        let length = timeout(IDLE, stream.read_u16()).await.map_err(|_| silent())??;
        let mut bytes = vec![0; usize::from(length)];
        timeout(IDLE, stream.read_exact(&mut bytes)).await.map_err(|_| silent())??;
        let query = Message::from_vec(&bytes).map_err(io::Error::other)?;
        let records = state.records.read().clone();
        let outcome = answer(&records, &query);
        let message = finish(state, &query, outcome, true).await;
        let bytes = message.to_vec().map_err(io::Error::other)?;
        let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        timeout(IDLE, stream.write_all(&[&length.to_be_bytes(), bytes.as_slice()].concat()))
            .await
            .map_err(|_| silent())??;
    }
}

/// Asks other resolvers where the zone alone cannot answer.
async fn finish(state: &State, query: &Message, outcome: Outcome, over_tcp: bool) -> Message {
    match outcome {
        Outcome::Answer(message) => message,
        Outcome::Forward => match forward::ask(query, &state.resolvers, over_tcp).await {
            Ok(message) => message,
            Err(error) => {
                tracing::debug!(%error, "a name outside the cluster cannot be resolved");
                let mut message =
                    Message::error_msg(query.metadata.id, OpCode::Query, ResponseCode::ServFail);
                message.metadata.recursion_desired = query.metadata.recursion_desired;
                message.metadata.recursion_available = true;
                message.add_queries(query.queries.iter().cloned());
                message
            }
        },
        Outcome::Continue(mut message, name) => {
            let mut further = Message::query();
            further.metadata.recursion_desired = true;
            if let Some(question) = query.queries.first() {
                further.add_query(Query::query(name, question.query_type()));
            }
            // The alias alone is an answer too: the client may know better where to ask.
            if let Ok(found) = forward::ask(&further, &state.resolvers, over_tcp).await {
                message.add_answers(found.answers);
            }
            message
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Endpoint, Service, ServiceKind};
    use super::*;
    use hickory_proto::op::MessageType;
    use hickory_proto::rr::{Name, RecordType};

    fn query(name: &str) -> Message {
        let mut query = Message::new(9, MessageType::Query, OpCode::Query);
        query.metadata.recursion_desired = true;
        query.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        query
    }

    fn zone(name: &str, endpoints: u8) -> Records {
        let endpoints = (1..=endpoints)
            .map(|last| Endpoint { address: [10, 0, 0, last].into(), hostname: None })
            .collect();
        Records::new(&[Service {
            namespace: "n".into(),
            name: name.into(),
            kind: ServiceKind::Headless(endpoints),
            ports: vec![],
        }])
    }

    async fn over_udp(server: SocketAddr, name: &str) -> Message {
        forward::ask(&query(name), &[server], false).await.unwrap()
    }

    async fn start(resolvers: Vec<SocketAddr>) -> Dns {
        Dns::start("127.0.0.1:0".parse().unwrap(), resolvers).await.unwrap()
    }

    #[tokio::test]
    async fn records_are_served_and_replaced() {
        let dns = start(vec![]).await;
        dns.update(zone("one", 1));
        assert_eq!(over_udp(dns.address(), "one.n.svc.cluster.local.").await.answers.len(), 1);
        dns.update(zone("two", 1));
        let gone = over_udp(dns.address(), "one.n.svc.cluster.local.").await;
        assert_eq!(gone.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(over_udp(dns.address(), "two.n.svc.cluster.local.").await.answers.len(), 1);
    }

    #[tokio::test]
    async fn a_long_answer_is_cut_off_in_a_datagram_and_whole_in_a_stream() {
        let dns = start(vec![]).await;
        dns.update(zone("many", 100));
        let cut = over_udp(dns.address(), "many.n.svc.cluster.local.").await;
        assert!(cut.metadata.truncation && cut.answers.is_empty());
        let whole = forward::ask(&query("many.n.svc.cluster.local."), &[dns.address()], true).await.unwrap();
        assert_eq!(whole.answers.len(), 100);
    }

    #[tokio::test]
    async fn other_names_are_forwarded_or_fail_at_once() {
        let upstream = start(vec![]).await;
        upstream.update(zone("far", 1));
        // The upstream server stands in for the host's: it knows a reverse name that the first one does not.
        let dns = start(vec![upstream.address()]).await;
        let mut reverse = query("x.");
        reverse.queries =
            vec![Query::query(Name::from_ascii("1.0.0.10.in-addr.arpa.").unwrap(), RecordType::PTR)];
        let answer = forward::ask(&reverse, &[dns.address()], false).await.unwrap();
        assert_eq!(answer.metadata.id, 9);
        assert_eq!(answer.answers.len(), 1);

        let alone = start(vec![]).await;
        let start = std::time::Instant::now();
        let failed = over_udp(alone.address(), "example.com.").await;
        assert_eq!(failed.metadata.response_code, ResponseCode::ServFail);
        assert!(start.elapsed() < Duration::from_millis(500));
    }
}
