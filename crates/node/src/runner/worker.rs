//! One Pod's life, from the moment it is ours to its object's end.
//!
//! The worker is a loop: something happens (the API says something new, a process ends, a probe decides, a time comes),
//! its state changes, `Worker::advance` starts what is due, and the status is written where it differs.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container as ContainerSpec, Pod, PodStatus};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use lateen_base::backoff::Backoff;
use nix::sys::signal::Signal;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::checks::{ProbeKind, Target, run_probe};
use super::environment::PodFacts;
use super::status::{self, Observed, Role, State, Termination};
use super::volumes::{Place, Volumes};
use super::{CachedSources, Context, Handle, Shown, Wanted, hostname, logs, start};
use crate::cluster::{EventKind, ObjectKey, is_transient, status_code};
use crate::controllers::{controller_of, status_patch};
use crate::sandbox::client::Sandbox;
use crate::sandbox::protocol::{Exit, Root};

/// Something that happened to a container.
#[derive(Debug)]
pub enum Event {
    /// Its process ended; `None` where the whole Pod's namespaces went away.
    Exited {
        /// Which container.
        slot: usize,
        /// Which run.
        token: u64,
        /// How.
        exit: Option<Exit>,
    },
    /// A probe decided.
    Probe {
        /// Which container.
        slot: usize,
        /// Which run.
        token: u64,
        /// Which probe.
        kind: ProbeKind,
        /// What it says.
        success: bool,
        /// Why not.
        message: Option<String>,
    },
    /// The hook `postStart` ended.
    PostStart {
        /// Which container.
        slot: usize,
        /// Which run.
        token: u64,
        /// How.
        result: Result<(), String>,
    },
}

/// A run that lasted this long forgets the crashes before it.
const STABLE: Duration = Duration::from_secs(60);
const LONGEST_BACKOFF: Duration = Duration::from_secs(300);
/// How long a killed process may take to disappear.
const AFTER_KILL: Duration = Duration::from_secs(2);

struct Slot {
    spec: ContainerSpec,
    shown: status::Container,
    run: Option<Run>,
    /// When it may start (again); `None` where it must not.
    due: Option<Instant>,
    /// Runs so far.
    runs: i32,
    /// Crashes in a row.
    crashes: u32,
}

struct Run {
    token: u64,
    target: Target,
    since: Timestamp,
    begun: Instant,
    tasks: Vec<tokio::task::AbortHandle>,
    hook_done: bool,
    stopping: bool,
}

impl Run {
    fn stop_probes(&mut self) {
        self.tasks.drain(..).for_each(|task| task.abort());
    }
}

struct Worker {
    context: Arc<Context>,
    key: ObjectKey,
    uid: String,
    pod: Arc<Pod>,
    wanted: watch::Receiver<Wanted>,
    shown: Arc<Shown>,
    folder: PathBuf,
    slots: Vec<Slot>,
    initialized: bool,
    failure: Option<(String, String)>,
    start: Timestamp,
    sandbox: Option<(Arc<Sandbox>, IpAddr)>,
    volumes: Volumes,
    places: HashMap<String, Place>,
    events: mpsc::UnboundedReceiver<Event>,
    tell: mpsc::UnboundedSender<Event>,
    last: Option<PodStatus>,
    publish: watch::Sender<Option<PodStatus>>,
    writer: tokio::task::AbortHandle,
}

/// Takes a Pod on.
pub(super) fn spawn(context: Arc<Context>, pod: Arc<Pod>) -> Handle {
    let key = ObjectKey::of(&pod.metadata);
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let folder = context.pods.join(format!("{}_{}_{uid}", key.namespace, key.name));
    let shown = Arc::new(Shown {
        logs: folder.join("logs"),
        runs: Mutex::default(),
        running: Mutex::default(),
        network: Mutex::default(),
        grown: watch::Sender::new(0),
        status: Mutex::default(),
    });
    let (sender, wanted) = watch::channel(Wanted { pod: Arc::clone(&pod), gone: false });
    let (publish, published) = watch::channel(None);
    let writer = tokio::spawn(write_status(Arc::clone(&context), key.clone(), uid.clone(), published));
    let (tell, events) = mpsc::unbounded_channel();
    let volumes = Volumes::new(folder.join("volumes"), context.allowed_host_paths.clone());
    let worker = Worker {
        slots: slots(&pod),
        start: Timestamp::now(),
        initialized: false,
        failure: None,
        sandbox: None,
        places: HashMap::new(),
        last: None,
        key: key.clone(),
        shown: Arc::clone(&shown),
        writer: writer.abort_handle(),
        context,
        uid,
        pod,
        wanted,
        folder,
        volumes,
        events,
        tell,
        publish,
    };
    Handle { key, wanted: sender, shown, task: tokio::spawn(worker.run()) }
}

fn slots(pod: &Pod) -> Vec<Slot> {
    let slot = |spec: &ContainerSpec, role: Role| Slot {
        shown: status::Container {
            name: spec.name.clone(),
            image: spec.image.clone().unwrap_or_default(),
            role,
            state: State::Waiting {
                reason: if role == Role::Application { "ContainerCreating" } else { "PodInitializing" }
                    .to_owned(),
                message: None,
            },
            last: None,
            restarts: 0,
            started: false,
            ready: false,
        },
        spec: spec.clone(),
        run: None,
        due: Some(Instant::now()),
        runs: 0,
        crashes: 0,
    };
    let Some(spec) = &pod.spec else { return Vec::new() };
    let init = spec.init_containers.iter().flatten().map(|container| {
        let sidecar = container.restart_policy.as_deref() == Some("Always");
        slot(container, if sidecar { Role::Sidecar } else { Role::Init })
    });
    init.chain(spec.containers.iter().map(|container| slot(container, Role::Application))).collect()
}

/// How the main loop ends.
enum End {
    /// The Pod is to be deleted: time to do it in.
    Deleted(Duration),
    /// The object is gone already.
    Gone,
    /// The node ends.
    NodeEnds(Duration),
}

impl Worker {
    async fn run(mut self) {
        self.publish();
        let end = self.live().await;
        let drain = match &end {
            End::Deleted(_) if self.context.world.is_behind_service(&self.pod) => self.context.endpoint_drain,
            _ => Duration::ZERO,
        };
        match end {
            End::Deleted(grace) | End::NodeEnds(grace) => self.stop(grace, drain).await,
            End::Gone => {}
        }
        self.tear_down().await;
        self.shown.running.lock().clear();
        self.shown.grown.send_modify(|count| *count += 1);
        self.writer.abort();
        if matches!(end, End::Deleted(_)) {
            delete_object(Arc::clone(&self.context), Arc::clone(&self.pod)).await;
        }
        if !matches!(end, End::NodeEnds(_)) {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }

    /// The Pod's life up to the point where it is to end.
    async fn live(&mut self) -> End {
        let mut ending = self.context.ending.subscribe();
        let mut data = self.context.world.data_generation.clone();
        let mut retry = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        loop {
            if let Some(end) = self.end() {
                return end;
            }
            let mut wake = None;
            if self.sandbox.is_none() && self.failure.is_none() && !self.is_over() {
                match self.set_up().await {
                    Ok(()) => retry.reset(),
                    Err(message) => {
                        let reason = "FailedCreatePodSandBox";
                        self.context.recorder.pod(&self.pod, EventKind::Warning, reason, &message);
                        wake = Some(Instant::now() + retry.next_delay());
                    }
                }
            }
            if self.sandbox.is_some() {
                self.advance().await;
                wake = earlier(wake, self.next_due());
                wake = earlier(wake, self.volumes.next_renewal().map(Instant::from_std));
            }
            self.publish();
            let sandbox = self.sandbox.as_ref().map(|(sandbox, _)| Arc::clone(sandbox));
            tokio::select! {
                Some(event) = self.events.recv() => self.handle(event).await,
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        return End::Gone;
                    }
                    let wanted = self.wanted.borrow_and_update().pod.clone();
                    if wanted.metadata.uid == self.pod.metadata.uid {
                        self.pod = wanted;
                    }
                    self.refresh_volumes().await;
                }
                _ = data.changed() => {
                    self.refresh_volumes().await;
                    self.retry_configuration();
                }
                _ = ending.changed() => {}
                () = gone(sandbox.as_deref()) => self.lose_sandbox().await,
                () = sleep_until(wake) => self.refresh_volumes().await,
            }
        }
    }

    /// Whether the Pod is to end now.
    fn end(&self) -> Option<End> {
        if self.wanted.borrow().gone {
            return Some(End::Gone);
        }
        if let Some(limit) = *self.context.ending.borrow() {
            return Some(End::NodeEnds(limit.min(self.grace())));
        }
        self.pod.metadata.deletion_timestamp.as_ref().map(|_| End::Deleted(self.grace()))
    }

    fn grace(&self) -> Duration {
        let asked = self.pod.metadata.deletion_grace_period_seconds;
        let spec = self.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
        Duration::from_secs(asked.or(spec).unwrap_or(30).max(0) as u64)
    }

    // === Setting up and tearing down ===

    async fn set_up(&mut self) -> Result<(), String> {
        let context = Arc::clone(&self.context);
        for folder in [&self.folder, &self.folder.join("volumes"), &self.folder.join("root")] {
            std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        }
        let host = hostname(&self.pod);
        let connected = async {
            let sandbox = Sandbox::create(&context.reaper, &host).await.map_err(|error| error.to_string())?;
            let attached = context.network.attach(&self.uid, sandbox.pid().as_raw()).await;
            let address = attached.map_err(|error| format!("network: {error}"))?;
            let namespace = std::fs::File::open(format!("/proc/{}/ns/net", sandbox.pid()));
            let namespace = namespace.map_err(|error| format!("network namespace: {error}"))?;
            *self.shown.network.lock() = Some(namespace.into());
            Ok::<_, String>((Arc::new(sandbox), address))
        };
        let client = &context.world.client;
        let (connected, tokens) = tokio::join!(connected, self.volumes.renew_tokens(&self.pod, client));
        let (sandbox, address) = connected?;
        let prepared = match tokens {
            Ok(()) => {
                let sources = CachedSources::new(&context.world, &self.key.namespace);
                let facts = self.facts(Some(address));
                self.volumes.prepare(&self.pod, &facts, &sources, client).await
            }
            Err(error) => Err(error),
        };
        match prepared {
            Ok(places) => self.places = places,
            Err(message) => {
                drop(sandbox);
                context.network.detach(&self.uid).await;
                return Err(message);
            }
        }
        self.sandbox = Some((sandbox, address));
        Ok(())
    }

    fn facts(&self, address: Option<IpAddr>) -> PodFacts {
        PodFacts {
            ip: address.map(|ip| ip.to_string()).unwrap_or_default(),
            host_ip: self.context.network.host_ip().to_string(),
        }
    }

    async fn tear_down(&mut self) {
        for slot in &mut self.slots {
            if let Some(mut run) = slot.run.take() {
                run.stop_probes();
            }
        }
        *self.shown.network.lock() = None;
        if let Some((sandbox, _)) = self.sandbox.take() {
            sandbox.kill();
            let _ = tokio::time::timeout(AFTER_KILL, sandbox.gone()).await;
            self.context.network.detach(&self.uid).await;
        }
    }

    /// The namespaces have ended under us: every container starts again, in new ones.
    async fn lose_sandbox(&mut self) {
        let message = "the Pod's namespaces ended; it is started again";
        self.context.recorder.pod(&self.pod, EventKind::Warning, "SandboxChanged", message);
        while let Ok(event) = self.events.try_recv() {
            self.handle(event).await;
        }
        for index in 0..self.slots.len() {
            if self.slots[index].run.is_some() {
                self.ended(index, Exit::Signal(libc_sigkill()));
            }
        }
        self.initialized = false;
        for slot in self.slots.iter_mut().filter(|slot| slot.shown.role == Role::Init) {
            slot.due = Some(Instant::now());
            let state = State::Waiting { reason: "PodInitializing".to_owned(), message: None };
            if let State::Terminated(ended) = std::mem::replace(&mut slot.shown.state, state) {
                slot.shown.last = Some(ended);
            }
        }
        self.tear_down().await;
    }

    async fn refresh_volumes(&mut self) {
        let Some((_, address)) = &self.sandbox else { return };
        let facts = self.facts(Some(*address));
        let context = Arc::clone(&self.context);
        let sources = CachedSources::new(&context.world, &self.key.namespace);
        let renewed = match self.volumes.next_renewal() {
            Some(at) if at <= std::time::Instant::now() => {
                self.volumes.renew_tokens(&self.pod, &context.world.client).await
            }
            _ => Ok(()),
        };
        if let Err(message) = renewed {
            // The old token lasts a while yet.
            self.volumes.postpone_renewal(Duration::from_secs(5));
            context.recorder.pod(&self.pod, EventKind::Warning, "FailedTokenRenewal", &message);
        }
        if let Err(message) = self.volumes.refresh(&self.pod, &facts, &sources) {
            context.recorder.pod(&self.pod, EventKind::Warning, "FailedMount", &message);
        }
    }

    // === Containers ===

    /// Starts what is due, in order.
    async fn advance(&mut self) {
        let mut blocked = false;
        for index in 0..self.slots.len() {
            match self.slots[index].shown.role {
                Role::Init if self.initialized || blocked => {}
                Role::Init => {
                    if !self.has_succeeded(index) {
                        self.start_if_due(index).await;
                        blocked = true;
                    }
                }
                Role::Sidecar if blocked && !self.initialized => {}
                Role::Sidecar => {
                    if !self.applications_over() {
                        self.start_if_due(index).await;
                    }
                    blocked |= !self.slots[index].shown.started;
                }
                Role::Application => {
                    if !blocked {
                        self.initialized = true;
                    }
                    if self.initialized {
                        self.start_if_due(index).await;
                    }
                }
            }
        }
        if self.initialized && self.applications_over() {
            self.end_sidecars().await;
        }
    }

    fn has_succeeded(&self, index: usize) -> bool {
        matches!(&self.slots[index].shown.state, State::Terminated(ended) if ended.exit_code == 0)
    }

    /// Whether every application has ended for good.
    fn applications_over(&self) -> bool {
        self.slots
            .iter()
            .filter(|slot| slot.shown.role == Role::Application)
            .all(|slot| matches!(slot.shown.state, State::Terminated(_)))
    }

    /// Whether nothing of the Pod will ever run again.
    fn is_over(&self) -> bool {
        self.initialized && self.applications_over() && self.slots.iter().all(|slot| slot.run.is_none())
    }

    /// The work is done: sidecars end, last first.
    async fn end_sidecars(&mut self) {
        let grace = self.grace();
        if let Some(run) = self.slots.iter_mut().rev().find_map(|slot| slot.run.as_mut()) {
            if std::mem::replace(&mut run.stopping, true) {
                return;
            }
            let (sandbox, token) = (Arc::clone(&run.target.sandbox), run.token);
            tokio::spawn(async move {
                let _ = sandbox.signal(token, Signal::SIGTERM, false).await;
                tokio::time::sleep(grace).await;
                let _ = sandbox.signal(token, Signal::SIGKILL, true).await;
            });
        } else {
            self.publish();
            self.tear_down().await;
        }
    }

    async fn start_if_due(&mut self, index: usize) {
        let slot = &self.slots[index];
        if slot.run.is_some() || slot.due.is_none_or(|due| due > Instant::now()) || self.failure.is_some() {
            return;
        }
        let Some((sandbox, address)) = self.sandbox.clone() else { return };
        let context = Arc::clone(&self.context);
        let sources = CachedSources::new(&context.world, &self.key.namespace);
        let prepared = start::prepare(&start::Inputs {
            pod: &self.pod,
            container: &slot.spec,
            facts: &self.facts(Some(address)),
            sources: &sources,
            volumes: &self.places,
            images: &context.images,
            ids: &context.ids,
            programs: &context.programs,
            program_dirs: &context.program_dirs,
        });
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err((reason, message)) => return self.wait(index, reason, message),
        };
        for (reason, message) in &prepared.warnings {
            context.recorder.pod(&self.pod, EventKind::Warning, reason, message);
        }
        let slot = &mut self.slots[index];
        slot.shown.restarts = slot.runs;
        self.shown.runs.lock().insert(slot.spec.name.clone(), slot.runs);
        let pipes = logs::capture(&self.shown.logs, &slot.spec.name, slot.runs, self.shown.grown.clone());
        slot.runs += 1;
        let started = match pipes {
            Ok((output, errors)) => {
                let root = Root::New { folder: self.folder.join("root"), steps: prepared.steps };
                sandbox.start(prepared.process.clone(), root, output, errors).await
            }
            Err(error) => Err(error),
        };
        match started {
            Ok(started) => {
                let target = Target {
                    sandbox,
                    token: started.token,
                    process: prepared.process,
                    address,
                    ports: Target::ports_of(&slot.spec),
                };
                let (tell, token) = (self.tell.clone(), started.token);
                tokio::spawn(async move {
                    let exit = started.exit.await.ok();
                    let _ = tell.send(Event::Exited { slot: index, token, exit });
                });
                self.has_started(index, target);
            }
            Err(error) => {
                let message = error.to_string();
                self.context.recorder.pod(&self.pod, EventKind::Warning, "Failed", &message);
                let now = Timestamp::now();
                let ended = Termination {
                    exit_code: 128,
                    signal: None,
                    reason: "StartError".to_owned(),
                    message: Some(message),
                    started: now,
                    finished: now,
                };
                self.over(index, ended, Duration::ZERO);
            }
        }
    }

    /// A start is not possible yet.
    fn wait(&mut self, index: usize, reason: &str, message: String) {
        let slot = &mut self.slots[index];
        slot.due = None;
        let state = State::Waiting { reason: reason.to_owned(), message: Some(message.clone()) };
        if slot.shown.state != state {
            slot.shown.state = state;
            self.context.recorder.pod(&self.pod, EventKind::Warning, reason, &message);
        }
    }

    /// What a container waits for may have come.
    fn retry_configuration(&mut self) {
        for slot in &mut self.slots {
            if matches!(&slot.shown.state, State::Waiting { reason, .. } if reason == "CreateContainerConfigError")
            {
                slot.due = Some(Instant::now());
            }
        }
    }

    fn has_started(&mut self, index: usize, target: Target) {
        let (now, tell) = (Timestamp::now(), self.tell.clone());
        let slot = &mut self.slots[index];
        let hook = slot.spec.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.clone());
        let token = target.token;
        let mut tasks = Vec::new();
        let hook_done = hook.is_none();
        if let Some(hook) = hook {
            let target = target.clone();
            let limit = Duration::from_secs(600);
            let task = tokio::spawn(async move {
                let result = target.hook(&hook, limit).await;
                let _ = tell.send(Event::PostStart { slot: index, token, result });
            });
            tasks.push(task.abort_handle());
        }
        slot.due = None;
        self.shown.running.lock().insert(slot.spec.name.clone(), slot.shown.restarts);
        slot.shown.state = State::Running { since: now };
        slot.shown.started = false;
        slot.shown.ready = false;
        slot.run =
            Some(Run { token, target, since: now, begun: Instant::now(), tasks, hook_done, stopping: false });
        if hook_done {
            self.begin_probes(index);
        }
    }

    /// After the hook: the startup probe, or at once the others.
    fn begin_probes(&mut self, index: usize) {
        match self.slots[index].spec.startup_probe.clone() {
            Some(probe) if self.slots[index].shown.role != Role::Init => {
                self.spawn_probe(index, ProbeKind::Startup, probe);
            }
            _ => self.startup_done(index),
        }
    }

    fn startup_done(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        slot.shown.started = true;
        if slot.shown.role == Role::Init {
            return;
        }
        let (liveness, readiness) = (slot.spec.liveness_probe.clone(), slot.spec.readiness_probe.clone());
        slot.shown.ready = readiness.is_none();
        if let Some(probe) = liveness {
            self.spawn_probe(index, ProbeKind::Liveness, probe);
        }
        if let Some(probe) = readiness {
            self.spawn_probe(index, ProbeKind::Readiness, probe);
        }
    }

    fn spawn_probe(&mut self, index: usize, kind: ProbeKind, probe: k8s_openapi::api::core::v1::Probe) {
        let tell = self.tell.clone();
        if let Some(run) = &mut self.slots[index].run {
            let task = tokio::spawn(run_probe(kind, probe, run.target.clone(), index, tell));
            run.tasks.push(task.abort_handle());
        }
    }

    async fn handle(&mut self, event: Event) {
        let (Event::Exited { slot, token, .. }
        | Event::Probe { slot, token, .. }
        | Event::PostStart { slot, token, .. }) = &event;
        let (index, token) = (*slot, *token);
        if self.slots[index].run.as_ref().is_none_or(|run| run.token != token) {
            return;
        }
        match event {
            Event::Exited { exit, .. } => self.ended(index, exit.unwrap_or(Exit::Signal(libc_sigkill()))),
            Event::PostStart { result, .. } => {
                if let Some(run) = &mut self.slots[index].run {
                    run.hook_done = true;
                }
                match result {
                    Ok(()) => self.begin_probes(index),
                    Err(message) => self.restart(index, "FailedPostStartHook", &message),
                }
            }
            Event::Probe { kind, success, message, .. } => self.probed(index, kind, success, message),
        }
    }

    fn probed(&mut self, index: usize, kind: ProbeKind, success: bool, message: Option<String>) {
        let name = match kind {
            ProbeKind::Startup => "Startup",
            ProbeKind::Liveness => "Liveness",
            ProbeKind::Readiness => "Readiness",
        };
        let message = format!("{name} probe failed: {}", message.unwrap_or_default());
        match (kind, success) {
            (ProbeKind::Startup, true) => self.startup_done(index),
            (ProbeKind::Liveness, true) => {}
            (ProbeKind::Startup | ProbeKind::Liveness, false) => self.restart(index, "Unhealthy", &message),
            (ProbeKind::Readiness, ready) => {
                self.slots[index].shown.ready = ready;
                if !ready {
                    self.context.recorder.pod(&self.pod, EventKind::Warning, "Unhealthy", &message);
                }
            }
        }
    }

    /// Ends a run that does not work; its end decides about the next.
    fn restart(&mut self, index: usize, reason: &str, message: &str) {
        self.context.recorder.pod(&self.pod, EventKind::Warning, reason, message);
        let grace = self.grace();
        let slot = &mut self.slots[index];
        slot.shown.ready = false;
        let hook = pre_stop(&slot.spec);
        if let Some(run) = &mut slot.run {
            run.stop_probes();
            tokio::spawn(stop_run(run.target.clone(), hook, Instant::now() + grace));
        }
    }

    fn ended(&mut self, index: usize, exit: Exit) {
        let Some(mut run) = self.slots[index].run.take() else { return };
        run.stop_probes();
        self.shown.running.lock().remove(&self.slots[index].spec.name);
        self.shown.grown.send_modify(|count| *count += 1);
        let (code, signal) = match exit {
            Exit::Code(code) => (code, None),
            Exit::Signal(signal) => (exit.code(), Some(signal)),
        };
        let ended = Termination {
            exit_code: code,
            signal,
            reason: if code == 0 { "Completed" } else { "Error" }.to_owned(),
            message: None,
            started: run.since,
            finished: Timestamp::now(),
        };
        self.over(index, ended, run.begun.elapsed());
    }

    /// Decides what follows a run.
    fn over(&mut self, index: usize, ended: Termination, lasted: Duration) {
        let policy =
            self.pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always");
        let slot = &mut self.slots[index];
        slot.shown.started = false;
        slot.shown.ready = false;
        let succeeded = ended.exit_code == 0;
        let again = match slot.shown.role {
            Role::Init => !succeeded && policy != "Never",
            Role::Sidecar => true,
            Role::Application => policy == "Always" || (policy == "OnFailure" && !succeeded),
        };
        if !again {
            slot.due = None;
            slot.shown.state = State::Terminated(ended);
            return;
        }
        slot.crashes = if lasted >= STABLE { 0 } else { slot.crashes + 1 };
        // The first crash in a row is made up for at once; then 1 s, 2 s, 4 s, ...
        let delay = match slot.crashes {
            0 | 1 => Duration::ZERO,
            crashes => Duration::from_secs(1 << (crashes - 2).min(12)).min(LONGEST_BACKOFF),
        };
        slot.due = Some(Instant::now() + delay);
        slot.shown.last = Some(ended);
        slot.shown.state = if delay.is_zero() {
            State::Waiting { reason: "ContainerCreating".to_owned(), message: None }
        } else {
            let message =
                format!("back-off {}s restarting failed container={}", delay.as_secs(), slot.spec.name);
            self.context.recorder.pod(&self.pod, EventKind::Warning, "BackOff", &message);
            State::Waiting { reason: "CrashLoopBackOff".to_owned(), message: Some(message) }
        };
    }

    fn next_due(&self) -> Option<Instant> {
        let waiting = self.slots.iter().filter(|slot| slot.run.is_none()).filter_map(|slot| slot.due);
        waiting.filter(|due| *due > Instant::now()).min()
    }

    // === The end ===

    /// Ends the processes in order: applications, then sidecars from the last to the first.
    async fn stop(&mut self, grace: Duration, drain: Duration) {
        for run in self.slots.iter_mut().filter_map(|slot| slot.run.as_mut()) {
            run.stop_probes();
        }
        let end = Instant::now() + grace;
        self.wait_until(|_| false, end.min(Instant::now() + drain)).await;
        let first: Vec<usize> = self.running(|role| role != Role::Sidecar);
        self.stop_group(&first, end).await;
        for index in self.running(|role| role == Role::Sidecar).into_iter().rev() {
            self.stop_group(&[index], end).await;
        }
    }

    fn running(&self, of: impl Fn(Role) -> bool) -> Vec<usize> {
        let chosen =
            self.slots.iter().enumerate().filter(|(_, slot)| slot.run.is_some() && of(slot.shown.role));
        chosen.map(|(index, _)| index).collect()
    }

    async fn stop_group(&mut self, group: &[usize], end: Instant) {
        for index in group {
            let slot = &self.slots[*index];
            if let Some(run) = &slot.run {
                tokio::spawn(stop_run(run.target.clone(), pre_stop(&slot.spec), end));
            }
        }
        let stopped = |worker: &Self| group.iter().all(|index| worker.slots[*index].run.is_none());
        self.wait_until(stopped, end).await;
        for index in group {
            if let Some(run) = &self.slots[*index].run {
                let _ = run.target.sandbox.signal(run.token, Signal::SIGKILL, true).await;
            }
        }
        self.wait_until(stopped, Instant::now() + AFTER_KILL).await;
    }

    /// Takes events in until something is so, the time is over, or the object was removed by force.
    async fn wait_until(&mut self, so: impl Fn(&Self) -> bool, end: Instant) {
        while !so(self) && !self.wanted.borrow().gone {
            tokio::select! {
                Some(event) = self.events.recv() => {
                    if let Event::Exited { slot, token, exit } = event
                        && self.slots[slot].run.as_ref().is_some_and(|run| run.token == token)
                    {
                        self.ended(slot, exit.unwrap_or(Exit::Signal(libc_sigkill())));
                    }
                }
                changed = self.wanted.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(end) => return,
            }
        }
    }

    // === Status ===

    fn publish(&mut self) {
        let never = self.slots.iter().find(|slot| {
            slot.shown.role == Role::Init
                && matches!(&slot.shown.state, State::Terminated(ended) if ended.exit_code != 0)
        });
        let observed = Observed {
            containers: self.slots.iter().map(|slot| slot.shown.clone()).collect(),
            initialized: self.initialized && never.is_none(),
            ip: self.sandbox.as_ref().map(|(_, address)| address.to_string()).or_else(|| self.last_ip()),
            host_ip: self.context.network.host_ip().to_string(),
            start: self.start,
            failure: self.failure.clone(),
        };
        let mut pod = (*self.pod).clone();
        if let Some(last) = &self.last {
            pod.status = Some(last.clone());
        }
        let status = status::derive(&pod, &observed, Timestamp::now());
        if self.last.as_ref() != Some(&status) {
            *self.shown.status.lock() = serde_json::to_value(&status).unwrap_or_default();
            self.last = Some(status.clone());
            self.publish.send_replace(Some(status));
        }
    }

    fn last_ip(&self) -> Option<String> {
        self.last.as_ref().filter(|_| self.is_over()).and_then(|last| last.pod_ip.clone())
    }
}

fn pre_stop(spec: &ContainerSpec) -> Option<k8s_openapi::api::core::v1::LifecycleHandler> {
    spec.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.clone())
}

/// The hook, SIGTERM, and SIGKILL at the end of the time.
async fn stop_run(target: Target, hook: Option<k8s_openapi::api::core::v1::LifecycleHandler>, end: Instant) {
    if let Some(hook) = hook {
        let limit = end.saturating_duration_since(Instant::now());
        if let Ok(Err(message)) = tokio::time::timeout(limit, target.hook(&hook, limit)).await {
            tracing::warn!(message, "preStop hook");
        }
    }
    let _ = target.sandbox.signal(target.token, Signal::SIGTERM, false).await;
    tokio::select! {
        () = tokio::time::sleep_until(end) => {
            let _ = target.sandbox.signal(target.token, Signal::SIGKILL, true).await;
        }
        () = target.sandbox.gone() => {}
    }
}

fn libc_sigkill() -> i32 {
    Signal::SIGKILL as i32
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn gone(sandbox: Option<&Sandbox>) {
    match sandbox {
        Some(sandbox) => sandbox.gone().await,
        None => std::future::pending().await,
    }
}

/// Writes the newest status, again and again until the API takes it.
async fn write_status(
    context: Arc<Context>,
    key: ObjectKey,
    uid: String,
    mut published: watch::Receiver<Option<PodStatus>>,
) {
    let api: Api<Pod> = Api::namespaced(context.world.client.clone(), &key.namespace);
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
    let mut written: Option<PodStatus> = None;
    while published.changed().await.is_ok() {
        loop {
            let Some(status) = published.borrow_and_update().clone() else { break };
            let patch = serde_json::json!({
                "metadata": {"uid": uid},
                "status": status_patch(&status, written.as_ref()),
            });
            match api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(&patch)).await {
                Ok(_) => {
                    backoff.reset();
                    written = Some(status);
                    break;
                }
                Err(error) if is_transient(&error) => {
                    tracing::debug!(pod = %key, %error, "status not written");
                    tokio::time::sleep(backoff.next_delay()).await;
                }
                Err(error) => {
                    if status_code(&error) != Some(404) {
                        tracing::warn!(pod = %key, %error, "the status was refused");
                    }
                    break;
                }
            }
        }
    }
}

/// Removes a Pod's object for good, once nothing of it runs.
pub(super) async fn delete_object(context: Arc<Context>, pod: Arc<Pod>) {
    let key = ObjectKey::of(&pod.metadata);
    let api: Api<Pod> = Api::namespaced(context.world.client.clone(), &key.namespace);
    let conditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
    let parameters = DeleteParams::default().grace_period(0).preconditions(conditions);
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
    while context.ending.borrow().is_none() {
        match api.delete(&key.name, &parameters).await {
            Err(error) if is_transient(&error) => tokio::time::sleep(backoff.next_delay()).await,
            Err(error) if status_code(&error) != Some(404) => {
                tracing::debug!(pod = %key, %error, "object not deleted");
                return;
            }
            _ => return,
        }
    }
}

/// Fails a Pod that an earlier node process had taken on. Its processes ended with that process; a controller replaces
/// it, and then the failed object is of no use.
pub(super) async fn fail_earlier(context: Arc<Context>, pod: Arc<Pod>) {
    let key = ObjectKey::of(&pod.metadata);
    let api: Api<Pod> = Api::namespaced(context.world.client.clone(), &key.namespace);
    let no = |kind: &str| {
        serde_json::json!({"type": kind, "status": "False", "reason": "NodeRestarted",
            "lastTransitionTime": Timestamp::now().to_string()})
    };
    let patch = serde_json::json!({
        "metadata": {"uid": pod.metadata.uid},
        "status": {
            "phase": "Failed",
            "reason": "NodeRestarted",
            "message": "The node was restarted; the Pod's processes ended with it.",
            "conditions": [no("Ready"), no("ContainersReady")],
            "containerStatuses": null,
            "initContainerStatuses": null,
        },
    });
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
    while context.ending.borrow().is_none() {
        match api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Err(error) if is_transient(&error) => tokio::time::sleep(backoff.next_delay()).await,
            Err(error) => {
                tracing::warn!(pod = %key, %error, "a Pod of an earlier start could not be failed");
                return;
            }
            Ok(_) => break,
        }
    }
    if controller_of(&pod.metadata).is_some() {
        delete_object(context, pod).await;
    }
}
