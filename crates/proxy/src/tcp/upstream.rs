//! The way from a client's connection to a host: cluster, host, attempts.

use std::sync::Arc;
use std::time::Duration;

use lateen_dataplane::circuit::RoutePriority;
use lateen_dataplane::cluster::Host;
use lateen_dataplane::filter_state::{TCP_PROXY_CLUSTER, UPSTREAM_SERVER_NAME};
use lateen_dataplane::outlier::Report;
use lateen_dataplane::route::AvoidedHosts;
use lateen_dataplane::stream_info::{ResponseFlags, StreamInfo, TlsView};

use super::account::Account;
use super::{Session, tunnel};
use crate::network::exchange;
use crate::on_demand::Thing;
use crate::state::ClusterHandle;
use crate::stream::Stream;
use crate::tls::Wanted;
use crate::upstream::limits::{Limited, Place};
use crate::upstream::{ConnectError, Dialing, Purpose, connect};
use crate::worker::Choice;

/// A connection to a host, with what is held for it.
pub(super) struct Opened {
    pub(super) stream: Stream,
    pub(super) cluster: Arc<ClusterHandle>,
    pub(super) host: Arc<Host>,
    /// None of a tunnel: the pool counts its connection.
    pub(super) account: Option<Account>,
    _places: [Option<Place>; 2],
}

/// Why an attempt led to nothing.
pub(super) enum Failed {
    /// No connection.
    Connect(ConnectError),
    /// As many wait or are there as may.
    Overflow,
    /// The host does not open the tunnel.
    Tunnel(&'static str),
}

impl Session<'_> {
    /// A connection to a host of the cluster that is chosen. None where there is none; `info` says why.
    pub(super) async fn open(&self, info: &mut StreamInfo) -> Option<Opened> {
        let (worker, config) = (self.worker, &self.runtime.config);
        let (name, criteria) = match self.facts.filter_state.get(TCP_PROXY_CLUSTER) {
            Some(name) => (name, config.metadata_match.as_ref()),
            None => config.cluster(worker.random()),
        };
        let mut cluster = worker.state.clusters.load().get(name).cloned();
        if cluster.is_none()
            && let Some(demand) = &config.on_demand
        {
            let thing = Thing::Cluster(Arc::clone(name));
            worker.state.on_demand.wait(thing, &demand.source, demand.timeout).await;
            cluster = worker.state.clusters.load().get(name).cloned();
        }
        let Some(cluster) = cluster else {
            worker.stats.increment(self.runtime.stats.downstream_cx_no_route);
            info.flags.set(ResponseFlags::NO_CLUSTER);
            return None;
        };
        info.upstream_cluster = Some(Arc::clone(name));
        info.upstream_stat_name = Some(Arc::clone(&cluster.config.stat_name));
        info.cluster_metadata.clone_from(&cluster.config.metadata);
        let stats = &cluster.stats;
        let mut tried: Vec<Arc<Host>> = Vec::new();
        for attempt in 0..config.connect_attempts {
            if attempt > 0
                && let Some(delay) = backoff(config.backoff, attempt, worker.random())
            {
                tokio::time::sleep(delay).await;
            }
            // The connection of a tunnel is the pool's, and limited there.
            let place = match &config.tunnel {
                Some(_) => None,
                None => {
                    let place =
                        Place::take(&cluster, &worker.stats, RoutePriority::Default, Limited::Connections);
                    if place.is_none() {
                        worker.stats.increment(stats.upstream_cx_overflow);
                        info.flags.set(ResponseFlags::UPSTREAM_OVERFLOW);
                        return None;
                    }
                    place
                }
            };
            let choice = Choice {
                destination: self.facts.destination(),
                hash: self.hash(),
                criteria: criteria.map(|criteria| &**criteria),
                attempts: 3,
                avoid: Some((&AvoidedHosts::PREVIOUS, &tried)),
                left_out: 0,
            };
            let Some(host) = worker.choose_host(&cluster, choice) else {
                info.flags.set(ResponseFlags::NO_HEALTHY_UPSTREAM);
                worker.stats.increment(stats.upstream_cx_none_healthy);
                return None;
            };
            info.upstream_host = Some(Arc::clone(&host.text));
            info.attempts += 1;
            match self.attempt(&cluster, &host, info).await {
                Ok((stream, account, request)) => {
                    cluster.report(&host, Report::ConnectedFinally);
                    info.upstream_local_address = stream.local_address();
                    info.upstream_tls = stream.tls().map(|tls| Arc::clone(tls) as Arc<dyn TlsView>);
                    return Some(Opened { stream, cluster, host, account, _places: [place, request] });
                }
                Err(Failed::Overflow) => {
                    // No host was asked.
                    info.upstream_host = None;
                    worker.stats.increment(stats.upstream_rq_pending_overflow);
                }
                Err(Failed::Tunnel(reason)) => {
                    info.upstream_transport_failure = Some(reason.to_owned());
                    info.flags.set(ResponseFlags::UPSTREAM_CONNECTION_FAILURE);
                }
                Err(Failed::Connect(error)) => {
                    let report = match error {
                        ConnectError::Timeout => Report::LocalTimeout,
                        _ => Report::LocalFailure,
                    };
                    cluster.report(&host, report);
                    info.upstream_transport_failure = Some(error.to_string());
                    // As with Envoy, a host that failed stays visible even where another one took its place.
                    info.flags.set(ResponseFlags::UPSTREAM_CONNECTION_FAILURE);
                }
            }
            tried.push(host);
        }
        worker.stats.increment(stats.upstream_cx_connect_attempts_exceeded);
        info.flags.set(ResponseFlags::RETRY_LIMIT);
        None
    }

    async fn attempt(
        &self,
        cluster: &Arc<ClusterHandle>,
        host: &Arc<Host>,
        info: &mut StreamInfo,
    ) -> Result<(Stream, Option<Account>, Option<Place>), Failed> {
        let worker = self.worker;
        if let Some(config) = &self.runtime.config.tunnel {
            let stream = tunnel::open(worker, cluster, host, config, info).await?;
            return Ok((stream, None, None));
        }
        let take =
            |kind| Place::take(cluster, &worker.stats, RoutePriority::Default, kind).ok_or(Failed::Overflow);
        let pending = take(Limited::Pending)?;
        let account = Account::open(cluster, host, &worker.stats);
        let server_name = self.facts.filter_state.get(UPSTREAM_SERVER_NAME);
        let dialing = Dialing {
            server_name: server_name.map(|name| (**name).into()),
            client: self.facts.remote.zip(self.facts.local),
        };
        let purpose = Purpose { wanted: Wanted::Any, dialing: Some(&dialing) };
        let connected = connect(&worker.stats, cluster, host, purpose).await;
        drop(pending);
        let mut stream = match connected {
            Ok(stream) => stream,
            Err(error) => {
                account.failed(matches!(error, ConnectError::Timeout));
                return Err(Failed::Connect(error));
            }
        };
        let request = take(Limited::Requests)?;
        account.connected();
        if let Some(protocol) = &cluster.config.peer_exchange {
            stream = exchange::upstream(&worker.state, protocol, stream).await;
        }
        Ok((stream, Some(account), Some(request)))
    }

    /// The number by which balancers that hash choose.
    fn hash(&self) -> Option<u64> {
        let hash = self.runtime.config.hash.as_ref()?;
        hash.value(self.facts.remote, |key| self.facts.filter_state.get(key).map(|value| &**value))
    }
}

/// The delay before an attempt: random, below a bound that doubles.
fn backoff(config: Option<(Duration, Duration)>, attempt: u32, random: u64) -> Option<Duration> {
    let (base, max) = config?;
    let bound = base.saturating_mul(1 << (attempt - 1).min(20)).min(max);
    Some(Duration::from_micros(random % (bound.as_micros() as u64).max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_of_a_delay_doubles_to_its_maximum() {
        let config = Some((Duration::from_millis(10), Duration::from_millis(35)));
        for (attempt, bound) in [(1, 10_000), (2, 20_000), (3, 35_000), (9, 35_000), (60, 35_000)] {
            let delay = backoff(config, attempt, bound - 1).unwrap();
            assert_eq!(delay, Duration::from_micros(bound - 1), "{attempt}");
            assert_eq!(backoff(config, attempt, bound).unwrap(), Duration::ZERO, "{attempt}");
        }
        assert_eq!(backoff(None, 1, 5), None);
    }
}
