//! Listening: one socket a worker for a port, one for all workers where a socket cannot be shared by the kernel.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use lateen_dataplane::listener::{Listener, SocketOption, SocketState};
use nix::libc;
use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};

use crate::socket::set_option;

/// A socket that connections come from.
#[derive(Debug)]
pub enum Listening {
    /// TCP.
    Tcp(std::net::TcpListener),
    /// A Unix socket.
    Unix(std::os::unix::net::UnixListener),
}

/// Listens on an IP address; gives the real one, and a socket for each worker.
pub fn tcp(
    address: SocketAddr,
    config: &Listener,
    workers: usize,
) -> std::io::Result<(SocketAddr, Vec<Listening>)> {
    let mut real = address;
    let mut sockets = Vec::with_capacity(workers);
    for at in 0..workers {
        if at > 0 && !config.reuse_port {
            break;
        }
        let socket: std::net::TcpListener = open_tcp(real, config)?.into();
        // Port 0: the first socket's port is everybody's.
        real = socket.local_addr()?;
        sockets.push(socket);
    }
    while sockets.len() < workers {
        sockets.push(sockets[0].try_clone()?);
    }
    Ok((real, sockets.into_iter().map(Listening::Tcp).collect()))
}

fn open_tcp(address: SocketAddr, config: &Listener) -> std::io::Result<Socket> {
    let protocol = if config.multipath { Protocol::MPTCP } else { Protocol::TCP };
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(protocol))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(config.reuse_port)?;
    let (level, transparent, freebind) = match address {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TRANSPARENT, libc::IP_FREEBIND),
        SocketAddr::V6(_) => {
            socket.set_only_v6(!config.ipv4_compat)?;
            (libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT, libc::IPV6_FREEBIND)
        }
    };
    let on = |level, name, value: i32| SocketOption {
        level,
        name,
        value: value.to_ne_bytes().to_vec(),
        state: SocketState::Before,
    };
    if config.transparent {
        set_option(&socket, &on(level, transparent, 1))?;
    }
    if config.freebind {
        set_option(&socket, &on(level, freebind, 1))?;
    }
    set_options(&socket, config, SocketState::Before)?;
    if let Some((time, interval, probes)) = config.keepalive {
        let probe = TcpKeepalive::new().with_time(time).with_interval(interval).with_retries(probes);
        socket.set_tcp_keepalive(&probe)?;
    }
    socket.bind(&address.into())?;
    set_options(&socket, config, SocketState::Bound)?;
    if let Some(length) = config.fast_open {
        set_option(&socket, &on(libc::IPPROTO_TCP, libc::TCP_FASTOPEN, length as i32))?;
    }
    socket.listen(i32::try_from(config.backlog).unwrap_or(i32::MAX))?;
    set_options(&socket, config, SocketState::Listening)?;
    Ok(socket)
}

/// Sets the options whose time has come.
fn set_options(socket: &Socket, config: &Listener, state: SocketState) -> std::io::Result<()> {
    config
        .socket_options
        .iter()
        .filter(|option| option.state == state)
        .try_for_each(|option| set_option(socket, option))
}

/// Listens on a path, or where it begins with `@` on an abstract name. As Envoy does, it takes the place of what is
/// there.
pub fn unix(path: &Path, config: &Listener, workers: usize) -> std::io::Result<Vec<Listening>> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    set_options(&socket, config, SocketState::Before)?;
    let bytes = path.as_os_str().as_bytes();
    if let Some(name) = bytes.strip_prefix(b"@") {
        let name = [b"\0", name].concat();
        socket.bind(&SockAddr::unix(std::ffi::OsStr::from_bytes(&name))?)?;
    } else {
        let _ = std::fs::remove_file(path);
        socket.bind(&SockAddr::unix(path)?)?;
        if config.pipe_mode != 0 {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(config.pipe_mode))?;
        }
    }
    set_options(&socket, config, SocketState::Bound)?;
    socket.listen(i32::try_from(config.backlog).unwrap_or(i32::MAX))?;
    set_options(&socket, config, SocketState::Listening)?;
    let first = std::os::unix::net::UnixListener::from(OwnedFd::from(socket));
    (0..workers).map(|_| first.try_clone().map(Listening::Unix)).collect()
}

/// The descriptors of one that was inherited.
pub fn inherited(
    listener: &std::net::TcpListener,
    workers: usize,
) -> std::io::Result<(SocketAddr, Vec<Listening>)> {
    listener.set_nonblocking(true)?;
    tracing::debug!(descriptor = listener.as_raw_fd(), "listening on an inherited socket");
    let sockets = (0..workers).map(|_| listener.try_clone().map(Listening::Tcp)).collect::<Result<_, _>>()?;
    Ok((listener.local_addr()?, sockets))
}
