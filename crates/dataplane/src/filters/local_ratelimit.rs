//! Local rate limits (`envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit`): buckets that all workers
//! share, one for all requests and one for each kind of request that a route describes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Slot;
use super::rate_limits::{Descriptor, RateLimit};
use crate::route::{Fraction, HeaderValue};
use crate::token_bucket::TokenBucket;

/// How a bucket is made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BucketConfig {
    /// The most it holds.
    pub max_tokens: u32,
    /// What comes in each interval.
    pub tokens_per_fill: u32,
    /// The interval.
    pub fill_interval: Duration,
}

impl BucketConfig {
    /// A full bucket.
    pub fn make(&self) -> Arc<TokenBucket> {
        Arc::new(TokenBucket::new(self.max_tokens, self.tokens_per_fill, self.fill_interval))
    }

    fn rate(&self) -> f64 {
        f64::from(self.tokens_per_fill) / self.fill_interval.as_secs_f64().max(1e-9)
    }
}

/// A bucket for requests with this descriptor. An entry without a value stands for every value, each with a bucket of
/// its own.
#[derive(Debug, Clone)]
pub struct LimitedDescriptor {
    /// In order.
    pub entries: Descriptor,
    /// The bucket.
    pub bucket: BucketConfig,
    /// Whether it only counts.
    pub shadow: bool,
}

/// Which of a virtual host's rate limits count (`VhRateLimitsOptions`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HostLimits {
    /// Those of the host where the route has none.
    #[default]
    Override,
    /// Both.
    Include,
    /// Only the route's.
    Ignore,
}

/// A compiled limit.
#[derive(Debug)]
pub struct LocalRateLimit {
    /// Under which its counters are.
    pub stat_prefix: Box<str>,
    /// The answer's status.
    pub status: u16,
    /// For all requests.
    pub bucket: Option<BucketConfig>,
    /// The share of requests that are looked at.
    pub enabled: Fraction,
    /// The share of those that are refused.
    pub enforced: Fraction,
    /// For the upstream, where a request would be refused.
    pub request_add: Vec<HeaderValue>,
    /// For answers.
    pub response_add: Vec<HeaderValue>,
    /// Ordered from the strictest.
    pub descriptors: Vec<LimitedDescriptor>,
    /// Which of the route's rate limits are for it.
    pub stage: u32,
    /// In place of the route's rate limits, where there are any.
    pub rate_limits: Vec<RateLimit>,
    /// Which of the virtual host's.
    pub host_limits: HostLimits,
    /// Whether every connection has buckets of its own.
    pub per_connection: bool,
    /// Whether a request with a bucket of its own takes from the common one, too.
    pub always_common: bool,
    /// Whether clients are told by `x-ratelimit-*`.
    pub headers: bool,
    /// Whether they are told by `retry-after`.
    pub retry_after: bool,
    /// Whether gRPC clients see RESOURCE_EXHAUSTED.
    pub resource_exhausted: bool,
    /// How many buckets are kept for values that the configuration does not name.
    pub max_dynamic: usize,
    /// The buckets of all connections together.
    pub buckets: Buckets,
    /// For counters.
    pub slot: Slot,
}

/// Buckets at work.
#[derive(Debug)]
pub struct Buckets {
    common: Option<Arc<TokenBucket>>,
    /// As the descriptors; none where values are not named.
    named: Vec<Option<Arc<TokenBucket>>>,
    /// Those made for values, the one used last at the end.
    dynamic: Mutex<Vec<(usize, Descriptor, Arc<TokenBucket>)>>,
}

/// The outcome for a request.
#[derive(Debug)]
pub struct Verdict {
    /// Whether it may go on.
    pub allowed: bool,
    /// The bucket that decided.
    pub bucket: Option<Arc<TokenBucket>>,
}

impl Buckets {
    /// Full buckets.
    pub fn new(common: Option<&BucketConfig>, descriptors: &[LimitedDescriptor]) -> Self {
        let is_named = |each: &LimitedDescriptor| each.entries.iter().all(|(_, value)| !value.is_empty());
        Self {
            common: common.map(BucketConfig::make),
            named: descriptors.iter().map(|each| is_named(each).then(|| each.bucket.make())).collect(),
            dynamic: Mutex::default(),
        }
    }

    fn of(&self, at: usize, limit: &LocalRateLimit, descriptor: &Descriptor) -> Arc<TokenBucket> {
        if let Some(Some(bucket)) = self.named.get(at) {
            return Arc::clone(bucket);
        }
        let mut dynamic = self.dynamic.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = match dynamic.iter().position(|(other, entries, _)| *other == at && entries == descriptor)
        {
            Some(index) => dynamic.remove(index),
            None => {
                if dynamic.len() >= limit.max_dynamic.max(1) {
                    dynamic.remove(0);
                }
                (at, descriptor.clone(), limit.descriptors[at].bucket.make())
            }
        };
        let bucket = Arc::clone(&entry.2);
        dynamic.push(entry);
        bucket
    }
}

impl LimitedDescriptor {
    fn matches(&self, descriptor: &Descriptor) -> bool {
        self.entries.len() == descriptor.len()
            && self.entries.iter().zip(descriptor).all(|((key, value), (other_key, other_value))| {
                key == other_key && (value.is_empty() || value == other_value)
            })
    }

    /// Tokens a second: the strictest comes first.
    pub fn rate(&self) -> f64 {
        self.bucket.rate()
    }
}

impl LocalRateLimit {
    /// Takes the tokens of a request.
    pub fn decide(&self, buckets: &Buckets, descriptors: &[Descriptor], now: Duration) -> Verdict {
        let mut first = None;
        for (at, limited) in self.descriptors.iter().enumerate() {
            let Some(descriptor) = descriptors.iter().find(|descriptor| limited.matches(descriptor)) else {
                continue;
            };
            let bucket = buckets.of(at, self, descriptor);
            if !bucket.take(1, now) && !limited.shadow {
                return Verdict { allowed: false, bucket: Some(bucket) };
            }
            first.get_or_insert(bucket);
        }
        if first.is_some() && !self.always_common {
            return Verdict { allowed: true, bucket: first };
        }
        let allowed = buckets.common.as_ref().is_none_or(|common| common.take(1, now));
        let bucket = if allowed { first.or_else(|| buckets.common.clone()) } else { buckets.common.clone() };
        Verdict { allowed, bucket }
    }
}
