//! Workloads that register themselves: a proxy that names a WorkloadGroup gets a WorkloadEntry made from it for as long
//! as it is connected, and what it says of its application's health goes into the entry's status.
//!
//! The entry belongs to the replica that the proxy is connected to (annotation `istio.io/workloadController`), which
//! notes when the proxy came and went. An entry whose proxy has gone is kept for a grace period, so that a proxy that
//! comes back, perhaps to another replica, finds it unchanged. Names and annotations are Istio's
//! (its `autoregistration` package), so replicas of either may be mixed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, ResourceExt};
use lateen_api::networking::{WorkloadEntry, WorkloadGroup};
use lateen_base::backoff::Backoff;
use lateen_base::drain;
use lateen_model::{Config, ConfigKey, ConfigKind, Snapshot};
use lateen_pilot::ProxyNode;
use lateen_registry::Subscription;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tonic::Status;

use crate::leader::Leadership;
use crate::metrics::RegistrationCounters;
use crate::objects::config_api;

/// The type of the reports on health.
pub(crate) const HEALTH_INFORMATION: &str = "type.googleapis.com/istio.v1.HealthInformation";

/// How long an entry outlives its proxy's connection, unless said otherwise (Istio's default).
pub(crate) const GRACE: Duration = Duration::from_secs(10);

const GROUP: &str = "istio.io/autoRegistrationGroup";
const CONTROLLER: &str = "istio.io/workloadController";
const CONNECTED_AT: &str = "istio.io/connectedAt";
const DISCONNECTED_AT: &str = "istio.io/disconnectedAt";
const HEALTH_CHECKED: &str = "proxy.istio.io/health-checks-enabled";

/// Makes and removes WorkloadEntries. Clones share.
#[derive(Clone)]
pub(crate) struct Registrations {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    /// This replica.
    replica: String,
    /// How long an entry outlives its proxy's connection.
    grace: Duration,
    /// What became of workloads.
    counters: RegistrationCounters,
    /// What is connected here, with how many streams.
    connected: Mutex<BTreeMap<ConfigKey, usize>>,
}

/// A registered workload; dropping it says that the proxy has gone.
pub(crate) struct Registration {
    shared: Arc<Shared>,
    entry: ConfigKey,
    connected_at: String,
    health: watch::Sender<Option<Health>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Health {
    /// What is wrong; nothing where all is well.
    error: Option<String>,
}

/// What a proxy says of itself that concerns registration.
struct Request<'a> {
    node: &'a ProxyNode,
    /// `AUTO_REGISTER_GROUP`
    group: String,
    /// `WORKLOAD_ENTRY`: an entry that somebody made for it.
    entry: String,
    /// Whether its agent probes the application.
    probes: bool,
}

impl Registrations {
    pub(crate) fn new(
        client: Client,
        replica: String,
        grace: Duration,
        counters: RegistrationCounters,
    ) -> Self {
        Self { shared: Arc::new(Shared { client, replica, grace, counters, connected: Mutex::default() }) }
    }

    /// Registers a proxy that asks for it; nothing for any other.
    pub(crate) async fn register(
        &self,
        node: &ProxyNode,
        metadata: &Map<String, Value>,
        snapshot: &Snapshot,
    ) -> Result<Option<Registration>, Status> {
        let text = |key: &str| metadata.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let request = Request {
            node,
            group: text("AUTO_REGISTER_GROUP"),
            entry: text("WORKLOAD_ENTRY"),
            probes: metadata.get("PROXY_CONFIG").is_some_and(|config| config["readinessProbe"].is_object()),
        };
        let name = match (request.group.as_str(), request.entry.as_str()) {
            ("", "") => return Ok(None),
            ("", name) => name.to_owned(),
            (group, _) => entry_name(group, node)?,
        };
        let entry = ConfigKey { namespace: node.namespace.clone(), name };
        let connected_at = Timestamp::now().to_string();
        if !request.group.is_empty() {
            let group = ConfigKey { namespace: node.namespace.clone(), name: request.group.clone() };
            let Some(group) = snapshot.configs().workload_groups.get(&group) else {
                self.shared.counters.errors.inc();
                return Err(Status::failed_precondition(format!(
                    "there is no WorkloadGroup {}/{}; create it before its workloads connect",
                    node.namespace, request.group
                )));
            };
            let counters = &self.shared.counters;
            check_account(group, node).inspect_err(|_| _ = counters.errors.inc())?;
            let put = self.shared.put(&entry, group, &request, &connected_at).await;
            put.inspect_err(|_| _ = counters.errors.inc())
                .map_err(|error| Status::unavailable(format!("the workload is not registered: {error}")))?;
        }
        *self.shared.connected.lock().entry(entry.clone()).or_default() += 1;
        let (health, reports) = watch::channel(None);
        tokio::spawn(Arc::clone(&self.shared).write_health(entry.clone(), reports));
        let connected_at = if request.group.is_empty() { String::new() } else { connected_at };
        Ok(Some(Registration { shared: Arc::clone(&self.shared), entry, connected_at, health }))
    }

    /// Sweeps now and then, until the drain begins.
    pub(crate) async fn tidy(
        self,
        mut snapshots: Subscription,
        root_namespace: String,
        leadership: Leadership,
        drain: drain::Watch,
    ) {
        let mut rounds = tokio::time::interval(self.shared.grace);
        rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut latest, mut first) = (None, true);
        loop {
            tokio::select! {
                _ = rounds.tick() => {}
                () = drain.signaled() => return,
            }
            if let Some((snapshot, _)) = snapshots.try_next() {
                latest = Some(snapshot);
            }
            let Some(snapshot) = &latest else { continue };
            // Proxies that come back after a restart of ours have one round to do so.
            if !std::mem::take(&mut first) {
                self.sweep(snapshot, &replicas(snapshot, &root_namespace), leadership.leads()).await;
            }
        }
    }

    /// Looks for entries whose proxies have gone without anybody noticing: those of this replica from before a restart,
    /// and, with `leads`, those of replicas that are no more. To be called now and then.
    pub(crate) async fn sweep(&self, snapshot: &Snapshot, live: &BTreeSet<String>, leads: bool) {
        let now = Timestamp::now();
        for config in snapshot.configs().workload_entries.values() {
            let annotation = |name: &str| config.meta.annotations.get(name).map(String::as_str);
            if annotation(GROUP).is_none() || self.shared.connected.lock().contains_key(&config.key()) {
                continue;
            }
            let owner = annotation(CONTROLLER).unwrap_or_default();
            // A replica that is no Pod has a name that none could have; whether it lives is not known here.
            let dead = !owner.contains('_') && !live.contains(owner);
            let ours = owner == self.shared.replica || leads && dead;
            let result = match annotation(DISCONNECTED_AT) {
                Some(since) if ours && is_older(since, now, self.shared.grace) => {
                    self.shared.remove(&config.key()).await
                }
                None if ours
                    && annotation(CONNECTED_AT).is_some_and(|at| is_older(at, now, self.shared.grace)) =>
                {
                    self.shared.leave(&config.key(), annotation(CONNECTED_AT).unwrap_or_default()).await
                }
                _ => Ok(()),
            };
            if let Err(error) = result {
                tracing::warn!(entry = ?config.key(), "a WorkloadEntry is not cleaned up, and is tried again: {error}");
            }
        }
    }
}

impl Registration {
    /// Takes a report on the application's health.
    pub(crate) fn report(&self, error: Option<&str>) {
        self.health.send_replace(Some(Health { error: error.map(str::to_owned) }));
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let (shared, entry) = (Arc::clone(&self.shared), self.entry.clone());
        {
            let mut connected = shared.connected.lock();
            let streams = connected.get(&entry).copied().unwrap_or_default();
            if streams > 1 {
                connected.insert(entry, streams - 1);
                return;
            }
            connected.remove(&entry);
        }
        if self.connected_at.is_empty() {
            return;
        }
        let connected_at = std::mem::take(&mut self.connected_at);
        // The process may end meanwhile: then the sweep of a later one finds the entry.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            let result = async {
                shared.leave(&entry, &connected_at).await?;
                tokio::time::sleep(shared.grace).await;
                if shared.connected.lock().contains_key(&entry) {
                    return Ok(());
                }
                shared.remove(&entry).await
            };
            if let Err(error) = result.await {
                tracing::warn!(?entry, "a WorkloadEntry is not cleaned up yet: {error}");
            }
        });
    }
}

impl Shared {
    fn entries(&self, namespace: &str) -> kube::Result<Api<DynamicObject>> {
        let api = config_api(&self.client, ConfigKind::WorkloadEntry, namespace);
        api.ok_or_else(|| kube::Error::Service("WorkloadEntry has no definition".into()))
    }

    /// Makes the entry, or takes the one that is there over.
    async fn put(
        &self,
        entry: &ConfigKey,
        group: &Config<WorkloadGroup>,
        request: &Request<'_>,
        connected_at: &str,
    ) -> kube::Result<()> {
        let api = self.entries(&entry.namespace)?;
        let ours = json!({CONTROLLER: self.replica, CONNECTED_AT: connected_at, DISCONNECTED_AT: null});
        let take_over = Patch::Merge(json!({"metadata": {"annotations": ours}}));
        match api.patch(&entry.name, &PatchParams::default(), &take_over).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            other => return other.map(|_| _ = self.counters.updates.inc()),
        }
        let mut object = entry_object(entry, group, request);
        object["metadata"]["annotations"][CONTROLLER] = json!(self.replica);
        object["metadata"]["annotations"][CONNECTED_AT] = json!(connected_at);
        if let Some(groups) = config_api(&self.client, ConfigKind::WorkloadGroup, &entry.namespace)
            && let Some(uid) = groups.get_opt(&group.meta.name).await?.and_then(|group| group.uid())
        {
            object["metadata"]["ownerReferences"] = json!([{
                "apiVersion": "networking.istio.io/v1", "kind": "WorkloadGroup",
                "name": group.meta.name, "uid": uid, "controller": true,
            }]);
        }
        let object: DynamicObject = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
        match api.create(&PostParams::default(), &object).await {
            // Another replica was quicker.
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let taken = api.patch(&entry.name, &PatchParams::default(), &take_over).await;
                taken.map(|_| _ = self.counters.updates.inc())
            }
            other => other.map(|_| _ = self.counters.successes.inc()),
        }
    }

    /// Notes that the proxy of this connection has gone, unless it is connected elsewhere by now.
    async fn leave(&self, entry: &ConfigKey, connected_at: &str) -> kube::Result<()> {
        let api = self.entries(&entry.namespace)?;
        let Some(object) = api.get_opt(&entry.name).await? else { return Ok(()) };
        if object.annotations().get(CONNECTED_AT).map(String::as_str) != Some(connected_at) {
            return Ok(());
        }
        let gone = json!({"metadata": {
            "resourceVersion": object.resource_version(),
            "annotations": {DISCONNECTED_AT: Timestamp::now().to_string()},
        }});
        match api.patch(&entry.name, &PatchParams::default(), &Patch::Merge(gone)).await {
            // Changed meanwhile: whoever did it knows more, or the sweep comes back to it.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            other => other.map(|_| _ = self.counters.unregistered.inc()),
        }
    }

    /// Removes an entry that nobody came back for.
    async fn remove(&self, entry: &ConfigKey) -> kube::Result<()> {
        let api = self.entries(&entry.namespace)?;
        let Some(object) = api.get_opt(&entry.name).await? else { return Ok(()) };
        let since = object.annotations().get(DISCONNECTED_AT);
        if !since.is_some_and(|since| is_older(since, Timestamp::now(), self.grace)) {
            return Ok(());
        }
        let preconditions = Preconditions { resource_version: object.resource_version(), uid: object.uid() };
        let unchanged = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match api.delete(&entry.name, &unchanged).await {
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => {
                self.counters.deletes.inc();
                tracing::info!(?entry, "a workload did not come back; its WorkloadEntry is removed");
                Ok(())
            }
        }
    }

    /// Writes the latest report into the status, until the proxy has gone.
    async fn write_health(self: Arc<Self>, entry: ConfigKey, mut reports: watch::Receiver<Option<Health>>) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        while reports.changed().await.is_ok() {
            loop {
                let Some(health) = reports.borrow_and_update().clone() else { break };
                match self.put_health(&entry, &health).await {
                    Ok(()) => break backoff.reset(),
                    Err(error) => {
                        tracing::debug!(?entry, "health is not written, and is tried again: {error}");
                        tokio::time::sleep(backoff.next_delay()).await;
                        if reports.has_changed().is_err() {
                            return;
                        }
                    }
                }
            }
        }
    }

    async fn put_health(&self, entry: &ConfigKey, health: &Health) -> kube::Result<()> {
        let api = self.entries(&entry.namespace)?;
        let Some(mut object) = api.get_opt(&entry.name).await? else { return Ok(()) };
        let status = object.data.get("status").cloned().unwrap_or(Value::Null);
        let Some(status) = with_health(status, health, &Timestamp::now().to_string()) else { return Ok(()) };
        object.data["status"] = status;
        // The object's version goes along: other conditions that change meanwhile are not lost.
        match api.replace_status(&entry.name, &PostParams::default(), &object).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            other => other.map(drop),
        }
    }
}

/// The names of the Pods of the control plane's namespace: replicas are named like theirs.
fn replicas(snapshot: &Snapshot, root_namespace: &str) -> BTreeSet<String> {
    let pods = snapshot.workloads().filter(|workload| workload.key.namespace.as_str() == root_namespace);
    pods.map(|workload| workload.key.name.clone()).collect()
}

/// `GROUP-ADDRESS[-NETWORK]`, its end where it is too long for a name.
fn entry_name(group: &str, node: &ProxyNode) -> Result<String, Status> {
    let address = node.addresses.first().ok_or_else(|| {
        Status::invalid_argument("the proxy's node id has no IP address; it cannot be registered without one")
    })?;
    let mut name = format!("{group}-{}", address.to_string().replace(':', "-"));
    if !node.network.as_str().is_empty() {
        name = format!("{name}-{}", node.network);
    }
    let excess = name.len().saturating_sub(253);
    Ok(name.split_off(excess))
}

/// A proxy may only join a group of its own service account; its claim was checked against its token.
fn check_account(group: &Config<WorkloadGroup>, node: &ProxyNode) -> Result<(), Status> {
    let wanted = &group.spec.template.service_account;
    if wanted.is_empty() || *wanted == node.service_account {
        return Ok(());
    }
    Err(Status::permission_denied(format!(
        "workloads of group {}/{} run as service account {wanted:?}, and this one as {:?}",
        group.meta.namespace, group.meta.name, node.service_account
    )))
}

/// The entry of a workload: the group's template, and what the proxy knows better.
fn entry_object(entry: &ConfigKey, group: &Config<WorkloadGroup>, request: &Request<'_>) -> Value {
    let node = request.node;
    let mut spec: WorkloadEntry = group.spec.template.clone();
    spec.address = node.addresses.first().map(ToString::to_string).unwrap_or_default();
    let mut annotations = BTreeMap::from([(GROUP.to_owned(), group.meta.name.clone())]);
    if let Some(metadata) = &group.spec.metadata {
        spec.labels.extend(metadata.labels.clone());
        annotations.extend(metadata.annotations.clone());
    }
    spec.labels.extend(node.labels.clone());
    if !node.network.as_str().is_empty() {
        spec.network = node.network.to_string();
    }
    if !node.locality.is_empty() {
        let place = &node.locality;
        let levels = format!("{}/{}/{}", place.region, place.zone, place.subzone);
        spec.locality = levels.trim_end_matches('/').to_owned();
    }
    if request.probes || group.spec.probe.is_some() {
        annotations.insert(HEALTH_CHECKED.to_owned(), "true".to_owned());
    }
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "WorkloadEntry",
        "metadata": {
            "name": entry.name,
            "namespace": entry.namespace.as_str(),
            "labels": spec.labels,
            "annotations": annotations,
        },
        "spec": spec,
    })
}

fn is_older(time: &str, now: Timestamp, age: Duration) -> bool {
    // What is no time at all is as old as can be.
    let Ok(time) = time.parse::<Timestamp>() else { return true };
    u128::try_from((now.as_nanosecond() - time.as_nanosecond()).max(0)).unwrap_or_default() >= age.as_nanos()
}

/// The status with the condition `Healthy`; nothing where it says so already.
fn with_health(mut status: Value, health: &Health, now: &str) -> Option<Value> {
    let (word, message) = match &health.error {
        None => ("True", ""),
        Some(error) => ("False", error.as_str()),
    };
    if !status.is_object() {
        status = json!({});
    }
    let mut conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let old = conditions.iter().position(|condition| condition["type"] == "Healthy");
    let before = old.map(|index| conditions.remove(index)).unwrap_or_default();
    if before["status"] == word && before["message"].as_str().unwrap_or_default() == message {
        return None;
    }
    let since = match before["lastTransitionTime"].as_str() {
        Some(since) if before["status"] == word => since,
        _ => now,
    };
    conditions.push(json!({
        "type": "Healthy", "status": word, "message": message,
        "lastProbeTime": now, "lastTransitionTime": since,
    }));
    status["conditions"] = Value::Array(conditions);
    Some(status)
}

#[cfg(test)]
mod tests;
