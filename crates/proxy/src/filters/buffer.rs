//! `envoy.filters.http.buffer`: a request goes on when it is complete, and not at all when it is too large.

use lateen_dataplane::filters::FilterOverride;

use super::{Buffered, HttpFilter, Step};
use crate::router::Exchange;

/// At work on a request.
pub struct Buffer {
    limit: usize,
}

impl Buffer {
    pub(super) fn start(limit: usize, route: Option<&FilterOverride>) -> Self {
        match route {
            Some(FilterOverride::Buffer(limit)) => Self { limit: *limit },
            _ => Self { limit },
        }
    }
}

impl HttpFilter for Buffer {
    fn request_head(&mut self, exchange: &mut Exchange) -> Step {
        if exchange.request_done || exchange.upgrade.is_some() {
            return Step::Continue;
        }
        Step::Buffer { limit: self.limit }
    }

    fn request_whole(&mut self, exchange: &mut Exchange, body: &mut Buffered) -> Step {
        // What was of unknown length has one now.
        if body.trailers.is_none() && !exchange.head.headers.contains("content-length") {
            exchange.head.headers.append("content-length", body.len().to_string());
        }
        Step::Continue
    }
}
