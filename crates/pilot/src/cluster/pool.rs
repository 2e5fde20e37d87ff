//! Limits and timers of connections: `connectionPool`, `retryBudget`, and the mesh's `tcpKeepalive`.

use std::time::Duration;

use lateen_api::mesh::{MeshConfig, MeshH2UpgradePolicy};
use lateen_api::networking::{
    ConnectionPoolSettings, H2UpgradePolicy, HttpSettings, RetryBudget, TcpKeepalive, TcpSettings,
};
use lateen_model::PortProtocol;

use super::draft::Draft;
use crate::proto::{self, cluster, core, kind};

/// A limit that the user left open: Istio's is none at all.
const UNLIMITED: u32 = u32::MAX;

/// The limits and timers that go for every direction.
pub(super) fn apply(draft: &mut Draft, mesh: &MeshConfig, pool: Option<&ConnectionPoolSettings>) {
    let tcp = pool.and_then(|pool| pool.tcp.as_ref());
    let http = pool.and_then(|pool| pool.http.as_ref());
    let connect_timeout = tcp.and_then(|tcp| tcp.connect_timeout).unwrap_or(mesh.connect_timeout);
    draft.message.connect_timeout = Some(proto::duration(connect_timeout.get()));
    draft.message.circuit_breakers = Some(circuit_breakers(pool));
    let own_keepalive = tcp.and_then(|tcp| tcp.tcp_keepalive.as_ref());
    keepalive(draft, [mesh.tcp_keepalive.as_ref(), own_keepalive]);
    common_options(draft, tcp, http);
    if let Some(http) = http {
        http2_options(draft, http);
    }
}

/// Limits that are practically none, but for what the settings say.
pub(super) fn circuit_breakers(pool: Option<&ConnectionPoolSettings>) -> cluster::CircuitBreakers {
    let limit = |value: i32| if value > 0 { value as u32 } else { UNLIMITED };
    let tcp = pool.and_then(|pool| pool.tcp.as_ref());
    let http = pool.and_then(|pool| pool.http.as_ref());
    cluster::CircuitBreakers {
        thresholds: vec![cluster::circuit_breakers::Thresholds {
            max_connections: Some(limit(tcp.map_or(0, |tcp| tcp.max_connections))),
            max_pending_requests: Some(limit(http.map_or(0, |http| http.http1_max_pending_requests))),
            max_requests: Some(limit(http.map_or(0, |http| http.http2_max_requests))),
            max_retries: Some(limit(http.map_or(0, |http| http.max_retries))),
            track_remaining: true,
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// Limits concurrent retries to a share of the active requests; the fixed limit does not count then.
pub(super) fn retry_budget(draft: &mut Draft, budget: Option<&RetryBudget>) {
    let Some(budget) = budget else { return };
    let thresholds = draft.message.circuit_breakers.iter_mut().flat_map(|breakers| &mut breakers.thresholds);
    for threshold in thresholds {
        threshold.max_retries = None;
        threshold.retry_budget = Some(cluster::circuit_breakers::thresholds::RetryBudget {
            budget_percent: budget.percent.map(|percent| kind::Percent { value: percent.0 }),
            budget_interval: budget.budget_interval.map(|interval| proto::duration(interval.get())),
            min_retry_concurrency: (budget.min_retry_concurrency > 0).then_some(budget.min_retry_concurrency),
        });
    }
}

/// Settings of the rule go before the mesh's, one by one. Those that are empty turn keep-alive on as the system has it.
fn keepalive(draft: &mut Draft, layers: [Option<&TcpKeepalive>; 2]) {
    let seconds = |value: lateen_api::Duration| value.get().as_secs() as u32;
    for layer in layers.into_iter().flatten() {
        let options = draft.message.upstream_connection_options.get_or_insert_default();
        let made = options.tcp_keepalive.get_or_insert_default();
        if layer.probes > 0 {
            made.keepalive_probes = Some(layer.probes);
        }
        made.keepalive_time = layer.time.map(seconds).or(made.keepalive_time);
        made.keepalive_interval = layer.interval.map(seconds).or(made.keepalive_interval);
    }
}

fn common_options(draft: &mut Draft, tcp: Option<&TcpSettings>, http: Option<&HttpSettings>) {
    let duration = |value: lateen_api::Duration| proto::duration(value.get());
    let idle_timeout = http.and_then(|http| http.idle_timeout).or(tcp.and_then(|tcp| tcp.idle_timeout));
    let max_connection_duration = tcp.and_then(|tcp| tcp.max_connection_duration);
    let requests = http.map_or(0, |http| http.max_requests_per_connection.max(0) as u32);
    if idle_timeout.is_none() && max_connection_duration.is_none() && requests == 0 {
        return;
    }
    let common = draft.options().common_http_protocol_options.get_or_insert_default();
    common.idle_timeout = idle_timeout.map(duration).or(common.idle_timeout);
    common.max_connection_duration = max_connection_duration.map(duration);
    common.max_requests_per_connection = (requests > 0).then_some(requests);
}

fn http2_options(draft: &mut Draft, http: &HttpSettings) {
    if http.use_client_protocol {
        draft.speak_as_client();
    }
    let Some(options) = draft.http2() else { return };
    if http.max_concurrent_streams > 0 {
        options.max_concurrent_streams = Some(http.max_concurrent_streams as u32);
    }
    if let Some(pings) = &http.http2_keep_alive {
        let interval = pings.interval.map(|interval| proto::duration(interval.get()));
        // Envoy wants both, and has no defaults for them.
        let timeout = pings.timeout.map_or(Duration::from_secs(20), |timeout| timeout.get());
        options.connection_keepalive = Some(core::KeepaliveSettings {
            interval,
            timeout: Some(proto::duration(timeout)),
            ..Default::default()
        });
    }
}

/// The version of HTTP that a port's protocol means.
pub(super) fn protocol(draft: &mut Draft, protocol: PortProtocol, is_sidecar: bool) {
    if protocol.is_http2() {
        draft.speak_http2();
    } else if protocol.is_unknown() && is_sidecar {
        draft.speak_as_client();
    }
}

/// Whether HTTP/1.1 becomes HTTP/2: by the rule on any port, by the mesh where the port is known to be HTTP.
pub(super) fn upgrades(
    mesh: &MeshConfig,
    pool: Option<&ConnectionPoolSettings>,
    protocol: PortProtocol,
) -> bool {
    let policy = pool.and_then(|pool| pool.http.as_ref()).map(|http| http.h2_upgrade_policy);
    match policy.unwrap_or_default() {
        H2UpgradePolicy::Upgrade => true,
        H2UpgradePolicy::DoNotUpgrade => false,
        H2UpgradePolicy::Default => {
            protocol.is_http() && mesh.h2_upgrade_policy == MeshH2UpgradePolicy::Upgrade
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_limits_are_unlimited() {
        let thresholds = &circuit_breakers(None).thresholds[0];
        assert_eq!((thresholds.max_connections, thresholds.max_retries), (Some(UNLIMITED), Some(UNLIMITED)));
    }
}
