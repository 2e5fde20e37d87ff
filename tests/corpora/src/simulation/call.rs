//! One call, and where it gets.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use lateen_dataplane::head::RequestHead;
use lateen_dataplane::listener::{FilterChain, HttpConnectionManager, NetworkFilter, RouteSource};
use lateen_dataplane::route::{Action, RequireTls};
use lateen_dataplane::tls::DownstreamTransport;
use lateen_dataplane::walk::{self, Connection, Walk};
use serde_json::Value;

use crate::report::text;

/// Ports that interception redirects to.
const OUTBOUND: u16 = 15001;
const INBOUND: u16 = 15006;

/// Where a call got, or why it did not get further.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) error: Option<&'static str>,
    listener: String,
    chain: String,
    table: String,
    virtual_host: String,
    route: String,
    cluster: String,
}

impl Outcome {
    /// By the name that results use.
    pub(super) fn field(&self, name: &str) -> &str {
        match name {
            "listenerMatched" => &self.listener,
            "filterChainMatched" => &self.chain,
            "routeConfigMatched" => &self.table,
            "virtualHostMatched" => &self.virtual_host,
            "routeMatched" => &self.route,
            _ => &self.cluster,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Security {
    Plaintext,
    Tls,
    MutualTls,
}

/// A call with everything that its description leaves out.
struct Call<'a> {
    destination: SocketAddr,
    redirected: Option<u16>,
    security: Security,
    http: Option<&'static str>,
    server_name: &'a str,
    alpn: &'a str,
    host: &'a str,
    path: &'a str,
    certificate: &'a str,
}

impl<'a> Call<'a> {
    fn new(described: &'a Value, gateway: bool) -> Result<Self, String> {
        let or = |field: &str, default: &'a str| match text(described, field) {
            "" => default,
            value => value,
        };
        let address: IpAddr =
            or("address", "1.3.3.7").parse().map_err(|error| format!("address: {error}"))?;
        let port = described["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or_default();
        let security = match text(described, "tls") {
            "tls" => Security::Tls,
            "mtls" => Security::MutualTls,
            _ => Security::Plaintext,
        };
        let http = match text(described, "protocol") {
            "http" => Some("http/1.1"),
            "http2" => Some("h2c"),
            _ => None,
        };
        let host = match text(described, "hostHeader") {
            "" => described["headers"]["Host"][0].as_str().unwrap_or_default(),
            host => host,
        };
        let alpn = match (security, http) {
            (Security::Plaintext, _) | (Security::Tls, None) => "",
            (Security::Tls, Some("h2c")) => "h2",
            (Security::Tls, Some(_)) => "http/1.1",
            (Security::MutualTls, None) => "istio",
            (Security::MutualTls, Some("h2c")) => "istio-h2",
            (Security::MutualTls, Some(_)) => "istio-http/1.1",
        };
        Ok(Self {
            destination: SocketAddr::new(address, port),
            redirected: match text(described, "callMode") {
                "inbound" => Some(INBOUND),
                "outbound" => Some(OUTBOUND),
                "gateway" => None,
                _ if gateway => None,
                _ => Some(OUTBOUND),
            },
            security,
            http,
            server_name: or("sni", if security == Security::Tls { host } else { "" }),
            alpn: or("alpn", alpn),
            host,
            path: or("path", "/"),
            certificate: or("mtlsSecretConfigName", "default"),
        })
    }
}

/// Walks the call to its end.
pub(super) fn run(walk: &Walk, described: &Value, gateway: bool) -> Outcome {
    let mut outcome = Outcome::default();
    match Call::new(described, gateway) {
        Ok(call) => outcome.error = follow(walk, &call, described, &mut outcome).err(),
        Err(_) => outcome.error = Some("the call cannot be read"),
    }
    outcome
}

fn follow(
    walk: &Walk,
    call: &Call<'_>,
    described: &Value,
    outcome: &mut Outcome,
) -> Result<(), &'static str> {
    let encrypted = call.security != Security::Plaintext;
    if !call.alpn.is_empty() && !encrypted {
        return Err("ErrTLSError");
    }
    let server_name = call.server_name.to_ascii_lowercase();
    let protocols = [call.alpn];
    let connection = Connection {
        destination: call.destination,
        redirected: call.redirected,
        // Any client of the same family.
        source: Some(SocketAddr::new(
            if call.destination.is_ipv4() {
                [10, 9, 8, 7].into()
            } else {
                [0xfd00, 0, 0, 0, 0, 0, 0, 7].into()
            },
            40_000,
        )),
        tls: encrypted,
        server_name: Some(&*server_name).filter(|name| !name.is_empty()),
        application_protocols: if call.alpn.is_empty() { &[] } else { &protocols },
        http: call.http,
    };
    let listener = walk.listener(&connection).ok_or("ErrNoListener")?;
    outcome.listener = listener.name.to_string();
    let chain = walk::chain(listener, &connection).ok_or("ErrNoFilterChain")?;
    outcome.chain = chain.name.to_string();
    let decrypted = handshake(chain, call)?;
    match &chain.network {
        NetworkFilter::Http(manager) => {
            if call.http.is_none() || (encrypted && !decrypted) {
                return Err("ErrProtocolError");
            }
            request(walk, manager, call, described, outcome)
        }
        NetworkFilter::Tcp(proxy) => {
            // The cases know single clusters only.
            if let [_] = proxy.clusters[..] {
                outcome.cluster = proxy.cluster(0).0.to_string();
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Whether the chain ends TLS; an error where client and chain do not agree about it.
fn handshake(chain: &Arc<FilterChain>, call: &Call<'_>) -> Result<bool, &'static str> {
    let DownstreamTransport::Tls(tls) = &chain.transport else { return Ok(false) };
    if call.security == Security::Plaintext {
        return Err("ErrTLSError");
    }
    let name = tls.common.secrets().next().map(|secret| &*secret.name);
    let mutual = tls.require_client_certificate && name == Some(call.certificate);
    if mutual == (call.security == Security::MutualTls) { Ok(true) } else { Err("ErrMTLSError") }
}

fn request(
    walk: &Walk,
    manager: &HttpConnectionManager,
    call: &Call<'_>,
    described: &Value,
    outcome: &mut Outcome,
) -> Result<(), &'static str> {
    if let RouteSource::Discovered(name) = &manager.routes {
        outcome.table = name.to_string();
    }
    let table = walk.routes(&manager.routes).ok_or("ErrNoVirtualHost")?;
    let mut head = RequestHead::new("GET", call.host, call.path);
    for (name, values) in described["headers"].as_object().into_iter().flatten() {
        for value in values.as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !name.eq_ignore_ascii_case("host") {
                head.headers.append(name.to_ascii_lowercase(), value);
            }
        }
    }
    let host = table.virtual_host(head.authority()).ok_or("ErrNoVirtualHost")?;
    outcome.virtual_host = host.name.to_string();
    if host.require_tls == RequireTls::All && call.security == Security::Plaintext {
        return Err("ErrTLSRedirect");
    }
    let found = table.find(&head, 0).ok_or("ErrNoRoute")?;
    outcome.route = found.route.name.to_string();
    if let Action::Forward(_) = &found.route.action
        && found.entry.is_none()
    {
        outcome.cluster = found.cluster(&head).unwrap_or_default().to_string();
    }
    Ok(())
}
