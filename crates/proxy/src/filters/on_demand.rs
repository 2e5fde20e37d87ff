//! `envoy.filters.http.on_demand`: a request waits while its virtual host and its cluster are fetched, where they are not
//! there yet. What does not come in time or does not exist is missing as it would be without this filter: 404, 503.

use std::sync::Arc;
use std::time::Duration;

use lateen_dataplane::filters::{FilterOverride, OnDemand as Config, OnDemandClusters};
use lateen_dataplane::route::Action;

use super::{HttpFilter, Step};
use crate::on_demand::Thing;
use crate::router::{Exchange, LocalReply};

/// How long a virtual host is waited for where nothing is said of clusters.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What all requests share.
#[derive(Debug)]
pub struct Shared {
    /// Under which routes configure it.
    name: Box<str>,
    config: Arc<Config>,
}

impl Shared {
    pub(super) fn new(name: &str, config: &Arc<Config>) -> Self {
        Self { name: name.into(), config: Arc::clone(config) }
    }
}

/// What was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Nothing,
    VirtualHost,
    Cluster,
}

/// At work on a request.
pub struct OnDemand {
    shared: Arc<Shared>,
    stage: Stage,
}

impl OnDemand {
    /// Nothing where everything is there.
    pub(super) fn start(shared: &Arc<Shared>, exchange: &Exchange) -> Option<Self> {
        let needed = missing_host(exchange) || !missing_clusters(shared, exchange).is_empty();
        needed.then(|| Self { shared: Arc::clone(shared), stage: Stage::Nothing })
    }

    fn wait_for_host(&self, exchange: &Exchange) -> Option<Step> {
        let table = exchange.table.as_ref()?;
        let source = Arc::clone(table.on_demand.as_ref()?);
        let thing = Thing::virtual_host(&table.name, exchange.head.authority());
        let limit = self.shared.config.clusters.as_ref().map_or(TIMEOUT, |clusters| clusters.timeout);
        let state = Arc::clone(&exchange.worker.state);
        Some(Step::Wait(Box::pin(async move { state.on_demand.wait(thing, &source, limit).await })))
    }

    fn wait_for_clusters(&self, exchange: &Exchange) -> Option<Step> {
        let missing = missing_clusters(&self.shared, exchange);
        let clusters = settings(&self.shared, exchange)?;
        let (OnDemandClusters { source, timeout }, state) = (clusters.clone(), &exchange.worker.state);
        let state = Arc::clone(state);
        let mut missing = missing.into_iter();
        let (first, waited) = missing.next()?;
        // Copies go where they can: nobody waits for their clusters.
        missing.for_each(|(name, _)| state.on_demand.hint(Thing::Cluster(name), &source));
        if !waited {
            state.on_demand.hint(Thing::Cluster(first), &source);
            return None;
        }
        Some(Step::Wait(Box::pin(async move {
            state.on_demand.wait(Thing::Cluster(first), &source, timeout).await;
        })))
    }
}

impl HttpFilter for OnDemand {
    fn request_head(&mut self, exchange: &mut Exchange) -> Step {
        if self.stage == Stage::VirtualHost {
            exchange.table = exchange.runtime.routes.load_full();
            exchange.refresh_route();
            if exchange.upgrade_refused() {
                return Step::Reply(LocalReply::new(403, "", "upgrade_failed"));
            }
        }
        if self.stage == Stage::Nothing && missing_host(exchange) {
            self.stage = Stage::VirtualHost;
            if let Some(step) = self.wait_for_host(exchange) {
                return step;
            }
        }
        if self.stage != Stage::Cluster {
            self.stage = Stage::Cluster;
            if let Some(step) = self.wait_for_clusters(exchange) {
                return step;
            }
        }
        Step::Continue
    }
}

/// Whether the table has no virtual host for the request, and knows where to get it.
fn missing_host(exchange: &Exchange) -> bool {
    let table = exchange.table.as_ref().filter(|_| exchange.found.is_none());
    let host = exchange.head.authority();
    table.is_some_and(|table| {
        table.on_demand.is_some() && !host.is_empty() && table.virtual_host(host).is_none()
    })
}

/// What counts for the request: what its route says, else the chain.
fn settings<'a>(shared: &'a Shared, exchange: &'a Exchange) -> Option<&'a OnDemandClusters> {
    match exchange.found.as_ref().and_then(|found| found.filter(&shared.name)) {
        Some(FilterOverride::OnDemand(config)) => config.clusters.as_ref(),
        _ => shared.config.clusters.as_ref(),
    }
}

/// The clusters that the route leads to and that are not there; of the first, whether the request needs it.
fn missing_clusters(shared: &Shared, exchange: &Exchange) -> Vec<(Arc<str>, bool)> {
    let Some(found) = exchange.found.as_ref().filter(|_| settings(shared, exchange).is_some()) else {
        return Vec::new();
    };
    let Action::Forward(forward) = &found.route.action else { return Vec::new() };
    let clusters = exchange.worker.state.clusters.load();
    let own = found.cluster(&exchange.head).map(|name| (name, true));
    let copies = forward.mirrors.iter().map(|mirror| (Arc::clone(&mirror.cluster), false));
    own.into_iter()
        .chain(copies)
        .filter(|(name, _)| !name.is_empty() && !clusters.contains_key(name))
        .collect()
}
