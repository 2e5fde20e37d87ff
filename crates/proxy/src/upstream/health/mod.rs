//! Active health checks at work: one thread asks all hosts of all clusters that want it.

mod events;
mod probe;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Weak};

use lateen_dataplane::cluster::{HealthFlags, Host, Member};
use lateen_dataplane::health::{Change, HealthCheck, HealthCheckTarget, Session, Verdict};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{oneshot, watch};

use self::events::EventLog;
use self::probe::Prober;
use crate::state::{ClusterHandle, State};
use crate::stats::{HealthCheckStats, Shard, Stats};

/// A cluster whose hosts are to be checked, and who is told when all were checked once.
#[derive(Debug)]
pub struct Job {
    cluster: Weak<ClusterHandle>,
    check: Arc<HealthCheck>,
    hosts_changed: watch::Receiver<u64>,
    checked: oneshot::Sender<()>,
}

/// Has the hosts of a cluster checked, for as long as it lives. What is given back resolves when all were checked
/// once. None where there is nothing to check, or they are checked already.
pub fn start(state: &State, cluster: &Arc<ClusterHandle>) -> Option<oneshot::Receiver<()>> {
    let check = Arc::clone(cluster.config.health_checks.first()?);
    if cluster.checking.swap(true, std::sync::atomic::Ordering::Relaxed) {
        return None;
    }
    let (sender, checked) = oneshot::channel();
    let job = Job {
        cluster: Arc::downgrade(cluster),
        check,
        hosts_changed: cluster.host_changes(),
        checked: sender,
    };
    let thread = state.health.get_or_init(|| start_thread(state.stats.clone()));
    let _ = thread.send(job);
    Some(checked)
}

fn start_thread(stats: Stats) -> UnboundedSender<Job> {
    let (sender, receiver) = unbounded_channel();
    let spawned = std::thread::Builder::new().name("health".into()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime {
            Ok(runtime) => tokio::task::LocalSet::new().block_on(&runtime, run(stats, receiver)),
            Err(error) => tracing::error!(%error, "cannot start health checks"),
        }
    });
    if let Err(error) = spawned {
        tracing::error!(%error, "cannot start the thread of health checks");
    }
    sender
}

async fn run(stats: Stats, mut jobs: UnboundedReceiver<Job>) {
    let shard = stats.shard();
    while let Some(job) = jobs.recv().await {
        tokio::task::spawn_local(check_cluster(job, stats.clone(), Arc::clone(&shard)));
    }
}

/// What the checks of a cluster's hosts share.
struct Shared {
    cluster: Weak<ClusterHandle>,
    check: Arc<HealthCheck>,
    stats: HealthCheckStats,
    shard: Arc<Shard>,
    log: EventLog,
    /// Hosts whose first check has no result yet.
    outstanding: Cell<usize>,
    checked: RefCell<Option<oneshot::Sender<()>>>,
}

impl Shared {
    fn tell_if_checked(&self) {
        if self.outstanding.get() == 0
            && let Some(checked) = self.checked.borrow_mut().take()
        {
            let _ = checked.send(());
        }
    }
}

async fn check_cluster(job: Job, stats: Stats, shard: Arc<Shard>) {
    let Some(cluster) = job.cluster.upgrade() else { return };
    let shared = Rc::new(Shared {
        stats: HealthCheckStats::new(&stats, &cluster.config.stat_name),
        log: EventLog::open(job.check.event_log.as_deref()),
        cluster: job.cluster,
        check: job.check,
        shard,
        outstanding: Cell::new(0),
        checked: RefCell::new(Some(job.checked)),
    });
    drop(cluster);
    let mut hosts_changed = job.hosts_changed;
    let mut known: HashMap<usize, Weak<Host>> = HashMap::new();
    loop {
        let Some(cluster) = shared.cluster.upgrade() else { return };
        hosts_changed.mark_unchanged();
        known.retain(|_, host| host.upgrade().is_some_and(|host| !host.is_removed()));
        for member in cluster.hosts.load().members() {
            let key = Arc::as_ptr(&member.host) as usize;
            if member.check.disabled || known.contains_key(&key) {
                continue;
            }
            known.insert(key, Arc::downgrade(&member.host));
            shared.outstanding.set(shared.outstanding.get() + 1);
            let (host, target) = (Arc::clone(&member.host), Arc::clone(&member.check));
            tokio::task::spawn_local(check_host(Rc::clone(&shared), host, target));
        }
        shared.tell_if_checked();
        drop(cluster);
        if hosts_changed.changed().await.is_err() {
            return;
        }
    }
}

async fn check_host(shared: Rc<Shared>, host: Arc<Host>, target: Arc<HealthCheckTarget>) {
    let mut random = SmallRng::from_os_rng();
    let mut session = Session::default();
    let mut prober = Prober::new(&host, &target);
    let mut first = FirstCheck(Some(&shared));
    tokio::time::sleep(shared.check.timing.first(&mut random)).await;
    loop {
        let Some(cluster) = shared.cluster.upgrade() else { return };
        if host.is_removed() {
            return;
        }
        shared.shard.increment(shared.stats.attempt);
        let asked = prober.ask(&shared.shard, &cluster, &shared.check);
        let verdict = match tokio::time::timeout(shared.check.timeout, asked).await {
            Ok(verdict) => verdict,
            Err(_) => Verdict::Timeout,
        };
        if prober.service_was_asked() {
            shared.shard.increment(shared.stats.verify_cluster);
        }
        let traffic = cluster.had_traffic.load(std::sync::atomic::Ordering::Relaxed);
        let was = host.flags();
        let now = cluster.now();
        let consequence = session.note(&shared.check, &host, verdict, traffic, now, &mut random);
        count(&shared, verdict);
        if matches!(verdict, Verdict::Success { .. }) {
            cluster.report_healthy(&host);
        }
        if consequence.change == Change::Changed {
            cluster.refresh_hosts();
        }
        set_gauges(&shared.stats, &cluster);
        shared.log.note(&shared.check, &cluster, &host, verdict, prober.status(), &consequence, was);
        first.done();
        drop(cluster);
        tokio::time::sleep(consequence.next).await;
    }
}

impl ClusterHandle {
    /// A host says of itself, with an answer to a request, that it wants no more traffic
    /// (`x-envoy-immediate-health-check-fail`). It gets none until its checks succeed again.
    pub(crate) fn fail_at_once(&self, host: &Host) {
        let hosts = self.hosts.load();
        let checked = |member: &&Member| std::ptr::eq(&*member.host, host) && !member.check.disabled;
        if self.config.health_checks.is_empty() || hosts.members().find(checked).is_none() {
            return;
        }
        let stats = HealthCheckStats::new(&self.control.stats(), &self.config.stat_name);
        self.control.increment(stats.failure);
        self.control.increment(stats.passive_failure);
        let flags = HealthFlags::FAILED_ACTIVE.and(HealthFlags::EXCLUDED_IMMEDIATELY);
        if host.set_flags(flags, true) {
            self.refresh_hosts();
            set_gauges(&stats, self);
        }
    }
}

/// Tells of the first result of a host, or that there will be none.
struct FirstCheck<'a>(Option<&'a Shared>);

impl FirstCheck<'_> {
    fn done(&mut self) {
        if let Some(shared) = self.0.take() {
            shared.outstanding.set(shared.outstanding.get() - 1);
            shared.tell_if_checked();
        }
    }
}

impl Drop for FirstCheck<'_> {
    fn drop(&mut self) {
        self.done();
    }
}

fn count(shared: &Shared, verdict: Verdict) {
    let (stats, shard) = (&shared.stats, &shared.shard);
    match verdict {
        Verdict::Success { .. } => shard.increment(stats.success),
        Verdict::Failure | Verdict::RetriableFailure => shard.increment(stats.failure),
        Verdict::NetworkFailure | Verdict::Timeout => {
            shard.increment(stats.failure);
            shard.increment(stats.network_failure);
        }
    }
}

fn set_gauges(stats: &HealthCheckStats, cluster: &ClusterHandle) {
    let (mut healthy, mut degraded) = (0, 0);
    for member in cluster.hosts.load().members().filter(|member| !member.check.disabled) {
        let flags = member.host.flags();
        healthy += u64::from(!flags.any(HealthFlags::FAILED_ACTIVE));
        degraded += u64::from(flags.any(HealthFlags::DEGRADED_ACTIVE));
    }
    cluster.control.set(stats.healthy, healthy);
    cluster.control.set(stats.degraded, degraded);
}
