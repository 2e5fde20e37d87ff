//! Feeds the plans from the caches and carries their actions out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Resource};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::queue::Queue;
use super::{controller_of, deployment, endpoint_slice, labels_contain, replica_set};
use crate::cluster::{Change, ObjectKey, World, status_code};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Deployment(ObjectKey),
    ReplicaSet(ObjectKey),
    Endpoints(ObjectKey),
    Bind(ObjectKey),
}

/// The running controllers.
#[derive(Clone)]
pub struct Controllers {
    world: World,
    queue: Queue<Key>,
    node: Arc<str>,
    /// Writes that the caches do not show yet, by ReplicaSet.
    expected: Arc<Mutex<HashMap<String, Recent>>>,
}

/// Our latest writes for a ReplicaSet, with their time: a write that never shows up is forgotten.
#[derive(Debug, Default)]
struct Recent {
    created: Vec<(String, Instant)>,
    deleted: Vec<(String, Instant)>,
}

const FORGET: Duration = Duration::from_secs(30);
const ZONE: &str = "local";

impl Controllers {
    /// Starts the workers. [`Self::observe`] must be told every change.
    pub fn start(world: World, node: &str) -> Self {
        let controllers =
            Self { world, queue: Queue::default(), node: Arc::from(node), expected: Arc::default() };
        let worker = controllers.clone();
        tokio::spawn(async move {
            // What is decided before everything is listed would be decided on half the facts.
            worker.world.synced().await;
            let queue = worker.queue.clone();
            queue
                .run(8, move |key| {
                    let worker = worker.clone();
                    async move { worker.reconcile(&key).await }
                })
                .await;
        });
        controllers
    }

    /// Queues what a change concerns.
    pub fn observe(&self, change: &Change) {
        match change {
            Change::Deployment(difference) => self.queue.add(Key::Deployment(difference.key.clone())),
            Change::ReplicaSet(difference) => {
                self.queue.add(Key::ReplicaSet(difference.key.clone()));
                for set in [&difference.old, &difference.new].into_iter().flatten() {
                    if let Some(owner) = controller_of(&set.metadata) {
                        let key = ObjectKey::new(difference.key.namespace.clone(), owner.name.clone());
                        self.queue.add(Key::Deployment(key));
                    }
                }
            }
            Change::Service(difference) => self.queue.add(Key::Endpoints(difference.key.clone())),
            Change::EndpointSlice(difference) => {
                for slice in [&difference.old, &difference.new].into_iter().flatten() {
                    let labels = slice.metadata.labels.as_ref();
                    if let Some(service) = labels.and_then(|labels| labels.get(endpoint_slice::SERVICE_NAME))
                    {
                        let key = ObjectKey::new(difference.key.namespace.clone(), service.clone());
                        self.queue.add(Key::Endpoints(key));
                    }
                }
            }
            Change::Pod(difference) => {
                for pod in [&difference.old, &difference.new].into_iter().flatten() {
                    self.pod_changed(&difference.key, pod);
                }
                let unbound = |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_none());
                if difference.new.as_deref().is_some_and(unbound) {
                    self.queue.add(Key::Bind(difference.key.clone()));
                }
            }
            Change::Synced => {}
        }
    }

    fn pod_changed(&self, key: &ObjectKey, pod: &Pod) {
        // Endpoints first: traffic waits for them.
        for service in self.world.services.in_namespace(&key.namespace) {
            let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            let selects = |selector| labels_contain(pod.metadata.labels.as_ref(), selector);
            if selector.is_some_and(selects) {
                self.queue.add(Key::Endpoints(ObjectKey::of(&service.metadata)));
            }
        }
        match controller_of(&pod.metadata) {
            Some(owner) if owner.kind == "ReplicaSet" => {
                let key = ObjectKey::new(key.namespace.clone(), owner.name.clone());
                self.queue.add(Key::ReplicaSet(key));
            }
            Some(_) => {}
            None => {
                for set in self.world.replica_sets.in_namespace(&key.namespace) {
                    let selector = Some(&set.spec.selector);
                    let labels = pod.metadata.labels.as_ref();
                    if selector.is_some_and(|selector| super::selector_matches(selector, labels)) {
                        self.queue.add(Key::ReplicaSet(ObjectKey::of(&set.metadata)));
                    }
                }
            }
        }
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, kube::Error> {
        match key {
            Key::Deployment(key) => self.deployment(key).await,
            Key::ReplicaSet(key) => self.replica_set(key).await,
            Key::Endpoints(key) => self.endpoints(key).await.map(|()| None),
            Key::Bind(key) => self.bind(key).await.map(|()| None),
        }
    }

    fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.world.client.clone(), namespace)
    }

    async fn deployment(&self, key: &ObjectKey) -> Result<Option<Duration>, kube::Error> {
        let Some(object) = self.world.deployments.get(key) else { return Ok(None) };
        let sets = self.world.replica_sets.in_namespace(&key.namespace);
        let plan = deployment::plan(&object, &sets, Timestamp::now());
        let sets: Api<ReplicaSet> = self.api(&key.namespace);
        let deployments: Api<Deployment> = self.api(&key.namespace);
        for action in plan.actions {
            match action {
                deployment::Action::Create(set) => {
                    unless(409, sets.create(&PostParams::default(), &set).await)?;
                }
                deployment::Action::Scale { name, replicas } => {
                    merge(&sets, &name, &json!({"spec": {"replicas": replicas}})).await?;
                }
                deployment::Action::Annotate { name, revision } => {
                    merge(&sets, &name, &annotation(revision)).await?;
                }
                deployment::Action::Delete { name } => {
                    unless(404, sets.delete(&name, &DeleteParams::background()).await)?;
                }
                deployment::Action::Revision(revision) => {
                    merge(&deployments, &key.name, &annotation(revision)).await?;
                }
            }
        }
        if object.status.as_ref() != Some(&plan.status) {
            write_status(&deployments, &key.name, &plan.status, object.status.as_ref()).await?;
        }
        Ok(plan.again)
    }

    async fn replica_set(&self, key: &ObjectKey) -> Result<Option<Duration>, kube::Error> {
        let Some(set) = self.world.replica_sets.get(key) else { return Ok(None) };
        let uid = set.metadata.uid.clone().unwrap_or_default();
        let pods = self.world.pods.in_namespace(&key.namespace);
        let expected = self.expectations(&uid, &pods);
        let plan = replica_set::plan(&set, &pods, &expected, Timestamp::now());
        let api: Api<Pod> = self.api(&key.namespace);
        for action in plan.actions {
            match action {
                replica_set::Action::Create(count) => self.create_pods(&api, &set, &uid, count).await?,
                replica_set::Action::Delete { name, uid: pod } => {
                    let conditions = Preconditions { uid: Some(pod.clone()), resource_version: None };
                    let parameters = DeleteParams::default().preconditions(conditions);
                    unless(404, api.delete(&name, &parameters).await)?;
                    let mut expected = self.expected.lock();
                    expected.entry(uid.clone()).or_default().deleted.push((pod, Instant::now()));
                }
                replica_set::Action::Adopt { name, uid: pod } => {
                    let owner = super::controller_reference(&*set);
                    let patch = json!({"metadata": {"uid": pod, "ownerReferences": [owner]}});
                    merge(&api, &name, &patch).await?;
                }
                replica_set::Action::Release { name, uid: pod } => {
                    merge(&api, &name, &json!({"metadata": {"uid": pod, "ownerReferences": null}})).await?;
                }
            }
        }
        if set.status.as_ref() != Some(&plan.status) {
            let sets: Api<ReplicaSet> = self.api(&key.namespace);
            write_status(&sets, &key.name, &plan.status, set.status.as_ref()).await?;
        }
        Ok(plan.again)
    }

    async fn create_pods(
        &self,
        api: &Api<Pod>,
        set: &ReplicaSet,
        uid: &str,
        count: usize,
    ) -> Result<(), kube::Error> {
        let created = (0..count).map(|_| async {
            let pod = api.create(&PostParams::default(), &replica_set::new_pod(set, &self.node)).await?;
            let pod = pod.metadata.uid.unwrap_or_default();
            self.expected.lock().entry(uid.to_owned()).or_default().created.push((pod, Instant::now()));
            Ok(())
        });
        futures::future::try_join_all(created).await.map(|_: Vec<()>| ())
    }

    /// Our writes that the cache does not show yet.
    fn expectations(&self, uid: &str, pods: &[Arc<Pod>]) -> replica_set::Expected {
        let mut all = self.expected.lock();
        let Some(recent) = all.get_mut(uid) else { return replica_set::Expected::default() };
        let seen = |uid: &str| pods.iter().find(|pod| pod.metadata.uid.as_deref() == Some(uid));
        recent.created.retain(|(uid, at)| at.elapsed() < FORGET && seen(uid).is_none());
        recent.deleted.retain(|(uid, at)| {
            at.elapsed() < FORGET && seen(uid).is_some_and(|pod| pod.metadata.deletion_timestamp.is_none())
        });
        let names = |list: &[(String, Instant)]| list.iter().map(|(uid, _)| uid.clone()).collect();
        replica_set::Expected { created: names(&recent.created), deleted: names(&recent.deleted) }
    }

    async fn endpoints(&self, key: &ObjectKey) -> Result<(), kube::Error> {
        let Some(service) = self.world.services.get(key) else { return Ok(()) };
        let pods = self.world.pods.in_namespace(&key.namespace);
        let slices = self.world.slices.in_namespace(&key.namespace);
        let api: Api<EndpointSlice> = self.api(&key.namespace);
        for action in endpoint_slice::plan(&service, &pods, &slices, ZONE) {
            match action {
                endpoint_slice::Action::Create(slice) => {
                    unless(409, api.create(&PostParams::default(), &slice).await)?;
                }
                endpoint_slice::Action::Update(slice) => {
                    let name = slice.metadata.name.clone().unwrap_or_default();
                    api.replace(&name, &PostParams::default(), &slice).await?;
                }
                endpoint_slice::Action::Delete(name) => {
                    unless(404, api.delete(&name, &DeleteParams::default()).await)?;
                }
            }
        }
        Ok(())
    }

    /// Gives a Pod without a node ours.
    async fn bind(&self, key: &ObjectKey) -> Result<(), kube::Error> {
        let Some(pod) = self.world.pods.get(key) else { return Ok(()) };
        let bound = pod.spec.as_ref().is_none_or(|spec| spec.node_name.is_some());
        if bound || pod.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let api: Api<Pod> = self.api(&key.namespace);
        let binding = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": key.name, "namespace": key.namespace, "uid": pod.metadata.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": &*self.node},
        });
        let bound: Result<serde_json::Value, _> =
            api.create_subresource("binding", &key.name, &PostParams::default(), &binding).await;
        match bound {
            // A server without the subresource lets the field be set.
            Err(error) if matches!(status_code(&error), Some(404 | 405)) => {
                merge(&api, &key.name, &json!({"spec": {"nodeName": &*self.node}})).await
            }
            other => other.map(|_| ()),
        }
    }
}

fn annotation(revision: i64) -> serde_json::Value {
    json!({"metadata": {"annotations": {deployment::REVISION: revision.to_string()}}})
}

/// Takes one HTTP status for success: somebody was faster.
fn unless<T>(code: u16, result: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(error) if status_code(&error) != Some(code) => Err(error),
        _ => Ok(()),
    }
}

async fn merge<K>(api: &Api<K>, name: &str, patch: &serde_json::Value) -> Result<(), kube::Error>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    unless(404, api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await)
}

/// Replaces a status by a merge patch: fields that only the old one has are removed.
async fn write_status<K, S>(api: &Api<K>, name: &str, new: &S, old: Option<&S>) -> Result<(), kube::Error>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
    S: Serialize,
{
    let patch = json!({"status": status_patch(new, old)});
    unless(404, api.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch)).await)
}

/// The merge patch from one status to another.
pub(crate) fn status_patch<S: Serialize>(new: &S, old: Option<&S>) -> serde_json::Value {
    let mut patch = serde_json::to_value(new).unwrap_or_default();
    if let (Some(patch), Some(Ok(serde_json::Value::Object(old)))) =
        (patch.as_object_mut(), old.map(serde_json::to_value))
    {
        for field in old.keys() {
            patch.entry(field.clone()).or_insert(serde_json::Value::Null);
        }
    }
    patch
}
