//! Outlier detection at work: workers report, one task of the cluster ejects.

use std::sync::{Arc, Weak};

use lateen_dataplane::cluster::Host;
use lateen_dataplane::head::ResponseHead;
use lateen_dataplane::outlier::{Detector, Event, Kind, Outcome, Rates, Report};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::state::ClusterHandle;
use crate::stats::{OutlierStats, SharedShard, Stats};

/// Where the task hears about hosts.
type Signals = UnboundedReceiver<(Arc<Host>, Signal)>;

/// What a cluster with outlier detection has.
#[derive(Debug)]
pub struct OutlierHandle {
    stats: OutlierStats,
    /// What success rates are compared with.
    pub(crate) rates: Arc<Rates>,
    sender: UnboundedSender<(Arc<Host>, Signal)>,
    /// Taken by the task.
    receiver: parking_lot::Mutex<Option<Signals>>,
}

/// What the task is told about a host.
#[derive(Debug, Clone, Copy)]
enum Signal {
    /// So many failures in a row.
    Failures(Kind),
    /// A health check succeeded.
    Healthy,
}

impl OutlierHandle {
    /// For a cluster of this name.
    pub fn new(stats: &Stats, name: &str) -> Self {
        let (sender, receiver) = unbounded_channel();
        let receiver = parking_lot::Mutex::new(Some(receiver));
        Self { stats: OutlierStats::new(stats, name), rates: Arc::default(), sender, receiver }
    }
}

/// The status by which a response is judged: that of gRPC where the head has it.
pub fn judged_status(head: &ResponseHead) -> u16 {
    let is_grpc = head.headers.get("content-type").is_some_and(|kind| kind.starts_with(b"application/grpc"));
    if !is_grpc {
        return head.status;
    }
    match head.headers.get("grpc-status") {
        None => head.status,
        Some(b"0") => 200,
        Some(b"1") => 499,
        Some(b"3" | b"9" | b"11") => 400,
        Some(b"4") => 504,
        Some(b"5") => 404,
        Some(b"6" | b"10") => 409,
        Some(b"7") => 403,
        Some(b"8") => 429,
        Some(b"12") => 501,
        Some(b"14") => 503,
        Some(b"16") => 401,
        Some(_) => 500,
    }
}

impl ClusterHandle {
    /// Counts what happened at a host. Without outlier detection it costs a look.
    pub fn report(&self, host: &Arc<Host>, report: Report) {
        let (Some(config), Some(handle), Some(monitor)) =
            (&self.config.outlier, &self.outlier, &host.monitor)
        else {
            return;
        };
        for kind in monitor.report(config, report).kinds() {
            let _ = handle.sender.send((Arc::clone(host), Signal::Failures(kind)));
        }
    }

    /// A health check of a host succeeded.
    pub fn report_healthy(&self, host: &Arc<Host>) {
        if let (Some(config), Some(handle)) = (&self.config.outlier, &self.outlier)
            && config.uneject_on_health_check
        {
            let _ = handle.sender.send((Arc::clone(host), Signal::Healthy));
        }
    }
}

/// Starts the task of a cluster, for as long as the cluster lives.
pub fn start(cluster: &Arc<ClusterHandle>, control: SharedShard) {
    let (Some(config), Some(handle)) = (&cluster.config.outlier, &cluster.outlier) else { return };
    let Some(receiver) = handle.receiver.lock().take() else { return };
    let detector = Detector::new(Arc::clone(config), Arc::clone(&handle.rates));
    tokio::spawn(run(Arc::downgrade(cluster), detector, receiver, control));
}

async fn run(
    cluster: Weak<ClusterHandle>,
    detector: Detector,
    mut signals: UnboundedReceiver<(Arc<Host>, Signal)>,
    control: SharedShard,
) {
    let mut ticks = tokio::time::interval(detector.interval());
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        let signal = tokio::select! {
            signal = signals.recv() => match signal {
                Some(signal) => Some(signal),
                None => return,
            },
            _ = ticks.tick() => None,
        };
        let Some(cluster) = cluster.upgrade() else { return };
        let hosts: Vec<Arc<Host>> =
            cluster.hosts.load().members().map(|member| Arc::clone(&member.host)).collect();
        let now = cluster.now();
        let mut random = rand::rng();
        let events: Vec<Event> = match &signal {
            Some((host, Signal::Failures(kind))) => {
                detector.consecutive(host, *kind, &hosts, now, &mut random).into_iter().collect()
            }
            Some((host, Signal::Healthy)) => detector.uneject(host).into_iter().collect(),
            None => detector.tick(&hosts, now, &mut random),
        };
        if let Some(handle) = &cluster.outlier {
            events.iter().for_each(|event| handle.count(event, &control));
            let ejected = hosts.iter().filter(|host| is_ejected(host)).count();
            control.set(handle.stats.ejections_active, ejected as u64);
        }
        for event in &events {
            log(&cluster, event);
        }
        if events.iter().any(Event::changes_hosts) {
            cluster.refresh_hosts();
        }
    }
}

fn is_ejected(host: &Host) -> bool {
    host.flags().any(lateen_dataplane::cluster::HealthFlags::FAILED_OUTLIER)
}

fn log(cluster: &ClusterHandle, event: &Event) {
    let name = &cluster.config.name;
    match event {
        Event::Detected(host, kind, outcome) => {
            tracing::info!(cluster = %name, host = %host.text, kind = kind.name(), ?outcome, "outlier detected");
        }
        Event::Returned(host) => tracing::info!(cluster = %name, host = %host.text, "outlier returned"),
    }
}

impl OutlierHandle {
    fn count(&self, event: &Event, control: &SharedShard) {
        let stats = &self.stats;
        let Event::Detected(_, kind, outcome) = event else { return };
        let (detected, enforced) = match kind {
            Kind::ServerErrors => {
                (stats.ejections_detected_consecutive_5xx, stats.ejections_enforced_consecutive_5xx)
            }
            Kind::GatewayFailures => (
                stats.ejections_detected_consecutive_gateway_failure,
                stats.ejections_enforced_consecutive_gateway_failure,
            ),
            Kind::LocalFailures => (
                stats.ejections_detected_consecutive_local_origin_failure,
                stats.ejections_enforced_consecutive_local_origin_failure,
            ),
            Kind::SuccessRate => {
                (stats.ejections_detected_success_rate, stats.ejections_enforced_success_rate)
            }
            Kind::LocalSuccessRate => (
                stats.ejections_detected_local_origin_success_rate,
                stats.ejections_enforced_local_origin_success_rate,
            ),
            Kind::FailurePercentage => {
                (stats.ejections_detected_failure_percentage, stats.ejections_enforced_failure_percentage)
            }
            Kind::LocalFailurePercentage => (
                stats.ejections_detected_local_origin_failure_percentage,
                stats.ejections_enforced_local_origin_failure_percentage,
            ),
        };
        control.increment(detected);
        // The names of old, which dashboards still read, count a detection; their sum counts what could be ejected.
        match kind {
            Kind::ServerErrors => control.increment(stats.ejections_consecutive_5xx),
            Kind::SuccessRate => control.increment(stats.ejections_success_rate),
            _ => {}
        }
        match outcome {
            Outcome::Overflow => return control.increment(stats.ejections_overflow),
            Outcome::Ejected => {
                control.increment(enforced);
                control.increment(stats.ejections_enforced_total);
            }
            Outcome::NotEnforced => {}
        }
        if matches!(kind, Kind::ServerErrors | Kind::SuccessRate) {
            control.increment(stats.ejections_total);
        }
    }
}
