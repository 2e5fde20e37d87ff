//! HTTP connections of clients: which HTTP they speak, and what both versions have in common.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use lateen_dataplane::listener::{Codec, HttpConnectionManager};

use crate::clock::{Alarm, Limits};
use crate::drain::Drain;
use crate::ending::{self, Ending};
use crate::inspect::PREFACE;
use crate::listener::ConnectionFacts;
use crate::state::{ActiveListener, HttpRuntime};
use crate::stream::{Shared, Stream};
use crate::worker::Worker;
use crate::{http1, http2};

/// A client's connection, whatever is spoken on it.
pub struct Client {
    /// Where it is served.
    pub worker: Rc<Worker>,
    /// The version of the listener it began with.
    pub listener: Arc<ActiveListener>,
    /// How its end comes.
    pub drain: Arc<Drain>,
    /// The connection manager.
    pub runtime: Arc<HttpRuntime>,
    /// Addresses and the like.
    pub facts: Rc<ConnectionFacts>,
    /// When it began.
    pub begun: Instant,
    /// The only timer.
    pub alarm: Alarm,
}

/// Serves a connection to its end.
pub async fn serve(
    worker: &Rc<Worker>,
    listener: &Arc<ActiveListener>,
    drain: &Arc<Drain>,
    runtime: &Arc<HttpRuntime>,
    stream: Stream,
    input: BytesMut,
    facts: Box<ConnectionFacts>,
) {
    let (shard, stats) = (&worker.stats, &runtime.stats);
    shard.increment(stats.downstream_cx_total);
    shard.increment(stats.downstream_cx_active);
    let is_tls = facts.tls.is_some();
    if is_tls {
        shard.increment(stats.downstream_cx_ssl_total);
        shard.increment(stats.downstream_cx_ssl_active);
    }
    let begun = Instant::now();
    let shared = Shared::new(stream, input);
    shared.limit_reads(listener.config.buffer_limit);
    let mut client = Client {
        worker: Rc::clone(worker),
        listener: Arc::clone(listener),
        drain: Arc::clone(drain),
        runtime: Arc::clone(runtime),
        facts: facts.into(),
        begun,
        alarm: Alarm::default(),
    };
    let http2 = match runtime.config.codec {
        Codec::Http1 => Some(false),
        Codec::Http2 => sniff(&mut client, &shared).await,
        Codec::Auto => match client.facts.tls.as_ref().and_then(|tls| tls.http2()) {
            None => sniff(&mut client, &shared).await,
            agreed => agreed,
        },
    };
    let ending = match http2 {
        Some(true) => {
            shard.increment(stats.downstream_cx_http2_total);
            shard.increment(stats.downstream_cx_http2_active);
            // Boxed: it is larger than what an idle HTTP/1 connection needs.
            let ending = Box::pin(http2::serve(client, shared.clone())).await;
            shard.decrement(stats.downstream_cx_http2_active);
            ending
        }
        Some(false) if runtime.config.codec == Codec::Http2 => {
            shard.increment(stats.downstream_cx_http2_total);
            shard.increment(stats.downstream_cx_protocol_error);
            Ending::Delay
        }
        Some(false) => {
            shard.increment(stats.downstream_cx_http1_total);
            shard.increment(stats.downstream_cx_http1_active);
            let ending = http1::serve(client, shared.clone()).await;
            shard.decrement(stats.downstream_cx_http1_active);
            ending
        }
        None => Ending::Flush,
    };
    ending::end(shard, runtime, &shared, ending).await;
    shard.decrement(stats.downstream_cx_active);
    if is_tls {
        shard.decrement(stats.downstream_cx_ssl_active);
    }
    shard.increment(stats.downstream_cx_destroy);
    shard.record(stats.downstream_cx_length_ms, begun.elapsed().as_millis() as u64);
}

impl Client {
    /// The limits of a stream.
    pub fn limits(&self) -> Limits {
        let config: &HttpConnectionManager = &self.runtime.config;
        Limits {
            idle: config.stream_idle_timeout,
            headers: config.request_headers_timeout,
            request: config.request_timeout,
            duration: config.max_stream_duration,
        }
    }

    /// When a connection that nothing happens on since then ends, and whether for its age.
    pub fn due(&self, since: Instant) -> Option<(Instant, Due)> {
        let config = &self.runtime.config;
        let idle = config.idle_timeout.map(|limit| (since + limit, Due::Idle));
        let age = config.max_connection_duration.map(|limit| (self.begun + limit, Due::Age));
        [idle, age].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// Counts the end of a connection's time.
    pub fn count(&self, due: Due) {
        self.worker.stats.increment(match due {
            Due::Idle => self.runtime.stats.downstream_cx_idle_timeout,
            Due::Age => self.runtime.stats.downstream_cx_max_duration_reached,
        });
    }
}

/// Why a connection's time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Nothing happened for too long.
    Idle,
    /// It is too old.
    Age,
}

/// Resolves at a time, or never.
pub async fn at(alarm: &mut Alarm, time: Option<Instant>) {
    match time {
        Some(time) => alarm.at(time).await,
        None => std::future::pending().await,
    }
}

/// Resolves when an idle connection is to end. One on which nothing was said yet has a moment more: it may have been
/// accepted just when the end began, with its first request on the way.
pub async fn ended(drain: &Drain, first: bool) {
    drain.closed().await;
    if first {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Whether the connection begins with the preface of HTTP/2. None where it ends before that is known.
async fn sniff(client: &mut Client, shared: &Shared) -> Option<bool> {
    loop {
        {
            let input = shared.input();
            let common = input.len().min(PREFACE.len());
            if input[..common] != PREFACE[..common] {
                return Some(false);
            }
            if common == PREFACE.len() {
                return Some(true);
            }
        }
        if let Some(filled) = futures::FutureExt::now_or_never(shared.fill()) {
            match filled {
                Ok(1..) => continue,
                _ => return None,
            }
        }
        let due = client.due(client.begun);
        tokio::select! {
            biased;
            filled = shared.fill() => match filled {
                Ok(1..) => {}
                _ => return None,
            },
            () = ended(&client.drain, true) => return None,
            () = at(&mut client.alarm, due.map(|(at, _)| at)) => {
                if let Some((_, due)) = due {
                    client.count(due);
                }
                return None;
            }
        }
    }
}
