//! The runner: Pods become processes.
//!
//! Every Pod of this node has a [`worker`], a task that owns the Pod's sandbox, volumes, containers, probes and status.
//! Workers act on what the API said last and go on while it is silent. The rest of this folder is what a worker needs:
//! pure functions ([`environment`], [`images`], [`mount_plan`], [`status`]) and effects ([`volumes`], [`logs`],
//! [`checks`]).

pub mod checks;
pub mod environment;
pub mod images;
pub mod logs;
pub mod mount_plan;
pub mod start;
pub mod status;
pub mod volumes;
pub mod worker;

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::cluster::{Difference, ObjectKey, Recorder, World};
use crate::reaper::Reaper;
use images::ImageMap;

/// A future that a trait object can return.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Gives Pods their addresses.
pub trait PodNetwork: Send + Sync {
    /// Connects the network namespace of process `pid` for the Pod named by `uid`.
    fn attach<'a>(&'a self, uid: &'a str, pid: i32) -> BoxFuture<'a, io::Result<IpAddr>>;
    /// Takes a Pod's connection away.
    fn detach<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, ()>;
    /// The node's address, as Pods see it.
    fn host_ip(&self) -> IpAddr;
}

/// What all workers share.
pub struct Context {
    /// The API.
    pub world: World,
    /// For sandboxes.
    pub reaper: Reaper,
    /// For addresses.
    pub network: Arc<dyn PodNetwork>,
    /// For Events.
    pub recorder: Recorder,
    /// From images to programs.
    pub images: ImageMap,
    /// Folder of the Pods' files.
    pub pods: PathBuf,
    /// Folder of our own programs.
    pub programs: PathBuf,
    /// Further folders of programs.
    pub program_dirs: Vec<PathBuf>,
    /// See `--allow-host-path`.
    pub allowed_host_paths: Vec<PathBuf>,
    /// See `--endpoint-drain-ms`.
    pub endpoint_drain: Duration,
    /// The node's name.
    pub node: String,
    /// Ids that exist in our user namespace.
    pub ids: IdMap,
    /// Set to the time allowed when the node ends.
    pub ending: watch::Sender<Option<Duration>>,
}

/// What the API last said about a Pod.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The object.
    pub pod: Arc<Pod>,
    /// It does not exist any more.
    pub gone: bool,
}

/// The Pods of this node.
#[derive(Clone)]
pub struct Runner {
    context: Arc<Context>,
    pods: Arc<Mutex<Pods>>,
}

#[derive(Default)]
struct Pods {
    workers: HashMap<String, Handle>,
    /// Pods that a former node process had taken on are not run again.
    earlier_boots_done: bool,
}

struct Handle {
    key: ObjectKey,
    wanted: watch::Sender<Wanted>,
    shown: Arc<Shown>,
    task: tokio::task::JoinHandle<()>,
}

/// What a worker shows to others.
#[derive(Debug)]
pub struct Shown {
    /// Folder of the Pod's logs.
    pub logs: PathBuf,
    /// Each container's present run (its restarts).
    pub runs: Mutex<HashMap<String, i32>>,
    /// The runs that have not ended.
    pub running: Mutex<HashMap<String, i32>>,
    /// The Pod's network namespace, while it has one.
    pub network: Mutex<Option<OwnedFd>>,
    /// Counts lines of output.
    pub grown: watch::Sender<u64>,
    /// The Pod's last status, as JSON.
    pub status: Mutex<serde_json::Value>,
}

impl Runner {
    /// A runner without Pods.
    pub fn new(context: Context) -> Self {
        Self { context: Arc::new(context), pods: Arc::default() }
    }

    /// Takes a change of a Pod in.
    pub fn observe(&self, difference: &Difference<Pod>) {
        match &difference.new {
            Some(pod) => {
                let ours = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
                if ours == Some(&self.context.node) {
                    // A Pod of the same name under another identity: the former one is gone.
                    if let Some(old) = &difference.old
                        && old.metadata.uid != pod.metadata.uid
                    {
                        self.tell(old, true);
                    }
                    self.tell(pod, false);
                }
            }
            None => {
                if let Some(old) = &difference.old {
                    self.tell(old, true);
                }
            }
        }
    }

    fn tell(&self, pod: &Arc<Pod>, gone: bool) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        let mut pods = self.pods.lock();
        pods.workers.retain(|_, handle| !handle.task.is_finished());
        if let Some(handle) = pods.workers.get(&uid) {
            handle.wanted.send_replace(Wanted { pod: Arc::clone(pod), gone });
            return;
        }
        if gone {
            return;
        }
        let started = pod.status.as_ref().is_some_and(|status| status.start_time.is_some());
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let over = matches!(phase, Some("Succeeded" | "Failed"));
        if pod.metadata.deletion_timestamp.is_some() {
            // Nothing of it runs here: what remains is the object.
            tokio::spawn(worker::delete_object(Arc::clone(&self.context), Arc::clone(pod)));
        } else if over {
            // Already decided.
        } else if started {
            tokio::spawn(worker::fail_earlier(Arc::clone(&self.context), Arc::clone(pod)));
        } else if self.context.ending.borrow().is_none() {
            let handle = worker::spawn(Arc::clone(&self.context), Arc::clone(pod));
            pods.workers.insert(uid, handle);
        }
    }

    /// Removes files of Pods that are no more; to be called once the Pods have been listed.
    pub fn synced(&self) {
        let mut pods = self.pods.lock();
        if std::mem::replace(&mut pods.earlier_boots_done, true) {
            return;
        }
        let alive: Vec<PathBuf> = pods
            .workers
            .values()
            .filter_map(|handle| handle.shown.logs.parent().map(PathBuf::from))
            .collect();
        drop(pods);
        for entry in std::fs::read_dir(&self.context.pods).into_iter().flatten().flatten() {
            if !alive.contains(&entry.path()) {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }

    /// Stops all Pods in order and waits for them, at most `limit`.
    pub async fn shut_down(&self, limit: Duration) {
        self.context.ending.send_replace(Some(limit));
        let workers: Vec<Handle> = std::mem::take(&mut self.pods.lock().workers).into_values().collect();
        let all = futures::future::join_all(workers.into_iter().map(|handle| handle.task));
        let _ = tokio::time::timeout(limit + Duration::from_secs(1), all).await;
    }

    /// A running Pod by name.
    pub fn find(&self, key: &ObjectKey) -> Option<Arc<Shown>> {
        let pods = self.pods.lock();
        let found = pods.workers.values().filter(|handle| handle.key == *key);
        found.max_by_key(|handle| !handle.wanted.borrow().gone).map(|handle| Arc::clone(&handle.shown))
    }

    /// All running Pods with their status.
    pub fn list(&self) -> serde_json::Value {
        let pods = self.pods.lock();
        let entry = |handle: &Handle| {
            serde_json::json!({
                "namespace": handle.key.namespace,
                "name": handle.key.name,
                "uid": handle.wanted.borrow().pod.metadata.uid,
                "status": *handle.shown.status.lock(),
            })
        };
        pods.workers.values().map(entry).collect()
    }
}

/// A Pod's references, answered from the caches.
pub struct CachedSources<'a> {
    world: &'a World,
    namespace: &'a str,
}

impl<'a> CachedSources<'a> {
    /// For the Pods of `namespace`.
    pub fn new(world: &'a World, namespace: &'a str) -> Self {
        Self { world, namespace }
    }
}

impl environment::Sources for CachedSources<'_> {
    fn config_map(&self, name: &str) -> Option<Arc<ConfigMap>> {
        self.world.config_maps.get(&ObjectKey::new(self.namespace, name))
    }
    fn secret(&self, name: &str) -> Option<Arc<Secret>> {
        self.world.secrets.get(&ObjectKey::new(self.namespace, name))
    }
    fn services(&self) -> Vec<Arc<Service>> {
        self.world.services.in_namespace(self.namespace)
    }
}

/// Which user ids exist here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IdMap(Vec<(u32, u32)>);

impl IdMap {
    /// Of this process.
    pub fn own() -> Self {
        Self::parse(&std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default())
    }

    /// From the text of `/proc/PID/uid_map`.
    pub fn parse(text: &str) -> Self {
        let range = |line: &str| {
            let mut numbers = line.split_whitespace().map(str::parse::<u32>);
            let first = numbers.next()?.ok()?;
            let _outside = numbers.next()?;
            Some((first, numbers.next()?.ok()?))
        };
        Self(text.lines().filter_map(range).collect())
    }

    /// Whether the id exists.
    pub fn contains(&self, id: u32) -> bool {
        self.0.iter().any(|(first, count)| id.checked_sub(*first).is_some_and(|offset| offset < *count))
    }
}

/// A Pod's host name.
pub fn hostname(pod: &Pod) -> String {
    let own = pod.spec.as_ref().and_then(|spec| spec.hostname.clone()).filter(|name| !name.is_empty());
    let mut name = own.or_else(|| pod.metadata.name.clone()).unwrap_or_default();
    name.truncate(63);
    name.trim_end_matches(['-', '.']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_ids() {
        let check = |map: &str, id: u32, expected: bool| {
            assert_eq!(IdMap::parse(map).contains(id), expected, "{map:?} {id}");
        };
        check("0 1000 1\n", 0, true);
        check("0 1000 1\n", 1337, false);
        check("0 0 4294967295\n", 1337, true);
        check("0 1000 1\n1 100000 65536\n", 1337, true);
        check("", 0, false);
    }
}
