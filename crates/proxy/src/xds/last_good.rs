//! The last good configuration, on disk: what serves after a restart for as long as no control plane answers.
//!
//! A folder holds a file a type: the accepted resources with their versions, as one `DeltaDiscoveryResponse`. Files are
//! replaced as a whole, by their owner only, off the main thread, and not more often than every few seconds. They count
//! only for the node that wrote them. What holds a private key is left out: keys are never written to disk.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lateen_envoy::envoy::config::cluster::v3::Cluster;
use lateen_envoy::envoy::config::endpoint::v3::ClusterLoadAssignment;
use lateen_envoy::envoy::config::listener::v3::Listener;
use lateen_envoy::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use lateen_envoy::envoy::service::discovery::v3 as discovery;
use lateen_envoy::prost::Message;
use lateen_envoy::{Any, TypeUrl};
use lateen_xds::client::{RejectedResource, Resource, Update};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::apply::KINDS;
use crate::manager::{Manager, SharedManager};

/// How long changes are gathered before they are written.
const GATHER: Duration = Duration::from_secs(1);
/// The least time between two writings.
const PAUSE: Duration = Duration::from_secs(4);

/// What a file holds.
#[derive(Debug, Default)]
pub struct Kept {
    /// The version of the last response.
    pub version: String,
    /// The resources.
    pub resources: Vec<Resource>,
}

/// A folder, and what is known of the resources that serve.
#[derive(Debug)]
pub struct LastGood {
    folder: PathBuf,
    node: String,
    held: Mutex<Held>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Held {
    versions: HashMap<&'static str, BTreeMap<String, String>>,
    responses: HashMap<&'static str, String>,
    dirty: BTreeSet<&'static str>,
}

impl LastGood {
    /// The store of a node in this folder.
    pub fn new(folder: PathBuf, node: &str) -> Arc<Self> {
        Arc::new(Self { folder, node: node.to_owned(), held: Mutex::default(), changed: Notify::new() })
    }

    fn file(folder: &Path, kind: &str) -> PathBuf {
        let name = kind.rsplit('.').next().unwrap_or(kind);
        folder.join(format!("{name}.pb"))
    }

    /// What an earlier run left of a type.
    pub fn load(&self, kind: &str) -> Kept {
        let path = Self::file(&self.folder, kind);
        let Ok(bytes) = std::fs::read(&path) else { return Kept::default() };
        let response = match discovery::DeltaDiscoveryResponse::decode(&*bytes) {
            Ok(response) if response.type_url == kind && response.nonce == self.node => response,
            Ok(_) => return Kept::default(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the last good configuration cannot be read");
                return Kept::default();
            }
        };
        let resource = |resource: discovery::Resource| {
            let Any { type_url, value } = resource.resource.unwrap_or_default();
            Resource { name: resource.name, version: resource.version, type_url, body: value }
        };
        Kept {
            version: response.system_version_info,
            resources: response.resources.into_iter().map(resource).collect(),
        }
    }

    /// Notes what an update changed.
    pub fn note(&self, update: &Update, rejected: &[RejectedResource]) {
        let Some(kind) = KINDS.into_iter().find(|kind| **kind == *update.type_url) else { return };
        let mut held = self.held.lock();
        let versions = held.versions.entry(kind).or_default();
        for resource in &update.resources {
            // Of what was refused the version before is in force.
            if !rejected.iter().any(|rejected| rejected.name == resource.name) {
                versions.insert(resource.name.clone(), resource.version.clone());
            }
        }
        for name in &update.removed {
            versions.remove(name);
        }
        if rejected.is_empty() {
            held.responses.insert(kind, update.version.clone());
        }
        held.dirty.insert(kind);
        drop(held);
        self.changed.notify_one();
    }

    /// Notes what was loaded: it is kept until the control plane says otherwise.
    pub fn note_loaded(&self, kind: &'static str, kept: &Kept) {
        let mut held = self.held.lock();
        held.responses.insert(kind, kept.version.clone());
        let versions = kept.resources.iter().map(|one| (one.name.clone(), one.version.clone()));
        held.versions.entry(kind).or_default().extend(versions);
    }

    /// Writes what has changed. Slow: not for threads that serve.
    pub fn write(&self, manager: &SharedManager) {
        let files = self.encode(&manager.lock());
        if let Err(error) = write_all(&self.folder, &files) {
            tracing::warn!(folder = %self.folder.display(), %error, "the last good configuration is not kept");
        }
    }

    /// The files that have changed.
    fn encode(&self, manager: &Manager) -> Vec<(PathBuf, Vec<u8>)> {
        let mut held = self.held.lock();
        let dirty = std::mem::take(&mut held.dirty);
        dirty
            .into_iter()
            .map(|kind| (Self::file(&self.folder, kind), held.encode(kind, &self.node, manager)))
            .collect()
    }
}

impl Held {
    fn encode(&mut self, kind: &'static str, node: &str, manager: &Manager) -> Vec<u8> {
        let sources = &manager.sources;
        let wanted = match kind {
            ClusterLoadAssignment::TYPE_URL => Some(manager.wanted_endpoints()),
            RouteConfiguration::TYPE_URL | VirtualHost::TYPE_URL => Some(manager.wanted(kind)),
            _ => None,
        };
        let versions = self.versions.entry(kind).or_default();
        versions.retain(|name, _| wanted.as_ref().is_none_or(|wanted| wanted.contains(name)));
        let body = |name: &String| match kind {
            Cluster::TYPE_URL => sources.clusters.get(name).map(|source| source.bytes()),
            Listener::TYPE_URL => sources.listeners.get(name).map(|source| source.bytes()),
            // Virtual hosts on demand are kept by themselves.
            RouteConfiguration::TYPE_URL => {
                manager.demand.table(name).or_else(|| sources.routes.get(name)).map(|source| source.bytes())
            }
            VirtualHost::TYPE_URL => manager.demand.virtual_host(name).map(|source| source.bytes()),
            _ => sources.endpoints.get(name).map(|source| source.bytes()),
        };
        let resources = versions.iter().filter_map(|(name, version)| {
            let body = body(name).filter(|body| !has_private_key(body))?;
            let resource = Any { type_url: kind.to_owned(), value: bytes::Bytes::copy_from_slice(body) };
            Some(discovery::Resource {
                name: name.clone(),
                version: version.clone(),
                resource: Some(resource),
                ..Default::default()
            })
        });
        let response = discovery::DeltaDiscoveryResponse {
            type_url: kind.to_owned(),
            nonce: node.to_owned(),
            system_version_info: self.responses.get(kind).cloned().unwrap_or_default(),
            resources: resources.collect(),
            ..Default::default()
        };
        response.encode_to_vec()
    }
}

fn has_private_key(body: &[u8]) -> bool {
    const MARK: &[u8] = b"PRIVATE KEY-----";
    body.windows(MARK.len()).any(|window| window == MARK)
}

fn write_all(folder: &Path, files: &[(PathBuf, Vec<u8>)]) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    if !files.is_empty() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    for (path, bytes) in files {
        lateen_base::paths::write_atomically(path, bytes, 0o600)?;
    }
    Ok(())
}

/// Writes whenever something has changed, for as long as the runtime lives.
pub async fn keep(store: Arc<LastGood>, manager: SharedManager) {
    loop {
        store.changed.notified().await;
        tokio::time::sleep(GATHER).await;
        let (store, manager) = (Arc::clone(&store), SharedManager::clone(&manager));
        let _ = tokio::task::spawn_blocking(move || store.write(&manager)).await;
        tokio::time::sleep(PAUSE).await;
    }
}
