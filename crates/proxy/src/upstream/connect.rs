//! Making upstream connections.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use lateen_dataplane::cluster::{Bind, Host};
use lateen_dataplane::head::RequestHead;
use lateen_dataplane::listener::{Address, SocketState};
use lateen_dataplane::route::without_port;
use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream, UnixStream};

use super::proxy_protocol;
use crate::socket;
use crate::state::ClusterHandle;
use crate::stats::Shard;
use crate::stream::Stream;
use crate::tls::{self, Transport, Wanted};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The cluster's time for connecting was up.
    #[error("connection timeout")]
    Timeout,
    /// The kernel says so.
    #[error("delayed connect error: {}", describe(.0))]
    Io(#[from] io::Error),
    /// TLS could not be agreed on.
    #[error("{0}")]
    Tls(String),
    /// The host has no address that can be connected to.
    #[error("the address {0} cannot be connected to")]
    Address(String),
}

impl ConnectError {
    /// The same once more, for another request that met it.
    pub fn again(&self) -> Self {
        match self {
            Self::Timeout => Self::Timeout,
            Self::Io(error) => Self::Io(match error.raw_os_error() {
                Some(number) => io::Error::from_raw_os_error(number),
                None => io::Error::new(error.kind(), error.to_string()),
            }),
            Self::Tls(text) => Self::Tls(text.clone()),
            Self::Address(text) => Self::Address(text.clone()),
        }
    }
}

/// The kernel's words without the number behind them.
fn describe(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).desc().to_owned(),
        None => error.to_string(),
    }
}

/// What of a request a connection depends on. Connections that were made for another are not used for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Dialing {
    /// What the server is called, where the request says so.
    pub server_name: Option<Box<str>>,
    /// The client's connection: its end and ours. Where the host is told of it.
    pub client: Option<(SocketAddr, SocketAddr)>,
}

impl Dialing {
    /// What a connection to this host for this request depends on; none for the usual host, where that is nothing.
    pub fn new(
        cluster: &ClusterHandle,
        host: &Host,
        head: &RequestHead,
        client: Option<(SocketAddr, SocketAddr)>,
    ) -> Option<Box<Self>> {
        let tells = matches!(cluster.transports.get(host.transport), Some(Transport::ProxyProtocol { .. }));
        let auto = cluster.config.auto_server_name.as_ref();
        if auto.is_none() && !tells {
            return None;
        }
        let name = auto.and_then(|auto| {
            let own = auto.header.as_deref().and_then(|header| head.headers.get(header));
            let name = without_port(own.filter(|name| !name.is_empty()).unwrap_or(head.authority()));
            std::str::from_utf8(name).ok().filter(|name| !name.is_empty()).map(Into::into)
        });
        Some(Box::new(Self { server_name: name, client: client.filter(|_| tells) }))
    }
}

/// What a connection is for.
#[derive(Debug, Clone, Copy)]
pub struct Purpose<'a> {
    /// What whoever connects can speak.
    pub wanted: Wanted,
    /// What it depends on.
    pub dialing: Option<&'a Dialing>,
}

/// Connects to a host within the cluster's time, through the transport that is configured for it.
pub async fn connect(
    shard: &Shard,
    cluster: &ClusterHandle,
    host: &Host,
    purpose: Purpose<'_>,
) -> Result<Stream, ConnectError> {
    let transport = cluster.transports.get(host.transport);
    let connected = async {
        let stream = open(shard, cluster, host).await?;
        match transport {
            Some(Transport::Plain) => Ok(stream),
            Some(transport) => Box::pin(negotiate(shard, transport, stream, host, purpose)).await,
            None => Err(ConnectError::Tls("the host has no transport".to_owned())),
        }
    };
    tokio::time::timeout(cluster.config.connect_timeout, connected)
        .await
        .unwrap_or(Err(ConnectError::Timeout))
}

async fn negotiate(
    shard: &Shard,
    transport: &Transport,
    mut stream: Stream,
    host: &Host,
    purpose: Purpose<'_>,
) -> Result<Stream, ConnectError> {
    let mut transport = transport;
    while let Transport::ProxyProtocol { version, inner } = transport {
        let header = proxy_protocol::header(*version, purpose.dialing.and_then(|dialing| dialing.client));
        stream.write_all(&header).await?;
        transport = &**inner;
    }
    let Transport::Tls(context) = transport else { return Ok(stream) };
    let server_name = purpose.dialing.and_then(|dialing| dialing.server_name.as_deref());
    let stream = tls::connect(shard, context, stream, host, server_name, purpose.wanted);
    stream.await.map(|stream| Stream::Tls(Box::new(stream))).map_err(ConnectError::Tls)
}

async fn open(shard: &Shard, cluster: &ClusterHandle, host: &Host) -> Result<Stream, ConnectError> {
    match &host.address {
        Address::Socket(address) => {
            let stream = match &host.additional {
                None => open_tcp(*address, &cluster.bind, cluster.config.keepalive).await?,
                Some(additional) => open_any(shard, cluster, host, *address, additional).await?,
            };
            Ok(Stream::Tcp(stream))
        }
        Address::Pipe(path) => Ok(Stream::Unix(UnixStream::connect(path).await?)),
        other => Err(ConnectError::Address(other.to_string())),
    }
}

/// How long an address has before the next one is tried beside it (RFC 8305, section 5, and Envoy).
const HEAD_START: Duration = Duration::from_millis(300);

/// Connects to the first of a host's addresses that answers. They are tried one after the other, the families in turn;
/// whichever is slow goes on beside the next.
async fn open_any(
    shard: &Shard,
    cluster: &ClusterHandle,
    host: &Host,
    first: SocketAddr,
    others: &[Address],
) -> io::Result<TcpStream> {
    let open = |address: SocketAddr| Box::pin(open_tcp(address, &cluster.bind, cluster.config.keepalive));
    let mut left = in_turn(first, others).into_iter();
    let mut trying = FuturesUnordered::new();
    let mut failure = None;
    loop {
        if let Some(address) = left.next() {
            if address != first {
                // The first is counted by whoever asked for the connection.
                shard.increment(cluster.stats.upstream_cx_total);
                host.counters.cx_total.fetch_add(1, Relaxed);
            }
            trying.push(open(address));
        }
        let waiting = left.len() > 0;
        tokio::select! {
            Some(opened) = trying.next() => match opened {
                Ok(stream) => return Ok(stream),
                // What the first address answered is told.
                Err(error) => failure = failure.or(Some(error)),
            },
            () = tokio::time::sleep(HEAD_START), if waiting => {}
            else => return Err(failure.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into())),
        }
        if !waiting && trying.is_empty() {
            return Err(failure.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()));
        }
    }
}

/// Addresses in the order in which they are tried: the families in turn, as far as there are both.
fn in_turn(first: SocketAddr, others: &[Address]) -> Vec<SocketAddr> {
    let others = others.iter().filter_map(|address| match address {
        Address::Socket(address) => Some(*address),
        _ => None,
    });
    let (same, other): (Vec<_>, Vec<_>) = others.partition(|address| address.is_ipv4() == first.is_ipv4());
    let (mut same, mut other) = (same.into_iter(), other.into_iter());
    let mut out = vec![first];
    loop {
        let (one, two) = (other.next(), same.next());
        if one.is_none() && two.is_none() {
            return out;
        }
        out.extend(one.into_iter().chain(two));
    }
}

async fn open_tcp(
    address: SocketAddr,
    bind: &Bind,
    keepalive: Option<(Duration, Duration, u32)>,
) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    let set = |bound: bool| {
        let now = bind.options.iter().filter(|option| (option.state != SocketState::Before) == bound);
        now.into_iter().try_for_each(|option| socket::set_option(&socket, option))
    };
    set(false)?;
    if let Some((time, interval, probes)) = keepalive {
        let probe = TcpKeepalive::new().with_time(time).with_interval(interval).with_retries(probes);
        socket.set_tcp_keepalive(&probe)?;
    }
    if let Some(source) = bind.source.filter(|source| source.is_ipv4() == address.is_ipv4()) {
        socket.bind(&SockAddr::from(source))?;
    }
    set(true)?;
    TcpSocket::from_std_stream(socket.into()).connect(address).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let check = |name: &str, first: &str, others: &[&str], expect: &[&str]| {
            let others: Vec<Address> = others.iter().map(|text| Address::Socket(address(text))).collect();
            let expect: Vec<SocketAddr> = expect.iter().map(|text| address(text)).collect();
            assert_eq!(in_turn(address(first), &others), expect, "{name}");
        };
        check("one", "1.1.1.1:1", &[], &["1.1.1.1:1"]);
        check(
            "of one family",
            "1.1.1.1:1",
            &["2.2.2.2:1", "3.3.3.3:1"],
            &["1.1.1.1:1", "2.2.2.2:1", "3.3.3.3:1"],
        );
        check(
            "of both",
            "[::1]:1",
            &["[::2]:1", "1.1.1.1:1", "2.2.2.2:1"],
            &["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1"],
        );
    }
}
