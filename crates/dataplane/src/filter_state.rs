//! Values that one filter sets and another reads, by name: Envoy's filter state, as far as it is text.

use std::sync::Arc;

/// Which cluster the TCP proxy uses, set by filters before it (`envoy.tcp_proxy.cluster`).
pub const TCP_PROXY_CLUSTER: &str = "envoy.tcp_proxy.cluster";
/// Milliseconds without bytes after which the TCP proxy ends a connection.
pub const TCP_PROXY_IDLE_TIMEOUT: &str = "envoy.tcp_proxy.per_connection_idle_timeout_ms";
/// The SNI sent to the upstream.
pub const UPSTREAM_SERVER_NAME: &str = "envoy.network.upstream_server_name";
/// The original destination that an `ORIGINAL_DST` cluster connects to.
pub const ORIGINAL_DESTINATION: &str = "envoy.network.transport_socket.original_dst_address";

/// The values of a connection. There are few: a list is faster than a map, and empty costs nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FilterState {
    entries: Vec<(Arc<str>, Arc<str>)>,
}

impl FilterState {
    /// Sets a value; one that is there is replaced.
    pub fn set(&mut self, key: impl Into<Arc<str>>, value: impl Into<Arc<str>>) {
        let (key, value) = (key.into(), value.into());
        match self.entries.iter_mut().find(|(existing, _)| *existing == key) {
            Some(entry) => entry.1 = value,
            None => self.entries.push((key, value)),
        }
    }

    /// A value.
    pub fn get(&self, key: &str) -> Option<&Arc<str>> {
        self.entries.iter().find(|(existing, _)| **existing == *key).map(|(_, value)| value)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
