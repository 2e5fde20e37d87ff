//! The connection to the control plane: TLS against the mesh's root, over sockets that interception lets pass.

use std::io;
use std::path::Path;

use anyhow::Context;
use hyper_util::rt::TokioIo;
use lateen_xds::transport::keep_alive;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Uri};

use crate::bootstrap::PROXY_MARK;

/// Where the control plane's root is mounted (ConfigMap `istio-ca-root-cert`).
pub const ROOT_CERTIFICATE: &str = "/var/run/secrets/istio/root-cert.pem";
/// Where the Pod's token for the control plane is mounted (audience `istio-ca`).
pub const TOKEN: &str = "/var/run/secrets/tokens/istio-token";

/// A channel to `address` (`HOST:PORT`) that connects when it is used, and again whenever it was lost.
pub fn channel(address: &str, root: &Path) -> anyhow::Result<Channel> {
    let certificate = std::fs::read(root)
        .with_context(|| format!("cannot read the mesh's root certificate {}", root.display()))?;
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(certificate)).domain_name(host);
    let endpoint = Endpoint::from_shared(format!("https://{address}"))
        .with_context(|| format!("{address:?} is no address of a control plane (HOST:PORT)"))?
        .tls_config(tls)?;
    Ok(keep_alive(endpoint).connect_with_connector_lazy(tower::service_fn(|uri: Uri| async move {
        let authority = uri.authority().ok_or_else(|| io::Error::other("no address"))?.to_string();
        connect(&authority).await.map(TokioIo::new)
    })))
}

/// Connects to the first address of `authority` that answers.
async fn connect(authority: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{authority} has no address"));
    for address in lookup_host(authority).await? {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), None)?;
        mark(&socket);
        socket.set_tcp_nodelay(true)?;
        match TcpSocket::from_std_stream(socket.into()).connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Marks a socket as the proxy's own. Where the capability for it is missing, interception knows us by our uid.
pub(crate) fn mark(socket: &Socket) {
    if let Err(error) = SockRef::from(socket).set_mark(PROXY_MARK) {
        tracing::debug!(%error, "sockets are not marked; relying on uid 1337");
    }
}
