//! Routes: from a request's head to what is to be done with it.
//!
//! [`RouteTable::find`] is the whole decision: the virtual host by Envoy's domain order, then the first route that
//! matches. Everything a request needs afterwards hangs on the [`Route`] by shared pointers, merged at compile time.

mod action;
mod clusters;
mod domains;
mod hash;
mod matching;
mod mutation;
mod redirects;
mod retry;
mod tree;
mod virtual_cluster;

use std::sync::Arc;

use lateen_envoy::envoy::config::core::v3::ConfigSource;

pub use action::{
    Action, ClusterSpecifier, ConnectTermination, DirectResponse, Forward, GrpcTimeout, HostRewrite, Mirror,
    PathRewrite, Redirect, WeightedCluster,
};
pub use domains::Domains;
pub use hash::{HashClient, HashCookie, HashPolicy, HashSource, hash};
pub use matching::{Fraction, PathMatcher, RouteMatch, StateMatcher};
pub use mutation::{AppendAction, HeaderMutations, HeaderValue};
pub use redirects::{InternalRedirects, NotFollowed};
pub use retry::{
    AvoidedHosts, DEFAULT_BACKOFF, RequestedRetries, ResetFormat, Retries, RetryOn, RetryPolicy, RetryStatus,
};
pub use tree::{Branches, Input, OnMatch, Predicate, Tree};
pub use virtual_cluster::VirtualCluster;

use crate::filter_state::FilterState;
use crate::filters::FilterOverride;
use crate::filters::rate_limits::RateLimit;
use crate::head::RequestHead;
use crate::metadata::Metadata;

/// What conditions of routes look at besides the head.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts<'a> {
    /// What filters have noted.
    pub metadata: Option<&'a Metadata>,
    /// What filters have set.
    pub filter_state: Option<&'a FilterState>,
}

/// A compiled `envoy.config.route.v3.RouteConfiguration`.
#[derive(Debug)]
pub struct RouteTable {
    /// Its name.
    pub name: Arc<str>,
    /// In the order of the configuration.
    pub virtual_hosts: Vec<Arc<VirtualHost>>,
    /// Which of them serves a host.
    pub domains: Domains,
    /// Whether a port in the request's host counts.
    pub ignore_port: bool,
    /// Of the whole table.
    pub mutations: Arc<HeaderMutations>,
    /// Whether, of several levels, the nearest changes heads last.
    pub nearest_wins: bool,
    /// Fields that only we may send; removed from requests at the edge.
    pub internal_only_headers: Vec<Box<[u8]>>,
    /// Whether the clusters that it names have to exist when it is taken; not said: where it is part of a listener.
    pub validate_clusters: Option<bool>,
    /// Where virtual hosts are asked for that are called and not there.
    pub on_demand: Option<Arc<ConfigSource>>,
}

/// Which plain requests a virtual host redirects (`VirtualHost.TlsRequirementType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RequireTls {
    /// None.
    #[default]
    No,
    /// Those from outside.
    External,
    /// All.
    All,
}

/// A compiled `envoy.config.route.v3.VirtualHost`.
#[derive(Debug)]
pub struct VirtualHost {
    /// Its name.
    pub name: Arc<str>,
    /// The first that matches counts.
    pub routes: Vec<Arc<Route>>,
    /// A tree in place of the list.
    pub tree: Option<Tree>,
    /// Which plain requests are redirected to https.
    pub require_tls: RequireTls,
    /// Whether the upstream is told which attempt this is.
    pub include_attempt_count: bool,
    /// Whether the client is told how many attempts were made.
    pub include_attempt_count_in_response: bool,
    /// Of this host.
    pub mutations: Arc<HeaderMutations>,
    /// What requests count as for rate limits.
    pub rate_limits: Vec<RateLimit>,
    /// Parts of its requests that are counted by themselves; the last one takes the rest.
    pub virtual_clusters: Vec<Arc<VirtualCluster>>,
    /// What is said of it besides.
    pub metadata: Option<Arc<Metadata>>,
}

/// A compiled `envoy.config.route.v3.Route`.
#[derive(Debug)]
pub struct Route {
    /// May be empty.
    pub name: Arc<str>,
    /// When it applies.
    pub matcher: RouteMatch,
    /// What it does.
    pub action: Action,
    /// Of this route.
    pub mutations: Arc<HeaderMutations>,
    /// Notes about it, for filters and logs.
    pub metadata: Arc<Metadata>,
    /// Filters configured for this route, its virtual host or its table; the nearest won. By the filter's name.
    pub filters: Vec<(Box<str>, FilterOverride)>,
}

/// The outcome of [`RouteTable::find`].
#[derive(Debug, Clone)]
pub struct Found {
    /// The host.
    pub virtual_host: Arc<VirtualHost>,
    /// The route.
    pub route: Arc<Route>,
    /// Which of the route's weighted clusters takes the request.
    pub entry: Option<usize>,
}

impl Found {
    /// The chosen entry of a route with weighted clusters.
    pub fn weighted(&self) -> Option<&WeightedCluster> {
        match (&self.route.action, self.entry) {
            (Action::Forward(forward), Some(entry)) => forward.cluster.entry(entry),
            _ => None,
        }
    }

    /// What the nearest level that says anything says about one filter.
    pub fn filter(&self, name: &str) -> Option<&FilterOverride> {
        let filters = self.weighted().map_or(&self.route.filters, |entry| &entry.filters);
        filters.iter().find(|(candidate, _)| &**candidate == name).map(|(_, filter)| filter)
    }

    /// Whether no level says anything about any filter.
    pub fn has_default_filters(&self) -> bool {
        self.weighted().map_or(&self.route.filters, |entry| &entry.filters).is_empty()
    }

    /// The cluster for the request. None where a header names none.
    pub fn cluster(&self, head: &RequestHead) -> Option<Arc<str>> {
        match &self.route.action {
            Action::Forward(forward) => forward.cluster.name(self.entry, head),
            _ => None,
        }
    }
}

impl RouteTable {
    /// What changes the heads of a request on this route, in order: from the nearest level to the farthest, unless the
    /// nearest is to have the last word.
    pub fn mutations_of<'a>(&'a self, found: &'a Found) -> impl Iterator<Item = &'a HeaderMutations> {
        let mut levels = [
            found.weighted().map(|entry| &entry.mutations),
            Some(&*found.route.mutations),
            Some(&*found.virtual_host.mutations),
            Some(&*self.mutations),
        ];
        if self.nearest_wins {
            levels.reverse();
        }
        levels.into_iter().flatten().filter(|mutations| !mutations.is_empty())
    }

    /// The virtual host for an authority.
    pub fn virtual_host(&self, authority: &[u8]) -> Option<&Arc<VirtualHost>> {
        let host = if self.ignore_port { without_port(authority) } else { authority };
        self.domains.find(host).and_then(|index| self.virtual_hosts.get(index))
    }

    /// The route for a request. `random` decides runtime fractions.
    pub fn find(&self, head: &RequestHead, random: u64) -> Option<Found> {
        self.find_with(head, random, Facts::default())
    }

    /// The same, with what is known besides the head.
    pub fn find_with(&self, head: &RequestHead, random: u64, facts: Facts<'_>) -> Option<Found> {
        let virtual_host = self.virtual_host(head.authority())?;
        let route = match &virtual_host.tree {
            None => {
                virtual_host.routes.iter().find(|route| route.matcher.matches_with(head, random, facts))?
            }
            Some(tree) => tree.find(head, random, facts)?,
        };
        let entry = match &route.action {
            Action::Forward(forward) => forward.cluster.choose(head, random),
            _ => None,
        };
        Some(Found { virtual_host: Arc::clone(virtual_host), route: Arc::clone(route), entry })
    }
}

/// An authority without its port.
pub fn without_port(authority: &[u8]) -> &[u8] {
    match authority.iter().rposition(|byte| *byte == b':') {
        // The last colon of `[::1]` is no port's.
        Some(at)
            if authority[at + 1..].iter().all(u8::is_ascii_digit) && !authority[..at].ends_with(b":") =>
        {
            &authority[..at]
        }
        _ => authority,
    }
}
