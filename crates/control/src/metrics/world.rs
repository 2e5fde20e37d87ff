//! Metrics of what is known, worked out when they are read: nothing is counted because of a change.

use std::collections::BTreeMap;

use lateen_model::Snapshot;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::{Metrics, set};
use crate::debug::Platforms;
use crate::{conflicts, settings};

/// Gauges of what is known.
#[derive(Clone, Default)]
pub(super) struct World {
    services: Gauge,
    virtual_services: Gauge,
    subsets: Gauge,
    clusters: Family<ClusterLabel, Gauge>,
    unreadable: Family<KindLabel, Gauge>,
    without_effect: Gauge,
    conflicts: BTreeMap<&'static str, Gauge>,
    process: Process,
}

#[derive(Clone, Default)]
struct Process {
    cpu: Gauge<f64, std::sync::atomic::AtomicU64>,
    resident: Gauge,
    virtual_memory: Gauge,
    descriptors: Gauge,
    started: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClusterLabel {
    cluster_type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabel {
    component: &'static str,
    tag: &'static str,
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            conflicts: conflicts::ALL.iter().map(|(name, _)| (*name, Gauge::default())).collect(),
            ..Self::default()
        }
    }

    pub(super) fn register(&self, metrics: &Metrics) {
        let build: Family<BuildLabel, Gauge> = Family::default();
        build.get_or_create(&BuildLabel { component: "pilot", tag: lateen_base::VERSION }).set(1);
        metrics.register("istio_build", "The version that runs, by component", build);
        metrics.register("pilot_services", "Services that are known", self.services.clone());
        metrics.register(
            "pilot_virt_services",
            "VirtualServices that are known",
            self.virtual_services.clone(),
        );
        metrics.register(
            "pilot_destrule_subsets",
            "Subsets that DestinationRules define",
            self.subsets.clone(),
        );
        let help = "Kubernetes clusters that are followed, the own one (local) and others (remote)";
        metrics.register("istiod_managed_clusters", help, self.clusters.clone());
        let help = "Objects that cannot be read, so that the last good ones stand; the mesh's settings are kind Mesh";
        metrics.register("lateen_unreadable_objects", help, self.unreadable.clone());
        let help = "Settings of the mesh that have no effect in this version";
        metrics.register("lateen_settings_without_effect", help, self.without_effect.clone());
        for (name, help) in conflicts::ALL {
            if let Some(gauge) = self.conflicts.get(name) {
                metrics.register(name, help, gauge.clone());
            }
        }
        let process = &self.process;
        metrics.register("process_cpu_seconds", "Processor time of the process", process.cpu.clone());
        metrics.register("process_resident_memory_bytes", "Memory of the process", process.resident.clone());
        let help = "Address space of the process";
        metrics.register("process_virtual_memory_bytes", help, process.virtual_memory.clone());
        metrics.register("process_open_fds", "Open files of the process", process.descriptors.clone());
        let help = "When the process started, in seconds since 1970";
        metrics.register("process_start_time_seconds", help, process.started.clone());
        process.started.set(now());
    }

    pub(super) fn show(&self, snapshot: &Snapshot, platforms: &dyn Platforms) {
        let mut unreadable: BTreeMap<String, usize> = [("Mesh".to_owned(), 0)].into();
        for problem in platforms.problems() {
            *unreadable.entry(format!("{:?}", problem.kind)).or_default() += 1;
        }
        self.unreadable.clear();
        for (kind, count) in unreadable {
            set(&self.unreadable.get_or_create(&KindLabel { kind }), count);
        }
        set(&self.without_effect, settings::unhandled(snapshot.mesh()).len());
        let platforms = platforms.statuses();
        let configs = snapshot.configs();
        set(&self.services, snapshot.service_count());
        set(&self.virtual_services, configs.virtual_services.len());
        set(&self.subsets, configs.destination_rules.values().map(|rule| rule.spec.subsets.len()).sum());
        let kubernetes = platforms.iter().filter(|status| status.provider == "Kubernetes").count();
        for (cluster_type, count) in [("local", kubernetes.min(1)), ("remote", kubernetes.saturating_sub(1))]
        {
            set(&self.clusters.get_or_create(&ClusterLabel { cluster_type }), count);
        }
        for (name, found) in conflicts::find(snapshot) {
            if let Some(gauge) = self.conflicts.get(name) {
                set(gauge, found.len());
            }
        }
        self.process.read();
    }
}

impl Process {
    /// From `/proc/self`; what cannot be read stays as it was.
    fn read(&self) {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The name in parentheses may hold anything: fields are counted from behind it.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let number = |index: usize| fields.get(index).and_then(|field| field.parse::<i64>().ok());
        // Ticks are hundredths of a second on Linux, and pages 4096 bytes wherever this runs.
        if let (Some(user), Some(system)) = (number(11), number(12)) {
            self.cpu.set((user + system) as f64 / 100.0);
        }
        if let Some(bytes) = number(20) {
            self.virtual_memory.set(bytes);
        }
        if let Some(pages) = number(21) {
            self.resident.set(pages * 4096);
        }
        if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
            set(&self.descriptors, open.count());
        }
    }
}

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    since.as_secs().try_into().unwrap_or(i64::MAX)
}
