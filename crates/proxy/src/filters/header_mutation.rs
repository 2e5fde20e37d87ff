//! `envoy.filters.http.header_mutation`: changes heads, trailers and queries.

use std::collections::VecDeque;
use std::sync::Arc;

use lateen_dataplane::filters::{FilterOverride, HeaderMutation as Config, Mutation, Mutations};
use lateen_dataplane::format::Source;
use lateen_dataplane::head::{Headers, ResponseHead};

use super::{BodyFilter, BodyStep, HttpFilter, Step};
use crate::message::BodyEvent;
use crate::router::Exchange;

/// Changes for one request, in the order in which they are made.
pub struct HeaderMutation {
    config: Arc<Config>,
    /// From the farthest level to the nearest.
    levels: Arc<[Arc<Mutations>]>,
}

impl HeaderMutation {
    pub(super) fn start(config: &Arc<Config>, route: Option<&FilterOverride>) -> Option<Self> {
        let levels = match route {
            Some(FilterOverride::HeaderMutation(levels)) => Arc::clone(levels),
            _ if config.own.is_empty() => return None,
            _ => Arc::default(),
        };
        Some(Self { config: Arc::clone(config), levels })
    }

    fn each(&self, mut change: impl FnMut(&Mutations)) {
        change(&self.config.own);
        if self.config.nearest_wins {
            self.levels.iter().for_each(|level| change(level));
        } else {
            self.levels.iter().rev().for_each(|level| change(level));
        }
    }

    fn trailers(
        &self,
        source: &Source<'_>,
        of: impl Fn(&Mutations) -> &[Mutation],
    ) -> Option<Box<dyn BodyFilter>> {
        let mut changes = Vec::new();
        self.each(|level| changes.extend(of(level).iter().map(|mutation| mutation.resolve(source))));
        (!changes.is_empty()).then(|| Box::new(Trailers(changes)) as Box<dyn BodyFilter>)
    }
}

impl HttpFilter for HeaderMutation {
    fn request_head(&mut self, exchange: &mut Exchange) -> Step {
        let hostname = &exchange.worker.state.hostname;
        let (head, info) = (&mut exchange.head, &exchange.info);
        self.each(|level| level.change_request(head, info, hostname));
        Step::Continue
    }

    fn request_body(&mut self, exchange: &mut Exchange) -> Option<Box<dyn BodyFilter>> {
        let source = source(exchange, None);
        self.trailers(&source, |level| &level.request_trailers)
    }

    fn response_head(&mut self, exchange: &mut Exchange, head: &mut ResponseHead) -> Step {
        let hostname = &exchange.worker.state.hostname;
        self.each(|level| level.change_response(head, &exchange.head, &exchange.info, hostname));
        Step::Continue
    }

    fn response_body(&mut self, exchange: &mut Exchange, head: &ResponseHead) -> Option<Box<dyn BodyFilter>> {
        let source = source(exchange, Some(head));
        self.trailers(&source, |level| &level.response_trailers)
    }
}

fn source<'a>(exchange: &'a Exchange, response: Option<&'a ResponseHead>) -> Source<'a> {
    Source {
        info: &exchange.info,
        request: Some(&exchange.head),
        response,
        trailers: None,
        hostname: &exchange.worker.state.hostname,
    }
}

/// Changes trailers where there are some.
struct Trailers(Vec<Mutation>);

impl BodyFilter for Trailers {
    fn event(&mut self, event: BodyEvent, out: &mut VecDeque<BodyEvent>) -> BodyStep {
        out.push_back(match event {
            BodyEvent::Trailers(trailers) => BodyEvent::Trailers(self.change(trailers)),
            other => other,
        });
        BodyStep::Continue
    }
}

impl Trailers {
    fn change(&self, mut trailers: Headers) -> Headers {
        self.0.iter().for_each(|mutation| mutation.change_trailers(&mut trailers));
        trailers
    }
}
