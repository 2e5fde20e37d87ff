//! What is fetched when it is called for the first time: `envoy.filters.http.on_demand`, and `on_demand` of the TCP proxy.

use std::sync::Arc;
use std::time::Duration;

use lateen_envoy::envoy::config::core::v3::ConfigSource;

use super::HttpFilterKind;
use crate::listener::{Listener, NetworkFilter};

/// Clusters that are asked for by name when a request or a connection needs them
/// (`envoy.extensions.filters.http.on_demand.v3.OnDemandCds`, `TcpProxy.OnDemand`).
#[derive(Debug, Clone, PartialEq)]
pub struct OnDemandClusters {
    /// Whom they are asked of.
    pub source: Arc<ConfigSource>,
    /// How long it is waited for them.
    pub timeout: Duration,
}

impl Listener {
    /// Whether something may be called for through it that is not there.
    pub fn calls_on_demand(&self) -> bool {
        self.chains.iter().any(|chain| match &chain.network {
            NetworkFilter::Http(manager) => {
                manager.filters.iter().any(|filter| matches!(filter.kind, HttpFilterKind::OnDemand(_)))
            }
            NetworkFilter::Tcp(proxy) => proxy.on_demand.is_some(),
            _ => false,
        })
    }
}

/// `envoy.extensions.filters.http.on_demand.v3.OnDemand`. Virtual hosts are asked for wherever the route table has them
/// on demand.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OnDemand {
    /// Whether and how clusters are asked for, too.
    pub clusters: Option<OnDemandClusters>,
}
