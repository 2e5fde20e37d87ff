//! Metrics under Istio's names (`pilot_*`, `galley_*`, `sidecar_injection_*`), on port 15014.

mod world;

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

use self::world::World;
use crate::debug::Platforms;

/// The control plane's metrics. Clones share.
#[derive(Clone)]
pub(crate) struct Metrics {
    connected: Family<VersionLabel, Gauge>,
    world: World,
    updates: Family<TypeLabel, Counter>,
    triggers: Family<TypeLabel, Counter>,
    config_events: Family<EventLabel, Counter>,
    registry_events: Family<EventLabel, Counter>,
    pushes: Family<TypeLabel, Counter>,
    rejections: Family<TypeLabel, Counter>,
    sizes: Family<TypeLabel, Histogram>,
    push_times: Family<TypeLabel, Histogram>,
    applied: Histogram,
    queued: Histogram,
    converged: Histogram,
    validations: Family<ResourceLabel, Counter>,
    refusals: Family<RefusalLabel, Counter>,
    /// How injection ended.
    pub(crate) injections: Injections,
    /// Failures to bring the API's objects to where they should be.
    pub(crate) sync_errors: Counter,
    /// What became of workloads that register themselves.
    pub(crate) registrations: RegistrationCounters,
    /// Reviews that could not be judged, by status.
    webhook_errors: Family<StatusLabel, Counter>,
    root_expiry: Gauge,
    root_expiry_seconds: Gauge,
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
    /// How long it took, in seconds.
    pub(crate) time: Option<Histogram>,
}

/// What became of workloads that register themselves, one counter an outcome.
#[derive(Debug, Clone, Default)]
pub(crate) struct RegistrationCounters {
    /// Entries made.
    pub(crate) successes: Counter,
    /// Entries of workloads that came back, perhaps to another replica.
    pub(crate) updates: Counter,
    /// Workloads that went.
    pub(crate) unregistered: Counter,
    /// Entries removed because nobody came back.
    pub(crate) deletes: Counter,
    /// Workloads that could not be registered.
    pub(crate) errors: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabel {
    r#type: String,
    event: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabel {
    status: String,
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
const WITHOUT_TOTAL: [&str; 9] = [
    "pilot_inbound_updates",
    "pilot_push_triggers",
    "pilot_k8s_cfg_events",
    "pilot_k8s_reg_events",
    "galley_validation_http_error",
    "pilot_xds_pushes",
    "pilot_total_xds_rejects",
    "galley_validation_passed",
    "galley_validation_failed",
];

impl Metrics {
    pub(crate) fn new() -> Self {
        let metrics = Self {
            connected: Family::default(),
            world: World::new(),
            updates: Family::default(),
            triggers: Family::default(),
            config_events: Family::default(),
            registry_events: Family::default(),
            pushes: Family::default(),
            rejections: Family::default(),
            sizes: Family::new_with_constructor(sizes),
            push_times: Family::new_with_constructor(times),
            applied: times(),
            queued: times(),
            converged: times(),
            validations: Family::default(),
            refusals: Family::default(),
            injections: Injections { time: Some(times()), ..Injections::default() },
            sync_errors: Counter::default(),
            registrations: RegistrationCounters::default(),
            webhook_errors: Family::default(),
            root_expiry: Gauge::default(),
            root_expiry_seconds: Gauge::default(),
            uptime: Gauge::default(),
            started: Instant::now(),
            registry: Arc::default(),
        };
        metrics.register_discovery();
        metrics.register_webhooks();
        metrics.register_upkeep();
        metrics.world.register(&metrics);
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
        self.register("pilot_inbound_updates", "Changes that arrived, by what changed", self.updates.clone());
        self.register("pilot_push_triggers", "What made pushes necessary", self.triggers.clone());
        self.register(
            "pilot_k8s_cfg_events",
            "Configuration objects that changed",
            self.config_events.clone(),
        );
        self.register(
            "pilot_k8s_reg_events",
            "Objects of the platforms that changed",
            self.registry_events.clone(),
        );
        let help = "Time from taking up a change to the response, in seconds, by type of resource";
        self.register("pilot_xds_push_time", help, self.push_times.clone());
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
        let help = "Reviews that could not be judged, by status";
        self.register("galley_validation_http_error", help, self.webhook_errors.clone());
        let injections = &self.injections;
        if let Some(time) = &injections.time {
            let help = "Time to judge whether and how a Pod gets a sidecar, in seconds";
            self.register("sidecar_injection_time_seconds", help, time.clone());
        }
        self.register("sidecar_injection_requests", "Pods looked at", injections.requests.clone());
        self.register("sidecar_injection_success", "Pods given a sidecar", injections.successes.clone());
        self.register(
            "sidecar_injection_failure",
            "Pods that could not be given one",
            injections.failures.clone(),
        );
        self.register("sidecar_injection_skip", "Pods that are to have none", injections.skips.clone());
    }

    fn register_upkeep(&self) {
        let counters = &self.registrations;
        for (name, help, counter) in [
            (
                "auto_registration_success",
                "WorkloadEntries made for workloads that came",
                &counters.successes,
            ),
            ("auto_registration_updates", "WorkloadEntries of workloads that came back", &counters.updates),
            ("auto_registration_unregister", "Registered workloads that went", &counters.unregistered),
            ("auto_registration_deletes", "WorkloadEntries removed as nobody came back", &counters.deletes),
            ("auto_registration_errors", "Workloads that could not be registered", &counters.errors),
            ("controller_sync_errors", "Failures to write what belongs into the API", &self.sync_errors),
        ] {
            self.register(name, help, counter.clone());
        }
        let help = "When the mesh's root certificate ends, in seconds since 1970";
        self.register("citadel_server_root_cert_expiry_timestamp", help, self.root_expiry.clone());
        let help = "Until the mesh's root certificate ends, in seconds";
        self.register("citadel_server_root_cert_expiry_seconds", help, self.root_expiry_seconds.clone());
    }

    /// The mesh's root certificate ends then, in seconds since 1970.
    pub(crate) fn root_certificate(&self, expiry: i64) {
        self.root_expiry.set(expiry);
    }

    /// Shows what `collector` collects, too.
    pub(crate) fn collect(&self, collector: Box<dyn Collector>) {
        self.registry.lock().register_collector(collector);
    }

    /// A change arrived, after which things are as in `after`.
    pub(crate) fn arrived(&self, before: &Snapshot, after: &Snapshot, changes: &ChangeSet) {
        let count = |family: &Family<TypeLabel, Counter>, kind: &str, count: usize| {
            if count > 0 {
                let label = TypeLabel { r#type: kind.to_owned() };
                family.get_or_create(&label).inc_by(u64::try_from(count).unwrap_or(u64::MAX));
            }
        };
        let gone = changes.services.iter().filter(|key| after.service(key).is_none()).count();
        count(&self.updates, "svc", changes.services.len() - gone);
        count(&self.updates, "svcdelete", gone);
        count(&self.updates, "eds", changes.endpoints.len());
        count(&self.updates, "config", changes.configs.len() + usize::from(changes.mesh));
        count(&self.triggers, "service", changes.services.len());
        count(&self.triggers, "endpoint", changes.endpoints.len());
        count(&self.triggers, "config", changes.configs.len());
        count(&self.triggers, "namespace", changes.namespaces.len());
        count(&self.triggers, "global", usize::from(changes.mesh || changes.full));
        let event = |family: &Family<EventLabel, Counter>, kind: &str, was: bool, is: bool| {
            let event = match (was, is) {
                (false, true) => "add",
                (_, false) => "delete",
                (true, true) => "update",
            };
            family.get_or_create(&EventLabel { r#type: kind.to_owned(), event }).inc();
        };
        for reference in &changes.configs {
            let (was, is) = (before.configs().contains(reference), after.configs().contains(reference));
            event(&self.config_events, reference.kind.as_str(), was, is);
        }
        for key in &changes.services {
            event(
                &self.registry_events,
                "Services",
                before.service(key).is_some(),
                after.service(key).is_some(),
            );
        }
        for key in &changes.endpoints {
            let (was, is) = (before.endpoints(key).is_some(), after.endpoints(key).is_some());
            event(&self.registry_events, "EndpointSlice", was, is);
        }
        for key in &changes.workloads {
            event(
                &self.registry_events,
                "Pods",
                before.workload(key).is_some(),
                after.workload(key).is_some(),
            );
        }
        for name in &changes.namespaces {
            let (was, is) = (before.namespace(name).is_some(), after.namespace(name).is_some());
            event(&self.registry_events, "Namespaces", was, is);
        }
    }

    /// A proxy of this version came, or went.
    pub(crate) fn connected(&self, version: &str, came: bool) {
        let gauge = self.connected.get_or_create(&VersionLabel { version: version.to_owned() });
        if came {
            gauge.inc();
            let label = TypeLabel { r#type: "proxyrequest".to_owned() };
            self.triggers.get_or_create(&label).inc();
        } else {
            gauge.dec();
        }
    }

    /// So many proxies belong to other classes now.
    pub(crate) fn reclassified(&self, proxies: usize) {
        if proxies > 0 {
            let label = TypeLabel { r#type: "proxy".to_owned() };
            self.triggers.get_or_create(&label).inc_by(u64::try_from(proxies).unwrap_or(u64::MAX));
        }
    }

    /// So long after a change was taken up a response of this type was sent.
    pub(crate) fn push_time(&self, type_url: &str, duration: Duration) {
        let label = TypeLabel { r#type: short_type(type_url).to_ascii_lowercase() };
        self.push_times.get_or_create(&label).observe(duration.as_secs_f64());
    }

    /// A webhook was asked something that it could not judge.
    pub(crate) fn webhook_error(&self, status: u16) {
        self.webhook_errors.get_or_create(&StatusLabel { status: status.to_string() }).inc();
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
    pub(crate) fn render(&self, snapshot: &Snapshot, platforms: &dyn Platforms) -> String {
        self.world.show(snapshot, platforms);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let now: i64 = now.as_secs().try_into().unwrap_or(i64::MAX);
        self.root_expiry_seconds.set(self.root_expiry.get() - now);
        set(&self.uptime, usize::try_from(self.started.elapsed().as_secs()).unwrap_or(usize::MAX));
        let mut text = String::new();
        // Writing into a string does not fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry.lock());
        // The library appends `_total` to the name of every counter; Istio does so only to some.
        for name in WITHOUT_TOTAL {
            text = text.replace(&format!("{name}_total"), name);
        }
        // What is read as a gauge is a counter to those who ask for it.
        text.replace("process_cpu_seconds ", "process_cpu_seconds_total ")
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
mod tests;
