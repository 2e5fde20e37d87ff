//! The handshakes of both ends.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use lateen_dataplane::cluster::Host;
use lateen_identity::verify::{Rejection, take_signature_scheme};
use rustls::AlertDescription;
use rustls::server::Acceptor;
use tokio::io::AsyncWriteExt;
use tokio_rustls::{LazyConfigAcceptor, TlsStream as Connection};

use super::stats::Seen;
use super::stream::Below;
use super::{ClientContext, ServerContext, TlsInfo, TlsStream};
use crate::inspect;
use crate::stats::Shard;
use crate::stream::Stream;

/// A client that does not finish its handshake holds a connection for nothing.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(60);

/// Serves the handshake of a client. `input` was read from the connection already. The error is for the log.
pub async fn accept(
    shard: &Shard,
    context: &ServerContext,
    stream: Stream,
    input: BytesMut,
    timeout: Option<Duration>,
) -> Result<TlsStream, String> {
    let Some(ready) = context.ready() else {
        context.stats.not_ready(shard);
        return Err("TLS_error:Secret_is_not_supplied_by_SDS".to_owned());
    };
    let mut below = Below::new(stream, input);
    let handshake = async {
        let asks_for_status = match hello(&mut below).await? {
            Hello::Tls { asks_for_status } => asks_for_status,
            Hello::Nonsense(number, reason) => {
                context.stats.nonsense(shard);
                return Ok(Err(words(number, reason, "")));
            }
        };
        let start = LazyConfigAcceptor::new(Acceptor::default(), below).await?;
        let hello = start.client_hello();
        let server_name: Option<Arc<str>> = hello.server_name().map(Arc::from);
        let identity = ready.identities.choose(server_name.as_deref(), hello.signature_schemes()).cloned();
        if asks_for_status {
            let staple = identity.as_ref().and_then(|identity| identity.key.ocsp.as_ref());
            context.stats.status_asked(shard, staple.is_some());
        }
        let config = Arc::clone(ready.config(&hello));
        let mut seen = Seen::default();
        let connection = watched(start.into_stream(config), &mut seen).await?;
        let info = TlsInfo::new(connection.get_ref().1, server_name, identity, ready.verifies);
        context.stats.completed(shard, &info, connection.get_ref().1, seen);
        Ok(Ok(TlsStream::new(Connection::Server(connection), Arc::new(info))))
    };
    match tokio::time::timeout(timeout.unwrap_or(ACCEPT_TIMEOUT), handshake).await {
        Ok(Ok(served)) => served,
        Ok(Err(error)) => {
            context.stats.failed(shard, &error);
            Err(describe(&error, true))
        }
        Err(_) => Err(TIMEOUT.to_owned()),
    }
}

/// What logs say of a handshake that took too long.
const TIMEOUT: &str = "transport socket timeout";

/// Whether it was that.
pub fn is_timeout(reason: &str) -> bool {
    reason == TIMEOUT
}

/// How a connection to a server begins.
enum Hello {
    /// As TLS does.
    Tls {
        /// Whether the client wants to be told the state of our certificate.
        asks_for_status: bool,
    },
    /// As something else: BoringSSL's number and name of it.
    Nonsense(u32, &'static str),
}

/// Reads the first message. What is plain HTTP is not answered at all, as by BoringSSL: whoever sent it could not read an
/// alert. Other nonsense gets the alert that BoringSSL sends.
async fn hello(below: &mut Below) -> io::Result<Hello> {
    loop {
        let input = below.input();
        if let Some(first) = input.get(..5) {
            if [&b"GET "[..], b"POST ", b"HEAD ", b"PUT "].iter().any(|method| first.starts_with(method)) {
                return Ok(Hello::Nonsense(268_435_612, "HTTP_REQUEST"));
            }
            if first == b"CONNE" {
                return Ok(Hello::Nonsense(268_435_611, "HTTPS_PROXY_REQUEST"));
            }
            if first[1] != 3 {
                below.write_all(&[21, 3, 1, 0, 2, 2, AlertDescription::ProtocolVersion.into()]).await?;
                return Ok(Hello::Nonsense(268_435_703, "WRONG_VERSION_NUMBER"));
            }
            if let Some(asks_for_status) = inspect::asks_for_status(input) {
                return Ok(Hello::Tls { asks_for_status });
            }
            // The TLS library refuses what is too long.
            if input.len() > inspect::MAX {
                return Ok(Hello::Tls { asks_for_status: false });
            }
        }
        if below.fill().await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Runs a handshake and notes by which algorithm the other end signs: that is only told to the verifier.
async fn watched<F: Future>(handshake: F, seen: &mut Seen) -> F::Output {
    let mut handshake = std::pin::pin!(handshake);
    std::future::poll_fn(|context| {
        take_signature_scheme();
        let polled = handshake.as_mut().poll(context);
        if let Some(scheme) = take_signature_scheme() {
            seen.signature = Some(scheme);
        }
        polled
    })
    .await
}

/// The protocols that whoever connects can speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wanted {
    /// Bytes.
    Any,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Whichever the host chooses.
    Either,
}

/// Shakes hands with a host. The error is for the log.
pub async fn connect(
    shard: &Shard,
    context: &ClientContext,
    stream: Stream,
    host: &Host,
    server_name: Option<&str>,
    wanted: Wanted,
) -> Result<TlsStream, String> {
    let Some(ready) = context.ready() else {
        context.stats.not_ready(shard);
        return Err("TLS_error:Secret_is_not_supplied_by_SDS".to_owned());
    };
    let name = context
        .server_name(host, server_name)
        .map_err(|_| "the server's name is neither a DNS name nor an address".to_owned())?;
    let sent: Option<Arc<str>> = match &name {
        rustls::pki_types::ServerName::DnsName(name) => Some(name.as_ref().into()),
        _ => None,
    };
    let protocols: Vec<Vec<u8>> = match (context.protocols(), wanted) {
        ([], Wanted::Any) => Vec::new(),
        ([], Wanted::Http1) => vec![b"http/1.1".to_vec()],
        ([], Wanted::Http2) => vec![b"h2".to_vec()],
        ([], Wanted::Either) => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        (configured, _) => configured.iter().map(|protocol| protocol.to_vec()).collect(),
    };
    let below = Below::new(stream, BytesMut::new());
    let mut seen = Seen::default();
    match watched(ready.connector.with_alpn(protocols).connect(name, below), &mut seen).await {
        Ok(connection) => {
            let identity = ready.all.first().cloned();
            let info = TlsInfo::new(connection.get_ref().1, sent, identity, ready.verifies);
            context.stats.completed(shard, &info, connection.get_ref().1, seen);
            Ok(TlsStream::new(Connection::Client(connection), Arc::new(info)))
        }
        Err(error) => {
            context.stats.failed(shard, &error);
            Err(describe(&error, false))
        }
    }
}

/// A failure in the words that Envoy's logs have for it: BoringSSL's number, library and reason.
fn describe(error: &io::Error, server: bool) -> String {
    use rustls::PeerIncompatible::{
        ServerDoesNotSupportTls12Or13, ServerTlsVersionIsDisabledByOurConfig,
        SupportedVersionsExtensionRequired, Tls12NotOffered, Tls12NotOfferedOrEnabled,
    };
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return error.to_string();
    };
    let mut detail = Rejection::of(tls).map(|rejection| format!(":{rejection}")).unwrap_or_default();
    let (number, reason) = match tls {
        rustls::Error::InvalidCertificate(_) => (268_435_581, "CERTIFICATE_VERIFY_FAILED".to_owned()),
        rustls::Error::NoCertificatesPresented => {
            detail = ":peer did not provide required client certificate".to_owned();
            (268_435_648, "PEER_DID_NOT_RETURN_A_CERTIFICATE".to_owned())
        }
        rustls::Error::AlertReceived(alert) => received(*alert),
        rustls::Error::NoApplicationProtocol => (268_435_502, "NO_APPLICATION_PROTOCOL".to_owned()),
        // What clients send that do not know of TLS.
        rustls::Error::InvalidMessage(_) if server => (268_435_612, "HTTP_REQUEST".to_owned()),
        rustls::Error::InvalidMessage(_) => (268_435_703, "WRONG_VERSION_NUMBER".to_owned()),
        rustls::Error::PeerIncompatible(
            ServerDoesNotSupportTls12Or13
            | ServerTlsVersionIsDisabledByOurConfig
            | SupportedVersionsExtensionRequired
            | Tls12NotOffered
            | Tls12NotOfferedOrEnabled,
        ) => (268_435_696, "UNSUPPORTED_PROTOCOL".to_owned()),
        rustls::Error::PeerIncompatible(_) => (268_435_640, "NO_SHARED_CIPHER".to_owned()),
        other => return format!("TLS_error:|{other}:TLS_error_end"),
    };
    words(number, &reason, &detail)
}

/// The form of BoringSSL's reasons in logs.
fn words(number: u32, reason: &str, detail: &str) -> String {
    format!("TLS_error:|{number}:SSL routines:OPENSSL_internal:{reason}{detail}:TLS_error_end")
}

/// BoringSSL's name of an alert that came, and its number.
fn received(alert: AlertDescription) -> (u32, String) {
    let number = 268_435_456 + 1000 + u32::from(u8::from(alert));
    let (prefix, name) = match alert {
        AlertDescription::UnexpectedMessage => ("SSLV3", "UNEXPECTED_MESSAGE"),
        AlertDescription::BadRecordMac => ("SSLV3", "BAD_RECORD_MAC"),
        AlertDescription::HandshakeFailure => ("SSLV3", "HANDSHAKE_FAILURE"),
        AlertDescription::NoCertificate => ("SSLV3", "NO_CERTIFICATE"),
        AlertDescription::BadCertificate => ("SSLV3", "BAD_CERTIFICATE"),
        AlertDescription::UnsupportedCertificate => ("SSLV3", "UNSUPPORTED_CERTIFICATE"),
        AlertDescription::CertificateRevoked => ("SSLV3", "CERTIFICATE_REVOKED"),
        AlertDescription::CertificateExpired => ("SSLV3", "CERTIFICATE_EXPIRED"),
        AlertDescription::CertificateUnknown => ("SSLV3", "CERTIFICATE_UNKNOWN"),
        AlertDescription::IllegalParameter => ("SSLV3", "ILLEGAL_PARAMETER"),
        AlertDescription::UnknownCA => ("TLSV1", "UNKNOWN_CA"),
        AlertDescription::AccessDenied => ("TLSV1", "ACCESS_DENIED"),
        AlertDescription::DecodeError => ("TLSV1", "DECODE_ERROR"),
        AlertDescription::DecryptError => ("TLSV1", "DECRYPT_ERROR"),
        AlertDescription::ProtocolVersion => ("TLSV1", "PROTOCOL_VERSION"),
        AlertDescription::InternalError => ("TLSV1", "INTERNAL_ERROR"),
        AlertDescription::UnrecognisedName => ("TLSV1", "UNRECOGNIZED_NAME"),
        AlertDescription::CertificateRequired => ("TLSV1", "CERTIFICATE_REQUIRED"),
        AlertDescription::NoApplicationProtocol => ("TLSV1", "NO_APPLICATION_PROTOCOL"),
        _ => ("TLSV1", "UNKNOWN"),
    };
    (number, format!("{prefix}_ALERT_{name}"))
}
