//! What comes before a connection's filter chain is chosen: the PROXY protocol, and the inspectors.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use lateen_dataplane::listener::Listener;
use lateen_dataplane::listener_filter::{Inspect, ProxyProtocol};
use tokio::io::AsyncReadExt;

use crate::inspect::{self, Found, Http};
use crate::listener::ConnectionFacts;
use crate::proxy_protocol::{self, Header, Parsed, Version};
use crate::state::ActiveListener;
use crate::stats::{
    HttpInspectorStats, ProxyProtocolStats, ProxyProtocolV1Stats, ProxyProtocolV2Stats, Stats,
    TlsInspectorStats,
};
use crate::stream::Stream;
use crate::worker::Worker;

/// The counters of a listener's filters; only those it has.
#[derive(Debug)]
pub struct PreambleStats {
    tls: Option<TlsInspectorStats>,
    http: Option<HttpInspectorStats>,
    proxy: Option<(ProxyProtocolStats, ProxyProtocolV1Stats, ProxyProtocolV2Stats)>,
}

impl PreambleStats {
    /// Resolves the names.
    pub fn new(stats: &Stats, config: &Listener) -> Self {
        let proxy = config.proxy_protocol.as_ref().map(|proxy| {
            let name = &proxy.stat_prefix;
            (
                ProxyProtocolStats::new(stats, name),
                ProxyProtocolV1Stats::new(stats, name),
                ProxyProtocolV2Stats::new(stats, name),
            )
        });
        Self {
            tls: (config.inspect_tls != Inspect::Never).then(|| TlsInspectorStats::new(stats, "")),
            http: (config.inspect_http != Inspect::Never).then(|| HttpInspectorStats::new(stats, "")),
            proxy,
        }
    }
}

/// Why a connection is closed before it has a chain.
enum Closed {
    /// By the client.
    Remote,
    /// A filter does not let it pass.
    Filter,
}

/// What the listener filters find; none where the connection is to be closed.
pub async fn read(
    worker: &Worker,
    listener: &ActiveListener,
    stream: &mut Stream,
    input: &mut BytesMut,
    facts: &mut ConnectionFacts,
) -> Option<Found> {
    let config = &listener.config;
    let port = facts.local.map_or(0, |local| local.port());
    let (tls, http) = (config.inspect_tls.at(port), config.inspect_http.at(port));
    if !tls && !http && config.proxy_protocol.is_none() {
        return Some(Found::default());
    }
    worker.stats.increment(listener.stats.downstream_pre_cx_active);
    let reading = async {
        if let Some(proxy) = &config.proxy_protocol {
            proxy_header(worker, listener, proxy, stream, input, facts).await?;
        }
        look(stream, input, tls, http).await.ok_or(Closed::Remote)
    };
    let limit = config.inspect_timeout.unwrap_or(Duration::from_secs(86_400));
    let outcome = tokio::time::timeout(limit, reading).await;
    worker.stats.decrement(listener.stats.downstream_pre_cx_active);
    match outcome {
        Ok(Ok(found)) => {
            count(worker, listener, &found, tls, http);
            Some(found)
        }
        Ok(Err(closed)) => {
            // A filter has counters of its own for what it does not let pass.
            if matches!(closed, Closed::Remote) {
                worker.stats.increment(listener.stats.downstream_listener_filter_remote_close);
            }
            None
        }
        Err(_) => {
            worker.stats.increment(listener.stats.downstream_pre_cx_timeout);
            config.continue_on_timeout.then(Found::default)
        }
    }
}

fn count(worker: &Worker, listener: &ActiveListener, found: &Found, tls: bool, http: bool) {
    let stats = &listener.preamble;
    if let Some(stats) = stats.tls.filter(|_| tls) {
        let shard = &worker.stats;
        if found.tls == Some(true) {
            shard.increment(stats.tls_found);
            let sni = found.server_name.is_some();
            shard.increment(if sni { stats.sni_found } else { stats.sni_not_found });
            let alpn = !found.application_protocols.is_empty();
            shard.increment(if alpn { stats.alpn_found } else { stats.alpn_not_found });
        } else {
            shard.increment(stats.tls_not_found);
        }
    }
    // Envoy's inspector leaves TLS alone.
    if let Some(stats) = stats.http.filter(|_| http && found.tls != Some(true)) {
        worker.stats.increment(match found.http {
            Some(Http::Http10) => stats.http10_found,
            Some(Http::Http11) => stats.http11_found,
            Some(Http::Http2) => stats.http2_found,
            None => stats.http_not_found,
        });
    }
}

/// Reads the header, if there is one, and takes from it who the client is.
async fn proxy_header(
    worker: &Worker,
    listener: &ActiveListener,
    config: &ProxyProtocol,
    stream: &mut Stream,
    input: &mut BytesMut,
    facts: &mut ConnectionFacts,
) -> Result<(), Closed> {
    let Some((stats, one, two)) = &listener.preamble.proxy else { return Ok(()) };
    loop {
        match proxy_protocol::parse(input) {
            Parsed::Incomplete => {}
            Parsed::Absent if config.optional => {
                worker.stats.increment(stats.not_found_allowed);
                return Ok(());
            }
            Parsed::Absent => {
                worker.stats.increment(stats.not_found_disallowed);
                return Err(Closed::Filter);
            }
            Parsed::Invalid(version) => {
                worker.stats.increment(of(version, one.error, two.error));
                return Err(Closed::Filter);
            }
            Parsed::Header(header, length) => {
                if of(header.version, config.disallow_v1, config.disallow_v2) {
                    worker.stats.increment(of(header.version, one.disallowed, two.disallowed));
                    return Err(Closed::Filter);
                }
                worker.stats.increment(of(header.version, one.found, two.found));
                input.advance(length);
                apply(config, header, facts);
                return Ok(());
            }
        }
        if !matches!(stream.read_buf(input).await, Ok(1..)) {
            return Err(Closed::Remote);
        }
    }
}

/// What belongs to a version.
fn of<T>(version: Version, one: T, two: T) -> T {
    if version == Version::One { one } else { two }
}

fn apply(config: &ProxyProtocol, mut header: Header, facts: &mut ConnectionFacts) {
    if let Some((source, destination)) = header.addresses {
        facts.remote = Some(source);
        facts.local = Some(destination);
        facts.restored = true;
    }
    for (kind, name) in &config.values {
        if let Some((_, value)) = header.values.iter().find(|(found, _)| found == kind) {
            facts.filter_state.set(&**name, String::from_utf8_lossy(value));
        }
    }
    header.values.retain(|(kind, _)| config.pass_on.contains(*kind));
    facts.proxy_header = Some(Arc::new(header));
}

/// Reads until the inspectors know enough. None where the client is gone before it said anything.
async fn look(stream: &mut Stream, input: &mut BytesMut, tls: bool, http: bool) -> Option<Found> {
    if !tls && !http {
        return Some(Found::default());
    }
    loop {
        if !input.is_empty()
            && let Some(found) = inspect::inspect(input, tls, http)
        {
            return Some(found);
        }
        if input.len() > inspect::MAX {
            return Some(Found::default());
        }
        match stream.read_buf(input).await {
            Ok(0) | Err(_) if input.is_empty() => return None,
            Ok(0) | Err(_) => return Some(inspect::inspect(input, tls, http).unwrap_or_default()),
            Ok(_) => {}
        }
    }
}
