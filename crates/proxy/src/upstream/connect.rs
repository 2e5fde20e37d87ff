//! Making upstream connections.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use lateen_dataplane::cluster::{Bind, Host};
use lateen_dataplane::listener::Address;
use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};
use tokio::net::{TcpSocket, TcpStream, UnixStream};

use crate::socket;
use crate::state::ClusterHandle;
use crate::stream::Stream;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The cluster's time for connecting was up.
    #[error("connection timeout")]
    Timeout,
    /// The kernel says so.
    #[error("delayed connect error: {}", describe(.0))]
    Io(#[from] io::Error),
    /// The host has no address that can be connected to.
    #[error("the address {0} cannot be connected to")]
    Address(String),
}

/// The kernel's words without the number behind them.
fn describe(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).desc().to_owned(),
        None => error.to_string(),
    }
}

/// Connects to a host within the cluster's time.
pub async fn connect(cluster: &ClusterHandle, host: &Host) -> Result<Stream, ConnectError> {
    tokio::time::timeout(cluster.config.connect_timeout, open(cluster, host))
        .await
        .unwrap_or(Err(ConnectError::Timeout))
}

async fn open(cluster: &ClusterHandle, host: &Host) -> Result<Stream, ConnectError> {
    match &host.address {
        Address::Socket(address) => {
            let stream = open_tcp(*address, &cluster.bind, cluster.config.keepalive).await?;
            Ok(Stream::Tcp(stream))
        }
        Address::Pipe(path) => Ok(Stream::Unix(UnixStream::connect(path).await?)),
        other => Err(ConnectError::Address(other.to_string())),
    }
}

async fn open_tcp(
    address: SocketAddr,
    bind: &Bind,
    keepalive: Option<(Duration, Duration, u32)>,
) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    for option in &bind.options {
        socket::set_option(&socket, option)?;
    }
    if let Some((time, interval, probes)) = keepalive {
        let probe = TcpKeepalive::new().with_time(time).with_interval(interval).with_retries(probes);
        socket.set_tcp_keepalive(&probe)?;
    }
    if let Some(source) = bind.source.filter(|source| source.is_ipv4() == address.is_ipv4()) {
        socket.bind(&SockAddr::from(source))?;
    }
    TcpSocket::from_std_stream(socket.into()).connect(address).await
}
