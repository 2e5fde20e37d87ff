//! `services/[SCHEME:]NAME[:PORT]/proxy/PATH` and the same of Pods: a request passed on to what serves it, and its
//! answer streamed back.
//!
//! A Service's port (by number or name) is looked up in its EndpointSlices; a ready endpoint is called directly. As in
//! Kubernetes, the certificate of an `https` endpoint is not checked (Pods rarely have one for their address), so
//! nothing that proves who the caller is may be passed on.

use super::answer::Body;
use super::request::{Request, Target};
use crate::api::Api;
use crate::seam::{Objects, Resource};
use crate::status::Status;
use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use lateen_base::drain;
use rand::seq::SliceRandom;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use serde_json::Value;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// How long a connection (and its TLS handshake) may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an endpoint may take to begin its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Endpoints that are tried when some cannot be reached.
const ATTEMPTS: usize = 3;
/// Pieces of an answer that wait for the client.
const QUEUE: usize = 16;

/// Headers of one connection (RFC 9110, section 7.6.1), and those that are written anew.
const OF_THE_CONNECTION: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];
/// Headers of a request that are written anew or that prove who the caller is.
const NOT_PASSED_ON: [HeaderName; 7] = [
    HOST,
    CONTENT_LENGTH,
    EXPECT,
    AUTHORIZATION,
    HeaderName::from_static("client-cert"),
    HeaderName::from_static("client-cert-chain"),
    HeaderName::from_static("x-forwarded-client-cert"),
];
/// Beginnings of headers by which a caller speaks for others.
const NOT_PASSED_ON_FAMILIES: [&str; 2] = ["impersonate-", "x-remote-"];

/// `[SCHEME:]NAME[:PORT]`.
#[derive(Debug, PartialEq, Eq)]
struct Place<'a> {
    https: bool,
    name: &'a str,
    port: &'a str,
}

impl<'a> Place<'a> {
    fn parse(text: &'a str) -> Option<Place<'a>> {
        let parts: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match parts.as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme, name, port] => (*scheme, *name, *port),
            _ => return None,
        };
        let known = matches!(scheme, "" | "http" | "https");
        (known && !name.is_empty()).then_some(Place { https: scheme == "https", name, port })
    }
}

/// Passes a request on.
pub(super) async fn forward(api: &Api, request: Request, target: &Target) -> Result<Response<Body>, Status> {
    let namespace = target.namespace.as_deref().unwrap_or_default();
    let name = target.name.as_deref().unwrap_or_default();
    let place = Place::parse(name).ok_or_else(|| {
        Status::bad_request(format!(
            "{name:?} does not name a place: write NAME, NAME:PORT or SCHEME:NAME:PORT"
        ))
    })?;
    let mut addresses = match target.plural.as_str() {
        "services" => of_service(&api.store, namespace, &place)?,
        _ => vec![of_pod(&api.store, namespace, &place)?],
    };
    addresses.shuffle(&mut rand::rng());
    let mut failure = Status::unavailable("there is no endpoint");
    for address in addresses.into_iter().take(ATTEMPTS) {
        match connect(address, place.https).await {
            Ok(connection) => {
                let path = target.proxied.as_deref().unwrap_or_default();
                let sent = send(connection, address, request, path);
                let (response, connection) =
                    tokio::time::timeout(ANSWER_TIMEOUT, sent).await.map_err(|_| {
                        let text = format!("{address} does not answer within {} s", ANSWER_TIMEOUT.as_secs());
                        Status::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", text)
                    })??;
                return Ok(pass_back(response, connection, api.drain.clone()));
            }
            Err(error) => failure = unreachable(address, &error),
        }
    }
    Err(failure)
}

fn unreachable(address: SocketAddr, error: &dyn std::fmt::Display) -> Status {
    Status::unavailable(format!("error trying to reach service: {address}: {error}"))
}

/// The ready endpoints behind a Service's port.
fn of_service(objects: &dyn Objects, namespace: &str, place: &Place<'_>) -> Result<Vec<SocketAddr>, Status> {
    let Place { name, port, .. } = place;
    let service = objects
        .get(Resource::new("", "services"), namespace, name)
        .ok_or_else(|| Status::not_found("", "services", name))?;
    let ports = service["spec"]["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    let port_name = |entry: &Value| entry["name"].as_str().unwrap_or_default().to_owned();
    let wanted = match (port.parse::<u64>(), ports) {
        (Ok(number), _) => ports.iter().find(|entry| entry["port"] == number).map(port_name),
        (Err(_), [only]) if port.is_empty() => Some(port_name(only)),
        (Err(_), _) => ports.iter().map(port_name).find(|name| name == port),
    };
    let wanted = wanted.ok_or_else(|| {
        let known: Vec<String> =
            ports.iter().map(|entry| format!("{}/{}", port_name(entry), entry["port"])).collect();
        Status::unavailable(format!("no service port {port:?} found for service {name:?}; it has {known:?}"))
    })?;
    let mut addresses = Vec::new();
    for slice in objects.list(Resource::new("discovery.k8s.io", "endpointslices"), Some(namespace)) {
        if slice["metadata"]["labels"]["kubernetes.io/service-name"] == **name {
            ready_endpoints(&slice, &wanted, &mut addresses);
        }
    }
    if addresses.is_empty() {
        return Err(Status::unavailable(format!("no endpoints available for service {name:?}")));
    }
    Ok(addresses)
}

fn ready_endpoints(slice: &Value, port_name: &str, addresses: &mut Vec<SocketAddr>) {
    let mut ports = slice["ports"].as_array().into_iter().flatten();
    let found = ports.find(|entry| entry["name"].as_str().unwrap_or_default() == port_name);
    let Some(number) =
        found.and_then(|entry| entry["port"].as_u64()).and_then(|port| u16::try_from(port).ok())
    else {
        return;
    };
    for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
        // A missing condition counts as ready.
        if endpoint["conditions"]["ready"] != false {
            let parsed = endpoint["addresses"][0].as_str().and_then(|text| text.parse::<IpAddr>().ok());
            addresses.extend(parsed.map(|address| SocketAddr::new(address, number)));
        }
    }
}

/// A Pod's address; without a port, its first container port.
fn of_pod(objects: &dyn Objects, namespace: &str, place: &Place<'_>) -> Result<SocketAddr, Status> {
    let Place { name, port, https } = place;
    let pod = objects
        .get(Resource::new("", "pods"), namespace, name)
        .ok_or_else(|| Status::not_found("", "pods", name))?;
    let number = if port.is_empty() {
        let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
        let mut ports = containers.filter_map(|container| container["ports"][0]["containerPort"].as_u64());
        ports.next().unwrap_or(if *https { 443 } else { 80 }).try_into().ok()
    } else {
        port.parse::<u16>().ok()
    };
    let number = number
        .filter(|number| *number != 0)
        .ok_or_else(|| Status::bad_request(format!("{port:?} is not a port's number")))?;
    let address = pod["status"]["podIP"].as_str().and_then(|text| text.parse::<IpAddr>().ok());
    let address = address.ok_or_else(|| Status::unavailable(format!("pod {name:?} has no address yet")))?;
    Ok(SocketAddr::new(address, number))
}

/// Both kinds of connections.
trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Stream for T {}

async fn connect(address: SocketAddr, https: bool) -> io::Result<Box<dyn Stream>> {
    let connecting = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        if !https {
            return Ok(Box::new(stream) as Box<dyn Stream>);
        }
        let connector = tokio_rustls::TlsConnector::from(Arc::new(unchecked_tls()?));
        let stream = connector.connect(ServerName::IpAddress(address.ip().into()), stream).await?;
        Ok(Box::new(stream) as Box<dyn Stream>)
    };
    tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.map_err(io::Error::from)?
}

type Driver = tokio::task::JoinHandle<Result<(), hyper::Error>>;

/// Sends the request, and returns the head of the answer.
async fn send(
    stream: Box<dyn Stream>,
    address: SocketAddr,
    request: Request,
    path: &str,
) -> Result<(Response<Incoming>, Driver), Status> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| unreachable(address, &error))?;
    let driver = tokio::spawn(connection);
    let mut uri = if path.is_empty() { "/".to_owned() } else { path.to_owned() };
    if !request.query.raw().is_empty() {
        uri.push('?');
        uri.push_str(request.query.raw());
    }
    let mut passed_on = http::Request::builder()
        .method(request.method)
        .uri(uri)
        .header(HOST, address.to_string())
        .body(Full::new(request.body))
        .map_err(|error| Status::bad_request(format!("the path cannot be passed on: {error}")))?;
    let mut headers = request.headers;
    remove_private(&mut headers);
    passed_on.headers_mut().extend(headers);
    let response = sender.send_request(passed_on).await.map_err(|error| unreachable(address, &error))?;
    Ok((response, driver))
}

/// Removes what belongs to one connection alone.
fn remove_of_connection(headers: &mut HeaderMap) {
    let listed: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in listed.iter().chain(&OF_THE_CONNECTION) {
        headers.remove(name);
    }
}

/// Removes besides what is between the caller and this server.
fn remove_private(headers: &mut HeaderMap) {
    remove_of_connection(headers);
    for name in &NOT_PASSED_ON {
        headers.remove(name);
    }
    let speaks_for_others =
        |name: &&HeaderName| NOT_PASSED_ON_FAMILIES.iter().any(|family| name.as_str().starts_with(family));
    let families: Vec<HeaderName> = headers.keys().filter(speaks_for_others).cloned().collect();
    for name in families {
        headers.remove(name);
    }
}

/// The answer for the client. An answer that breaks off is cut, so that it does not look like a whole one.
fn pass_back(response: Response<Incoming>, driver: Driver, drain: drain::Watch) -> Response<Body> {
    let (mut parts, mut body) = response.into_parts();
    remove_of_connection(&mut parts.headers);
    parts.extensions.clear();
    parts.version = http::Version::default();
    let (sender, receiver) = mpsc::channel::<io::Result<Frame<Bytes>>>(QUEUE);
    tokio::spawn(async move {
        loop {
            let frame = tokio::select! {
                frame = body.frame() => frame.map(|frame| frame.map_err(io::Error::other)),
                () = sender.closed() => None,
                () = drain.signaled() => Some(Err(io::Error::other("the server is shutting down"))),
            };
            let Some(frame) = frame else { break };
            let failed = frame.is_err();
            if sender.send(frame).await.is_err() || failed {
                break;
            }
        }
        driver.abort();
    });
    let body = StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(receiver));
    Response::from_parts(parts, BodyExt::boxed(body))
}

/// TLS that takes every certificate.
fn unchecked_tls() -> io::Result<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let verifier = Arc::new(AnyCertificate(provider));
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// Checks that the endpoint has its certificate's key, and nothing else.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
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
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn places() {
        let check = |text: &str, expect: Option<(bool, &str, &str)>| {
            let expect = expect.map(|(https, name, port)| Place { https, name, port });
            assert_eq!(Place::parse(text), expect, "{text}");
        };
        check("istiod", Some((false, "istiod", "")));
        check("istiod:8080", Some((false, "istiod", "8080")));
        check("istiod:http", Some((false, "istiod", "http")));
        check("http:istiod:8080", Some((false, "istiod", "8080")));
        check("https:istiod:", Some((true, "istiod", "")));
        check(":istiod:1", Some((false, "istiod", "1")));
        check("ftp:istiod:1", None);
        check("http::1", None);
        check("a:b:c:d", None);
        check("", None);
    }

    #[test]
    fn endpoints_of_a_slice() {
        let slice = json!({
            "ports": [{"name": "a", "port": 1}, {"port": 2}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": true}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
                {"addresses": ["10.0.0.3"], "conditions": {}},
                {"addresses": ["no address"]},
            ],
        });
        let check = |port: &str, expect: &[&str]| {
            let mut addresses = Vec::new();
            ready_endpoints(&slice, port, &mut addresses);
            let texts: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
            assert_eq!(texts, expect, "{port}");
        };
        check("a", &["10.0.0.1:1", "10.0.0.3:1"]);
        check("", &["10.0.0.1:2", "10.0.0.3:2"]);
        check("b", &[]);
    }

    #[test]
    fn headers_that_stay() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("accept", "*/*"),
            ("cookie", "a=b"),
            ("authorization", "Bearer x"),
            ("connection", "close, X-Hop"),
            ("x-hop", "1"),
            ("transfer-encoding", "chunked"),
            ("impersonate-user", "root"),
            ("x-remote-group", "system:masters"),
            ("x-forwarded-client-cert", "By=spiffe://x"),
            ("host", "api"),
        ] {
            headers.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        remove_private(&mut headers);
        let mut kept: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        kept.sort_unstable();
        assert_eq!(kept, ["accept", "cookie"]);
    }
}
