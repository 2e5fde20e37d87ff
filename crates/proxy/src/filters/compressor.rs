//! `envoy.filters.http.compressor`: bodies in gzip, Brotli or Zstandard, for who accepts that.

mod encoder;

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use lateen_dataplane::filters::compressor::{Accepted, transfer_coding_allows, vary};
use lateen_dataplane::filters::{Compressor as Config, CompressorOverride, FilterOverride};
use lateen_dataplane::head::{Headers, ResponseHead};

use self::encoder::Encoder;
use super::{BodyFilter, BodyStep, HttpFilter, Step};
use crate::message::BodyEvent;
use crate::router::Exchange;
use crate::stats::{CompressorChoiceStats, CompressorStats, Shard, Stats};

/// What all requests share of a compressor, and of its fellows in the chain.
#[derive(Debug)]
pub struct Shared {
    config: Arc<Config>,
    request: CompressorStats,
    response: CompressorStats,
    choice: CompressorChoiceStats,
    /// All compressors of the chain, by name: which of them works is one decision.
    chain: Arc<[(Box<str>, Arc<Config>)]>,
}

impl Shared {
    /// Resolves the statistics. `prefix` is the `stat_prefix` of the connection manager.
    pub fn new(
        config: &Arc<Config>,
        chain: &Arc<[(Box<str>, Arc<Config>)]>,
        stats: &Stats,
        prefix: &str,
    ) -> Self {
        let below = |part: &str| format!("{}{part}", config.stat_prefix);
        let response = below(if config.response_statistics_apart { "response." } else { "" });
        Self {
            config: Arc::clone(config),
            request: CompressorStats::within(stats, prefix, below("request.")),
            response: CompressorStats::within(stats, prefix, response),
            choice: CompressorChoiceStats::within(stats, prefix, config.stat_prefix.to_string()),
            chain: Arc::clone(chain),
        }
    }
}

/// A compressor at work on a request and its response.
pub struct Compressor {
    shared: Arc<Shared>,
    route: Option<Arc<CompressorOverride>>,
    /// Of the request, before any compressor removed it.
    accept_encoding: Option<Box<[u8]>>,
    /// What came of the request and what became of it, in bytes, where it is compressed.
    request: Option<Rc<Cell<(u64, u64)>>>,
    response: bool,
}

impl Compressor {
    pub(super) fn start(shared: &Arc<Shared>, route: Option<&FilterOverride>) -> Self {
        let route = match route {
            Some(FilterOverride::Compressor(route)) => Some(Arc::clone(route)),
            _ => None,
        };
        Self { shared: Arc::clone(shared), route, accept_encoding: None, request: None, response: false }
    }

    fn library(&self) -> &lateen_dataplane::filters::compressor::Library {
        let own = self.route.as_ref().and_then(|route| route.library.as_ref());
        own.unwrap_or(&self.shared.config.library)
    }

    fn responds(&self) -> bool {
        match &self.route {
            Some(route) => !route.disabled && (route.respond || self.shared.config.response.enabled),
            None => self.shared.config.response.enabled,
        }
    }

    /// Whether the client accepts what this compressor makes, rather than another's of the chain.
    fn is_accepted(&self, exchange: &Exchange, head: &ResponseHead) -> bool {
        let (stats, names) = (&exchange.worker.stats, &self.shared.choice);
        let Some(accept) = &self.accept_encoding else {
            stats.increment(names.no_accept_header);
            return false;
        };
        let is_on = |name: &str| {
            let route = exchange.found.as_ref().and_then(|found| found.filter(name));
            !matches!(route, Some(FilterOverride::Disabled))
        };
        let chain = self.shared.chain.iter().filter(|(name, _)| is_on(name)).map(|(_, config)| &**config);
        let chosen = Accepted::choose(accept, head.headers.get("content-type"), chain);
        let own = chosen.encoding() == Some(self.shared.config.library.content_encoding());
        stats.increment(match chosen {
            Accepted::Named(_) if own => names.header_compressor_used,
            Accepted::Named(_) => names.header_compressor_overshadowed,
            Accepted::Wildcard(_) => names.header_wildcard,
            Accepted::Identity => names.header_identity,
            Accepted::Invalid => names.header_not_valid,
        });
        own
    }

    fn body(
        &self,
        stats: CompressorStats,
        exchange: &Exchange,
        moved: Rc<Cell<(u64, u64)>>,
    ) -> Option<Box<dyn BodyFilter>> {
        match Encoder::new(self.library()) {
            Ok(encoder) => {
                let worker = Arc::clone(&exchange.worker.stats);
                Some(Box::new(Body { encoder: Some(encoder), stats, worker, moved }))
            }
            // The head is on its way: better a body in disorder than one that is not what the head says.
            Err(error) => Some(Box::new(Broken(error))),
        }
    }
}

impl HttpFilter for Compressor {
    fn request_head(&mut self, exchange: &mut Exchange) -> Step {
        let config = &self.shared.config;
        if self.responds() {
            self.accept_encoding = exchange.head.headers.get("accept-encoding").map(Into::into);
            let remove = self.route.as_ref().and_then(|route| route.remove_accept_encoding);
            if remove.unwrap_or(config.remove_accept_encoding) {
                exchange.head.headers.remove("accept-encoding");
            }
        }
        let stats = &exchange.worker.stats;
        let names = &self.shared.request;
        let direction =
            config.request.as_ref().filter(|direction| direction.enabled && !exchange.request_done);
        let long = direction.filter(|direction| direction.takes_length(&exchange.head.headers));
        if direction.is_some() && long.is_none() {
            stats.increment(names.content_length_too_small);
        }
        if let Some(direction) = long
            && exchange.upgrade.is_none()
            && config.takes_request(direction, &exchange.head)
        {
            stats.increment(names.compressed);
            exchange.head.headers.remove("content-length");
            exchange.head.headers.set("content-encoding", self.library().content_encoding());
            self.request = Some(Rc::default());
        } else {
            stats.increment(names.not_compressed);
        }
        Step::Continue
    }

    fn request_body(&mut self, exchange: &mut Exchange) -> Option<Box<dyn BodyFilter>> {
        self.body(self.shared.request, exchange, Rc::clone(self.request.as_ref()?))
    }

    fn response_head(&mut self, exchange: &mut Exchange, head: &mut ResponseHead) -> Step {
        let config = &self.shared.config;
        if !self.responds() {
            exchange.worker.stats.increment(self.shared.response.not_compressed);
            return Step::Continue;
        }
        let stats = &exchange.worker.stats;
        let names = &self.shared.response;
        let long = config.response.takes_length(&head.headers);
        if !long {
            stats.increment(names.content_length_too_small);
        }
        let could = long && exchange.upgrade.is_none() && config.could_take_response(head);
        if config.disable_on_etag && !config.weaken_etag && head.headers.contains("etag") {
            stats.increment(self.shared.choice.not_compressed_etag);
        }
        let has_body = !exchange.response_done;
        if has_body
            && long
            && self.is_accepted(exchange, head)
            && could
            && transfer_coding_allows(&head.headers)
        {
            exchange.worker.stats.increment(names.compressed);
            config.announce(self.library(), &mut head.headers);
            self.response = true;
        } else {
            exchange.worker.stats.increment(names.not_compressed);
        }
        if could {
            vary(&mut head.headers);
        }
        Step::Continue
    }

    fn response_body(
        &mut self,
        exchange: &mut Exchange,
        _head: &ResponseHead,
    ) -> Option<Box<dyn BodyFilter>> {
        if self.response { self.body(self.shared.response, exchange, Rc::default()) } else { None }
    }

    fn complete(&mut self, exchange: &mut Exchange, _response: Option<&(ResponseHead, Option<Headers>)>) {
        // What the client sent counts, not what went on.
        if let Some(moved) = &self.request {
            let (came, went) = moved.get();
            exchange.info.bytes_received = (exchange.info.bytes_received + came).saturating_sub(went);
        }
    }
}

/// A body being compressed: every part goes on as soon as it came.
struct Body {
    /// None after the end.
    encoder: Option<Encoder>,
    stats: CompressorStats,
    worker: Arc<Shard>,
    /// Bytes that came, and that went.
    moved: Rc<Cell<(u64, u64)>>,
}

impl Body {
    fn push(&self, bytes: Vec<u8>, out: &mut VecDeque<BodyEvent>) {
        let (came, went) = self.moved.get();
        self.moved.set((came, went + bytes.len() as u64));
        self.worker.add(self.stats.total_compressed_bytes, bytes.len() as u64);
        if !bytes.is_empty() {
            out.push_back(BodyEvent::Data(bytes.into()));
        }
    }
}

impl BodyFilter for Body {
    fn event(&mut self, event: BodyEvent, out: &mut VecDeque<BodyEvent>) -> BodyStep {
        let Some(encoder) = &mut self.encoder else {
            out.push_back(event);
            return BodyStep::Continue;
        };
        let done = match &event {
            BodyEvent::Data(chunk) => {
                self.worker.add(self.stats.total_uncompressed_bytes, chunk.len() as u64);
                let (came, went) = self.moved.get();
                self.moved.set((came + chunk.len() as u64, went));
                encoder.flushed(chunk)
            }
            BodyEvent::Trailers(_) | BodyEvent::End => match self.encoder.take() {
                Some(encoder) => encoder.finish(),
                None => Ok(Vec::new()),
            },
        };
        match done {
            Ok(bytes) => self.push(bytes, out),
            Err(error) => {
                tracing::warn!("a body could not be compressed: {error}");
                return BodyStep::Fail("a body could not be compressed");
            }
        }
        if !matches!(event, BodyEvent::Data(_)) {
            out.push_back(event);
        }
        BodyStep::Continue
    }
}

/// A library that could not be started.
struct Broken(std::io::Error);

impl BodyFilter for Broken {
    fn event(&mut self, _event: BodyEvent, _out: &mut VecDeque<BodyEvent>) -> BodyStep {
        tracing::warn!("a compressor could not be started: {}", self.0);
        BodyStep::Fail("a compressor could not be started")
    }
}
