//! Configuration: any text as a bootstrap, any bytes as a resource. Whatever it is, it is taken or refused.

use lateen_dataplane::compile;
use lateen_envoy::prost::Message;

pub(super) const WORDS: &[&[u8]] = &[
    b"\"@type\": \"type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy\"",
    b"\"static_resources\": {",
    b"\"listeners\": [",
    b"\"clusters\": [",
    b"\"filter_chains\": [",
    b"\"name\": \"x\"",
    b"\"address\": {\"socket_address\": {\"address\": \"::\", \"port_value\": 65536}}",
    b"\"idle_timeout\": \"-1s\"",
    b"\"safe_regex\": {\"regex\": \"(\"}",
    b"%REQ(",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b"null",
    b"-1",
    b"1e400",
    b"\"\"",
    // Tags of messages and their lengths, for the binary form.
    b"\x0a\x01a",
    b"\x12\x02\x0a\x00",
    b"\x1a\xff\xff\xff\xff\x0f",
];

pub(super) fn bootstrap(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(bootstrap) = crate::bootstrap::parse(text, None) {
        let _ = crate::Proxy::validate(&bootstrap);
    }
    let _ = crate::bootstrap::parse_leniently(text, None);
}

/// The first byte says which kind of resource the others are.
pub(super) fn resource(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first() else { return };
    match kind % 4 {
        0 => with(body, compile::compile_listener),
        1 => with(body, compile::compile_routes),
        2 => with(body, compile::compile_cluster),
        _ => with(body, compile::compile_assignment),
    }
}

fn with<M: Message + Default, T, E>(body: &[u8], compile: impl FnOnce(M) -> Result<T, E>) {
    if let Ok(message) = M::decode(body) {
        let _ = compile(message);
    }
}
