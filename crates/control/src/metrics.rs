//! Metrics under Istio's names (`pilot_*`, `galley_*`, `sidecar_injection_*`), on port 15014.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lateen_model::{ChangeSet, Snapshot};
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry};

/// The control plane's metrics. Clones share.
#[derive(Clone)]
pub(crate) struct Metrics {
    /// `pilot_xds`: connected proxies.
    pub(crate) connected: Gauge,
    /// `pilot_services`: known services.
    pub(crate) services: Gauge,
    virtual_services: Gauge,
    destination_subsets: Gauge,
    updates: Family<TypeLabel, Counter>,
    pushes: Family<TypeLabel, Counter>,
    rejections: Family<TypeLabel, Counter>,
    sizes: Family<TypeLabel, Histogram>,
    applied: Histogram,
    queued: Histogram,
    converged: Histogram,
    validations: Family<ResourceLabel, Counter>,
    refusals: Family<RefusalLabel, Counter>,
    /// How injection ended.
    pub(crate) injections: Injections,
    uptime: Gauge,
    started: Instant,
    registry: Arc<Mutex<Registry>>,
}

/// How injection ended, one counter an outcome.
#[derive(Clone, Default)]
pub(crate) struct Injections {
    /// Pods that were looked at.
    pub(crate) requests: Counter,
    /// Pods that got a sidecar.
    pub(crate) successes: Counter,
    /// Pods that could not be given one.
    pub(crate) failures: Counter,
    /// Pods that are to have none.
    pub(crate) skips: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TypeLabel {
    r#type: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResourceLabel {
    group: String,
    version: String,
    resource: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabel {
    group: String,
    version: String,
    resource: String,
    reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VersionLabel {
    version: String,
}

/// A tenth of a millisecond to half a minute.
fn times() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 3.0, 12))
}

/// A kilobyte to sixteen megabytes.
fn sizes() -> Histogram {
    Histogram::new(exponential_buckets(1024.0, 4.0, 8))
}

/// Counters whose names Istio's dashboards expect as they are.
const WITHOUT_TOTAL: [&str; 5] = [
    "pilot_inbound_updates",
    "pilot_xds_pushes",
    "pilot_total_xds_rejects",
    "galley_validation_passed",
    "galley_validation_failed",
];

impl Metrics {
    pub(crate) fn new() -> Self {
        let metrics = Self {
            connected: Gauge::default(),
            services: Gauge::default(),
            virtual_services: Gauge::default(),
            destination_subsets: Gauge::default(),
            updates: Family::default(),
            pushes: Family::default(),
            rejections: Family::default(),
            sizes: Family::new_with_constructor(sizes),
            applied: times(),
            queued: times(),
            converged: times(),
            validations: Family::default(),
            refusals: Family::default(),
            injections: Injections::default(),
            uptime: Gauge::default(),
            started: Instant::now(),
            registry: Arc::default(),
        };
        metrics.register_discovery();
        metrics.register_webhooks();
        metrics
    }

    fn register(&self, name: &str, help: &str, metric: impl Metric) {
        self.registry.lock().register(name, help, metric);
    }

    fn register_discovery(&self) {
        let version: Family<VersionLabel, Gauge> = Family::default();
        version.get_or_create(&VersionLabel { version: lateen_base::VERSION.to_owned() }).set(1);
        self.register("pilot_info", "The version that runs", version);
        self.register("istiod_uptime_seconds", "Time since the start, in seconds", self.uptime.clone());
        self.register("pilot_xds", "Proxies that are connected", self.connected.clone());
        self.register("pilot_services", "Services that are known", self.services.clone());
        self.register("pilot_virt_services", "VirtualServices that are known", self.virtual_services.clone());
        self.register(
            "pilot_destrule_subsets",
            "Subsets that DestinationRules define",
            self.destination_subsets.clone(),
        );
        self.register("pilot_inbound_updates", "Changes that arrived, by what changed", self.updates.clone());
        self.register("pilot_xds_pushes", "Responses sent, by type of resource", self.pushes.clone());
        self.register("pilot_total_xds_rejects", "Responses that proxies refused", self.rejections.clone());
        self.register("pilot_xds_config_size_bytes", "Sizes of responses, in bytes", self.sizes.clone());
        self.register(
            "pilot_pushcontext_init_seconds",
            "Time to turn a change into resources, in seconds",
            self.applied.clone(),
        );
        self.register(
            "pilot_proxy_queue_time",
            "Time from a change that concerns a proxy until its stream takes it up, in seconds",
            self.queued.clone(),
        );
        self.register(
            "pilot_proxy_convergence_time",
            "Time from a change that concerns a proxy until it has acknowledged all of it, in seconds",
            self.converged.clone(),
        );
    }

    fn register_webhooks(&self) {
        self.register("galley_validation_passed", "Objects that were accepted", self.validations.clone());
        self.register("galley_validation_failed", "Objects that were refused", self.refusals.clone());
        let injections = &self.injections;
        self.register("sidecar_injection_requests", "Pods looked at", injections.requests.clone());
        self.register("sidecar_injection_success", "Pods given a sidecar", injections.successes.clone());
        self.register(
            "sidecar_injection_failure",
            "Pods that could not be given one",
            injections.failures.clone(),
        );
        self.register("sidecar_injection_skip", "Pods that are to have none", injections.skips.clone());
    }

    /// Shows what `collector` collects, too.
    pub(crate) fn collect(&self, collector: Box<dyn Collector>) {
        self.registry.lock().register_collector(collector);
    }

    /// A change arrived.
    pub(crate) fn arrived(&self, snapshot: &Snapshot, changes: &ChangeSet) {
        let note = |kind: &str, count: usize| {
            if count > 0 {
                let label = TypeLabel { r#type: kind.to_owned() };
                self.updates.get_or_create(&label).inc_by(u64::try_from(count).unwrap_or(u64::MAX));
            }
        };
        note("svc", changes.services.len());
        note("eds", changes.endpoints.len());
        note("config", changes.configs.len() + usize::from(changes.mesh));
        if changes.full || !changes.configs.is_empty() {
            let configs = snapshot.configs();
            let subsets = configs.destination_rules.values().map(|rule| rule.spec.subsets.len()).sum();
            set(&self.virtual_services, configs.virtual_services.len());
            set(&self.destination_subsets, subsets);
        }
    }

    /// A response of this type was sent.
    pub(crate) fn sent(&self, type_url: &str, bytes: usize) {
        let label = TypeLabel { r#type: short_type(type_url).to_ascii_lowercase() };
        self.pushes.get_or_create(&label).inc();
        self.sizes.get_or_create(&label).observe(bytes as f64);
    }

    /// A proxy rejected a response of this type.
    pub(crate) fn rejected(&self, type_url: &str) {
        self.rejections.get_or_create(&TypeLabel { r#type: short_type(type_url).to_owned() }).inc();
    }

    /// A change was turned into resources.
    pub(crate) fn applied(&self, duration: Duration) {
        self.applied.observe(duration.as_secs_f64());
    }

    /// A stream took up a change.
    pub(crate) fn queued(&self, duration: Duration) {
        self.queued.observe(duration.as_secs_f64());
    }

    /// A proxy acknowledged all of a change.
    pub(crate) fn converged(&self, duration: Duration) {
        self.converged.observe(duration.as_secs_f64());
    }

    /// The validating webhook judged an object.
    pub(crate) fn validated(&self, group: &str, version: &str, resource: &str, refused: bool) {
        let (group, version, resource) = (group.to_owned(), version.to_owned(), resource.to_owned());
        if refused {
            let reason = "invalid_resource".to_owned();
            self.refusals.get_or_create(&RefusalLabel { group, version, resource, reason }).inc();
        } else {
            self.validations.get_or_create(&ResourceLabel { group, version, resource }).inc();
        }
    }

    /// The text that Prometheus reads.
    pub(crate) fn render(&self) -> String {
        set(&self.uptime, usize::try_from(self.started.elapsed().as_secs()).unwrap_or(usize::MAX));
        let mut text = String::new();
        // Writing into a string does not fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry.lock());
        // The library appends `_total` to the name of every counter; Istio does so only to some.
        for name in WITHOUT_TOTAL {
            text = text.replace(&format!("{name}_total"), name);
        }
        text
    }
}

fn set(gauge: &Gauge, value: usize) {
    gauge.set(value.try_into().unwrap_or(i64::MAX));
}

/// `CDS` and so on, as tables name the types.
pub(crate) fn short_type(type_url: &str) -> &str {
    let last = || type_url.rsplit('.').next().unwrap_or(type_url);
    lateen_envoy::type_urls::short_name(type_url).unwrap_or_else(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_have_istios_names() {
        let metrics = Metrics::new();
        metrics.sent(lateen_envoy::type_urls::CLUSTER, 2000);
        metrics.rejected(lateen_envoy::type_urls::LISTENER);
        metrics.validated("networking.istio.io", "v1", "virtualservices", true);
        metrics.injections.successes.inc();
        let text = metrics.render();
        for line in [
            "pilot_xds_pushes{type=\"cds\"} 1",
            "pilot_total_xds_rejects{type=\"LDS\"} 1",
            "pilot_xds_config_size_bytes_count{type=\"cds\"} 1",
            "galley_validation_failed{group=\"networking.istio.io\",version=\"v1\",resource=\"virtualservices\",reason=\"invalid_resource\"} 1",
            "sidecar_injection_success_total 1",
            "pilot_virt_services 0",
        ] {
            assert!(text.lines().any(|written| written == line), "{line} is not in\n{text}");
        }
    }
}
