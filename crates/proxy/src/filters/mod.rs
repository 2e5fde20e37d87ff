//! The HTTP filter chain: what happens to a request between its route and the router, and to its response on the way
//! back.
//!
//! # How a filter is made
//!
//! A filter has two lives. Its configuration is compiled by `dataplane` (`HttpFilterKind`, and `FilterOverride` for what
//! routes say about it). [`Chain::new`] makes of that, once for each connection manager, whatever all requests share:
//! counters, buckets, gauges (`Shared`). For each request `Configured::start` looks at what the nearest level of the
//! route configuration says and makes a [`Running`] filter, or nothing, where the filter has nothing to do: then it
//! costs no more than that look. A chain in which nothing is on by default is not even walked, unless the route says
//! something.
//!
//! A running filter implements [`HttpFilter`]; every stage has a default that does nothing:
//!
//! | stage | when | order |
//! |---|---|---|
//! | [`request_head`](HttpFilter::request_head) | the head is there, and its route (`exchange.found`, none where no route matches) | as configured |
//! | [`request_whole`](HttpFilter::request_whole) | after the filter asked for the whole body by [`Step::Buffer`] | as configured |
//! | [`request_body`](HttpFilter::request_body) | asked once, to see data and trailers as they pass | as configured |
//! | [`response_head`](HttpFilter::response_head) | the head of an upstream's response, or of a local reply | reverse |
//! | [`response_whole`](HttpFilter::response_whole) | as for requests | reverse |
//! | [`response_body`](HttpFilter::response_body) | as for requests | reverse |
//! | [`complete`](HttpFilter::complete) | the end of the request, before its log line is written | as configured |
//!
//! Stages are plain functions, called with the whole [`Exchange`]: heads may be changed, `exchange.info` holds what is
//! known of the stream, dynamic metadata and filter state among it, and `exchange.refresh_route()` finds the route anew.
//! What a stage wants next it says by its [`Step`]: go on, answer, wait for a future (and then be called again), or have
//! the whole body first. So a filter that never waits costs no future and no allocation.
//!
//! Bodies: a [`BodyFilter`] gets every part of one direction and passes on what it likes, when it likes. Only filters
//! that ask for one have their body wrapped. A filter that changes the length of a body removes `content-length` in its
//! head stage. State that both directions need is the filter's own, in an `Rc`.
//!
//! A local reply from any stage of the request goes through the response stages of the filters that had started.

mod body;
mod buffer;
mod compressor;
mod cors;
mod drive;
mod fault;
mod header_mutation;
pub mod istio;
mod local_ratelimit;
mod on_demand;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use lateen_dataplane::filters::{
    Compressor, FilterOverride, HeaderMutation, HttpFilter as Config, HttpFilterKind, LocalRateLimit,
    RouterFilter,
};
use lateen_dataplane::head::{Headers, ResponseHead};

pub use body::{BodyFilter, BodyStep, Buffered, FilteredBody};
pub use drive::Outcome;

use crate::router::{Exchange, LocalReply};
use crate::stats::{CorsStats, Stats};

/// Something a filter waits for.
pub type Wait = Pin<Box<dyn Future<Output = ()>>>;

/// What a filter wants after a stage.
pub enum Step {
    /// The next filter.
    Continue,
    /// To answer; from a response stage: another response in place of this one.
    Reply(LocalReply),
    /// To be called again (the same stage) when this has come to its end. The client going away ends the request.
    Wait(Wait),
    /// To be called with the whole body. A longer one than `limit` bytes ends the request (413; 500 for a response).
    Buffer {
        /// Bytes.
        limit: usize,
    },
}

/// A filter at work on one request. See the module's page for the stages.
pub trait HttpFilter {
    /// The head of the request.
    fn request_head(&mut self, _exchange: &mut Exchange) -> Step {
        Step::Continue
    }

    /// The whole body of the request, which may be changed.
    fn request_whole(&mut self, _exchange: &mut Exchange, _body: &mut Buffered) -> Step {
        Step::Continue
    }

    /// Who sees the body of the request as it passes.
    fn request_body(&mut self, _exchange: &mut Exchange) -> Option<Box<dyn BodyFilter>> {
        None
    }

    /// The head of the response.
    fn response_head(&mut self, _exchange: &mut Exchange, _head: &mut ResponseHead) -> Step {
        Step::Continue
    }

    /// The whole body of the response, which may be changed.
    fn response_whole(
        &mut self,
        _exchange: &mut Exchange,
        _head: &mut ResponseHead,
        _body: &mut Buffered,
    ) -> Step {
        Step::Continue
    }

    /// Who sees the body of the response as it passes.
    fn response_body(
        &mut self,
        _exchange: &mut Exchange,
        _head: &ResponseHead,
    ) -> Option<Box<dyn BodyFilter>> {
        None
    }

    /// The end. The response is what was sent to the client: none where it had gone.
    fn complete(&mut self, _exchange: &mut Exchange, _response: Option<&(ResponseHead, Option<Headers>)>) {}
}

/// A filter at work, by kind, so that making one allocates nothing.
pub enum Running {
    /// Compressed bodies.
    Compressor(compressor::Compressor),
    /// Cross-origin requests.
    Cors(cors::Cors),
    /// Delays, aborts, slow answers.
    Fault(fault::Fault),
    /// Whole requests.
    Buffer(buffer::Buffer),
    /// Token buckets.
    LocalRateLimit(local_ratelimit::LocalRateLimit),
    /// Changes of heads.
    HeaderMutation(header_mutation::HeaderMutation),
    /// What is fetched when it is called for.
    OnDemand(on_demand::OnDemand),
    /// Istio's standard metrics.
    IstioStats(istio::IstioStats),
    /// Who is at the other end.
    PeerMetadata(istio::PeerMetadata),
}

impl Running {
    fn filter(&mut self) -> &mut dyn HttpFilter {
        match self {
            Self::Compressor(filter) => filter,
            Self::Cors(filter) => filter,
            Self::Fault(filter) => filter,
            Self::Buffer(filter) => filter,
            Self::LocalRateLimit(filter) => filter,
            Self::HeaderMutation(filter) => filter,
            Self::OnDemand(filter) => filter,
            Self::IstioStats(filter) => filter,
            Self::PeerMetadata(filter) => filter,
        }
    }
}

/// What all requests of a connection manager share of a filter.
#[derive(Debug)]
enum Shared {
    Compressor(Arc<compressor::Shared>),
    Cors(CorsStats),
    Fault(Arc<fault::Shared>),
    Buffer(usize),
    LocalRateLimit(Arc<LocalRateLimit>),
    HeaderMutation(Arc<HeaderMutation>),
    OnDemand(Arc<on_demand::Shared>),
    IstioStats(Arc<istio::Shared>),
    PeerMetadata(lateen_dataplane::istio::PeerMetadataFilter),
    /// The router is not a stage, but what comes after the chain.
    Router,
}

/// A filter of a chain.
#[derive(Debug)]
pub struct Configured {
    name: Box<str>,
    disabled: bool,
    /// Whether it has nothing to do where no route says anything.
    idle: bool,
    shared: Shared,
}

/// The filters of a connection manager, ready to be started.
#[derive(Debug)]
pub struct Chain {
    filters: Vec<Configured>,
    /// Whether nothing is to be done where no route says anything.
    idle: bool,
    /// The end of the chain.
    pub router: RouterFilter,
}

impl Chain {
    /// Makes what requests share. `prefix` is the `stat_prefix` of the connection manager.
    pub fn new(configs: &[Config], stats: &Stats, prefix: &str) -> Self {
        let compressors = configs.iter().filter_map(|config| match &config.kind {
            HttpFilterKind::Compressor(compressor) => Some((config.name.clone(), Arc::clone(compressor))),
            _ => None,
        });
        let compressors: Arc<[_]> = compressors.collect();
        let filters: Vec<Configured> =
            configs.iter().map(|config| Configured::new(config, &compressors, stats, prefix)).collect();
        let router = configs.iter().find_map(|config| match &config.kind {
            HttpFilterKind::Router(router) => Some(router.clone()),
            _ => None,
        });
        Self { idle: filters.iter().all(|filter| filter.idle), filters, router: router.unwrap_or_default() }
    }
}

impl Configured {
    fn new(
        config: &Config,
        compressors: &Arc<[(Box<str>, Arc<Compressor>)]>,
        stats: &Stats,
        prefix: &str,
    ) -> Self {
        let (shared, idle) = match &config.kind {
            HttpFilterKind::Compressor(config) => {
                let shared = compressor::Shared::new(config, compressors, stats, prefix);
                (Shared::Compressor(Arc::new(shared)), false)
            }
            // What routes configure alone.
            HttpFilterKind::Cors => (Shared::Cors(CorsStats::new(stats, prefix)), true),
            HttpFilterKind::Fault(fault) => {
                (Shared::Fault(Arc::new(fault::Shared::new(fault, stats, prefix))), fault.is_empty())
            }
            HttpFilterKind::Buffer(limit) => (Shared::Buffer(*limit), false),
            HttpFilterKind::LocalRateLimit(limit) => {
                (Shared::LocalRateLimit(Arc::clone(limit)), limit.enabled.numerator == 0)
            }
            HttpFilterKind::HeaderMutation(mutation) => {
                (Shared::HeaderMutation(Arc::clone(mutation)), mutation.own.is_empty())
            }
            HttpFilterKind::OnDemand(demand) => {
                (Shared::OnDemand(Arc::new(on_demand::Shared::new(&config.name, demand))), false)
            }
            HttpFilterKind::IstioStats(config) => {
                (Shared::IstioStats(Arc::new(istio::Shared::new(config, stats))), false)
            }
            HttpFilterKind::PeerMetadata(config) => {
                (Shared::PeerMetadata(*config), *config == Default::default())
            }
            HttpFilterKind::Router(_) => (Shared::Router, true),
        };
        Self { name: config.name.clone(), disabled: config.disabled, idle: idle || config.disabled, shared }
    }

    /// The filter for a request; none where it has nothing to do.
    fn start(&self, exchange: &Exchange) -> Option<Running> {
        let route = exchange.found.as_ref().and_then(|found| found.filter(&self.name));
        match route {
            Some(FilterOverride::Disabled) => return None,
            None if self.idle || self.disabled => return None,
            _ => {}
        }
        match &self.shared {
            Shared::Compressor(shared) => {
                Some(Running::Compressor(compressor::Compressor::start(shared, route)))
            }
            Shared::Cors(stats) => cors::Cors::start(*stats, route, exchange).map(Running::Cors),
            Shared::Fault(shared) => fault::Fault::start(shared, route).map(Running::Fault),
            Shared::Buffer(limit) => Some(Running::Buffer(buffer::Buffer::start(*limit, route))),
            Shared::LocalRateLimit(limit) => {
                local_ratelimit::LocalRateLimit::start(limit, route).map(Running::LocalRateLimit)
            }
            Shared::HeaderMutation(mutation) => {
                header_mutation::HeaderMutation::start(mutation, route).map(Running::HeaderMutation)
            }
            Shared::OnDemand(shared) => on_demand::OnDemand::start(shared, exchange).map(Running::OnDemand),
            Shared::IstioStats(shared) => {
                Some(Running::IstioStats(istio::IstioStats::start(shared, exchange)))
            }
            Shared::PeerMetadata(config) => Some(Running::PeerMetadata(istio::PeerMetadata::start(*config))),
            Shared::Router => None,
        }
    }
}
