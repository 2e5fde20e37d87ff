//! Metrics under Istio's names (`pilot_*`), on port 15014.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// The control plane's metrics. Clones share.
#[derive(Clone)]
pub(crate) struct Metrics {
    /// `pilot_xds`: connected proxies.
    pub(crate) connected: Gauge,
    /// `pilot_services`: known services.
    pub(crate) services: Gauge,
    rejections: Family<TypeLabel, Counter>,
    applied: Histogram,
    uptime: Gauge,
    started: Instant,
    registry: Arc<Mutex<Registry>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TypeLabel {
    r#type: String,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let metrics = Self {
            connected: Gauge::default(),
            services: Gauge::default(),
            rejections: Family::default(),
            applied: Histogram::new(exponential_buckets(0.0001, 4.0, 9)),
            uptime: Gauge::default(),
            started: Instant::now(),
            registry: Arc::default(),
        };
        registry.register(
            "pilot_xds",
            "Number of endpoints connected to this pilot using XDS",
            metrics.connected.clone(),
        );
        registry.register("pilot_services", "Total services known to pilot", metrics.services.clone());
        // The library appends `_total`.
        registry.register(
            "pilot_total_xds_rejects",
            "Responses rejected by proxies",
            metrics.rejections.clone(),
        );
        registry.register(
            "pilot_pushcontext_init_seconds",
            "Time to turn a change into resources, in seconds",
            metrics.applied.clone(),
        );
        registry.register(
            "istiod_uptime_seconds",
            "Time since the start, in seconds",
            metrics.uptime.clone(),
        );
        *metrics.registry.lock() = registry;
        metrics
    }

    /// A proxy rejected a response of this type.
    pub(crate) fn rejected(&self, type_url: &str) {
        self.rejections.get_or_create(&TypeLabel { r#type: short_type(type_url).to_owned() }).inc();
    }

    /// A change was turned into resources.
    pub(crate) fn applied(&self, duration: Duration) {
        self.applied.observe(duration.as_secs_f64());
    }

    /// The text that Prometheus reads.
    pub(crate) fn render(&self) -> String {
        self.uptime.set(self.started.elapsed().as_secs().try_into().unwrap_or(i64::MAX));
        let mut text = String::new();
        // Writing into a string does not fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry.lock());
        text
    }
}

/// `CDS` and so on, as tables name the types.
pub(crate) fn short_type(type_url: &str) -> &str {
    use lateen_envoy::type_urls;
    match type_url {
        type_urls::CLUSTER => "CDS",
        type_urls::LISTENER => "LDS",
        type_urls::ENDPOINT => "EDS",
        type_urls::ROUTE => "RDS",
        other => other.rsplit('.').next().unwrap_or(other),
    }
}
