//! Throw-away certificates in configurations, and a client that speaks TLS.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

pub use lateen_testkit::{Authority, Leaf};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::Answer;

/// As a `TlsCertificate`.
pub fn certificate(leaf: &Leaf) -> Value {
    json!({"certificate_chain": {"inline_string": leaf.chain}, "private_key": {"inline_string": leaf.key}})
}

const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";

/// A transport socket of a listener.
pub fn downstream(mut context: Value) -> Value {
    context["@type"] = format!("{TLS}.DownstreamTlsContext").into();
    json!({"name": "envoy.transport_sockets.tls", "typed_config": context})
}

/// A transport socket of a cluster.
pub fn upstream(mut context: Value) -> Value {
    context["@type"] = format!("{TLS}.UpstreamTlsContext").into();
    json!({"name": "envoy.transport_sockets.tls", "typed_config": context})
}

/// Takes whatever certificate comes.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A client; what it resumes, it resumes in its own name.
#[derive(Clone)]
pub struct Client(Arc<ClientConfig>);

impl Client {
    pub fn new(protocols: &[&str], identity: Option<&Leaf>) -> Self {
        Self::versions(rustls::ALL_VERSIONS, protocols, identity)
    }

    pub fn versions(
        versions: &[&'static rustls::SupportedProtocolVersion],
        protocols: &[&str],
        identity: Option<&Leaf>,
    ) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone));
        let mut config = match identity {
            Some(leaf) => builder.with_client_auth_cert(vec![leaf.der()], leaf.private_key()).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Self(Arc::new(config))
    }

    pub async fn connect(&self, address: SocketAddr, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
        self.connect_over(TcpStream::connect(address).await?, name).await
    }

    pub async fn connect_over<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        name: &str,
    ) -> std::io::Result<TlsStream<S>> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let handshake = TlsConnector::from(Arc::clone(&self.0)).connect(name, stream);
        tokio::time::timeout(Duration::from_secs(10), handshake).await?
    }

    /// One request on a connection of its own; none where there is no answer.
    pub async fn get(&self, address: SocketAddr, name: &str, headers: &str) -> Option<Answer> {
        let mut stream = self.connect(address, name).await.ok()?;
        Some(request(&mut stream, headers).await).filter(|answer| answer.status != 0)
    }
}

/// A request, and all that follows on the connection.
pub async fn request(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), headers: &str) -> Answer {
    let text = format!("GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n{headers}\r\n");
    let _ = stream.write_all(text.as_bytes()).await;
    let mut out = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut out)).await;
    Answer::parse(&String::from_utf8_lossy(&out))
}

/// A connection that sends a few bytes at a time.
pub struct Pieces(TcpStream);

impl Pieces {
    pub async fn new(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.0).poll_write(context, &bytes[..bytes.len().min(17)]);
        // The other side gets to see each piece by itself.
        std::thread::sleep(Duration::from_micros(200));
        written
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
