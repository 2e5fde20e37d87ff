//! Bringing secrets: over the stream of all discovery, from services of their own, from files.
//!
//! One task follows what contexts refer to. A source that is not referred to any more is let go; its secrets stay, so
//! that a listener which comes back finds them.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use lateen_dataplane::tls::SecretSource;
use lateen_envoy::TypeUrl;
use lateen_envoy::envoy::config::core::v3::Node;
use lateen_envoy::envoy::extensions::transport_sockets::tls::v3::Secret;
use lateen_envoy::envoy::service::discovery::v3::DiscoveryResponse;
use lateen_envoy::from_any;
use lateen_envoy::prost::Message;
use lateen_xds::Protocol;
use lateen_xds::client::{self, ClientOptions, Handle, Handler, RejectedResource, Update};
use parking_lot::Mutex;

use super::Secrets;
use crate::manager::{Manager, SharedManager};
use crate::stats::SecretStats;
use crate::xds::channel;

/// How often files are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Follows what contexts refer to, for as long as the manager lives. `ads` is the stream of all discovery.
pub async fn follow(manager: Weak<Mutex<Manager>>, ads: Option<Handle>, node: Node) {
    let Some(mut changed) = manager.upgrade().map(|manager| manager.lock().state().secrets.changed()) else {
        return;
    };
    let mut follower =
        Follower { ads, node, services: HashMap::new(), held: HashMap::new(), stamps: HashMap::new() };
    loop {
        let Some(strong) = manager.upgrade() else { return };
        follower.subscribe(&strong);
        let has_files = follower.look_at_files(&strong);
        drop(strong);
        let pause = async {
            match has_files {
                true => tokio::time::sleep(LOOK).await,
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = changed.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = pause => {}
        }
    }
}

/// When a file was changed last, and which it is.
type Stamp = Option<(SystemTime, u64, u64)>;

struct Follower {
    ads: Option<Handle>,
    node: Node,
    services: HashMap<SecretSource, Handle>,
    held: HashMap<SecretSource, BTreeSet<String>>,
    stamps: HashMap<SecretSource, Vec<(PathBuf, Stamp)>>,
}

impl Follower {
    /// Asks for the secrets that are wanted now.
    fn subscribe(&mut self, manager: &SharedManager) {
        let locked = manager.lock();
        let state = Arc::clone(locked.state());
        let mut wanted: HashMap<SecretSource, BTreeSet<String>> = HashMap::new();
        for reference in state.secrets.references() {
            wanted.entry(reference.source).or_default().insert(reference.name.to_string());
        }
        for source in self.held.keys().cloned().collect::<Vec<_>>() {
            wanted.entry(source).or_default();
        }
        for (source, names) in wanted {
            let handle = match &source {
                SecretSource::Ads => self.ads.clone(),
                SecretSource::Service { cluster, delta } => match self.services.get(&source) {
                    Some(handle) => Some(handle.clone()),
                    None => self.start(manager, &locked, &source, cluster, *delta),
                },
                SecretSource::Static | SecretSource::Path(_) => None,
            };
            let Some(handle) = handle else { continue };
            let held = self.held.entry(source).or_default();
            let added: Vec<String> = names.difference(held).cloned().collect();
            let removed: Vec<String> = held.difference(&names).cloned().collect();
            for name in &added {
                let counters = SecretStats::new(&state.stats, name);
                state.stats.common().increment(counters.update_attempt);
            }
            if !added.is_empty() {
                handle.subscribe(Secret::TYPE_URL, added);
            }
            if !removed.is_empty() {
                handle.unsubscribe(Secret::TYPE_URL, removed);
            }
            *held = names;
        }
    }

    fn start(
        &mut self,
        manager: &SharedManager,
        locked: &Manager,
        source: &SecretSource,
        cluster: &str,
        delta: bool,
    ) -> Option<Handle> {
        let channel = channel::to_cluster(locked, cluster)
            .inspect_err(|reason| tracing::error!(%cluster, %reason, "secrets cannot be asked for"))
            .ok()?;
        let protocol = if delta { Protocol::Delta } else { Protocol::Sotw };
        let options = ClientOptions {
            node: self.node.clone(),
            protocol,
            path: lateen_xds::service_path(Secret::TYPE_URL, protocol),
            ..ClientOptions::default()
        };
        let consumer = Consumer { manager: Arc::downgrade(manager), source: source.clone() };
        let handle = client::start(channel, options, consumer);
        self.services.insert(source.clone(), handle.clone());
        Some(handle)
    }

    /// Reads files that are new or changed. Whether there are any.
    fn look_at_files(&mut self, manager: &SharedManager) -> bool {
        let mut manager = manager.lock();
        let state = Arc::clone(manager.state());
        let sources: BTreeSet<PathBuf> = state
            .secrets
            .references()
            .into_iter()
            .filter_map(|reference| match reference.source {
                SecretSource::Path(path) => Some(path),
                _ => None,
            })
            .collect();
        let mut any = !sources.is_empty();
        for path in sources {
            let source = SecretSource::Path(path.clone());
            if self.has_changed(&state.secrets, &source, Some(&path)) {
                read_file(&mut manager, &source, &path);
                self.remember(&state.secrets, &source, Some(&path));
            }
        }
        // Secrets that came by other ways may name files, too.
        for source in state.secrets.sources_with_files() {
            any = true;
            if self.stamps.contains_key(&source) && self.has_changed(&state.secrets, &source, None) {
                state.secrets.reread(&state.stats, &source);
            }
            self.remember(&state.secrets, &source, None);
        }
        any
    }

    fn has_changed(&self, secrets: &Secrets, source: &SecretSource, path: Option<&PathBuf>) -> bool {
        self.stamps.get(source) != Some(&stamps(secrets, source, path))
    }

    fn remember(&mut self, secrets: &Secrets, source: &SecretSource, path: Option<&PathBuf>) {
        self.stamps.insert(source.clone(), stamps(secrets, source, path));
    }
}

fn stamps(secrets: &Secrets, source: &SecretSource, path: Option<&PathBuf>) -> Vec<(PathBuf, Stamp)> {
    use std::os::unix::fs::MetadataExt;
    let stamp = |path: PathBuf| {
        let metadata = std::fs::metadata(&path).ok();
        let stamp =
            metadata.and_then(|metadata| Some((metadata.modified().ok()?, metadata.len(), metadata.ino())));
        (path, stamp)
    };
    path.cloned().into_iter().chain(secrets.files(source)).map(stamp).collect()
}

/// A file with a discovery response, as Envoy reads it.
fn read_file(manager: &mut Manager, source: &SecretSource, path: &PathBuf) {
    let parsed = std::fs::read_to_string(path).map_err(|error| error.to_string()).and_then(|text| {
        let value = crate::bootstrap::parse_value(&text).map_err(|error| error.to_string())?;
        lateen_envoy::json::from_json::<DiscoveryResponse>(&value).map_err(|error| error.to_string())
    });
    let response = match parsed {
        Ok(response) => response,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "cannot read secrets from a file");
            return;
        }
    };
    for any in &response.resources {
        let applied = from_any::<Secret>(any)
            .map_err(|error| error.to_string())
            .and_then(|secret| manager.apply_secret(source, secret).map_err(|error| error.to_string()));
        if let Err(error) = applied {
            tracing::warn!(path = %path.display(), %error, "a secret was refused");
        }
    }
}

/// Takes secrets from a service of their own.
struct Consumer {
    manager: Weak<Mutex<Manager>>,
    source: SecretSource,
}

impl Handler for Consumer {
    fn update(&mut self, update: Update, _: &Handle) -> Vec<RejectedResource> {
        let Some(manager) = self.manager.upgrade() else { return Vec::new() };
        let mut manager = manager.lock();
        let mut rejected = Vec::new();
        for resource in update.resources.iter().filter(|_| &*update.type_url == Secret::TYPE_URL) {
            let applied =
                Secret::decode(resource.body.clone()).map_err(|error| error.to_string()).and_then(|secret| {
                    manager.apply_secret(&self.source, secret).map_err(|error| error.to_string())
                });
            if let Err(reason) = applied {
                tracing::warn!(resource = %resource.name, %reason, "a secret was refused");
                rejected.push(RejectedResource { name: resource.name.clone(), reason });
            }
        }
        rejected
    }

    fn connection(&mut self, state: client::Connection<'_>) {
        if let client::Connection::Down { reason } = state {
            tracing::warn!(%reason, "no connection to the service of secrets; those that came serve on");
        }
    }
}
