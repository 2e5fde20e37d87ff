//! By what the hosts of a request are chosen.

use std::sync::Arc;

use lateen_dataplane::balance::Criteria;
use lateen_dataplane::circuit::RoutePriority;
use lateen_dataplane::route::{Forward, Found, HashClient, hash};

use super::Forwarded;
use crate::router::Exchange;
use crate::state::ClusterHandle;

/// What a route says about hosts, for one request.
#[derive(Debug, Default)]
pub(super) struct Selection {
    /// For ring hash and Maglev.
    pub(super) hash: Option<u64>,
    /// For subsets.
    pub(super) criteria: Option<Arc<Criteria>>,
    /// Which limits count.
    pub(super) priority: RoutePriority,
    /// Cookies that were made for the hash.
    cookies: Vec<String>,
}

impl Selection {
    pub(super) fn new(exchange: &Exchange, found: &Found, action: &Forward, cluster: &ClusterHandle) -> Self {
        let mut cookies = Vec::new();
        // A hash that nobody asks for is not worth its time; but a cookie is made whoever asks.
        let hash = match action.hash.is_empty() {
            true => None,
            false => {
                let client = HashClient {
                    remote: exchange.info.downstream_remote_address,
                    local: exchange.info.downstream_local_address,
                };
                hash(&action.hash, &exchange.head, client, &mut cookies)
            }
        };
        let criteria = match found.weighted() {
            _ if cluster.config.balancing.subsets.is_none() => None,
            Some(entry) if entry.metadata_match.is_some() => entry.metadata_match.clone(),
            _ => action.metadata_match.clone(),
        };
        Self { hash, criteria, priority: action.priority, cookies }
    }

    /// Gives the cookies that were made to the client.
    pub(super) fn set_cookies(&mut self, forwarded: &mut Forwarded) {
        for cookie in self.cookies.drain(..) {
            forwarded.head.headers.append("set-cookie", cookie);
        }
    }
}
