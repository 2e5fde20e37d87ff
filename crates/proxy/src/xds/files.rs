//! Configuration from files (`path_config_source`): read at the start, and whenever a file takes their place.
//!
//! As Envoy says of such files, they are to be replaced by moving another one there; a folder that is watched instead
//! (`watched_directory`) is one whose links are replaced, as Kubernetes does with mounted ConfigMaps.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Weak;

use lateen_envoy::envoy::config::core::v3::ConfigSource;
use lateen_envoy::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use lateen_envoy::envoy::service::discovery::v3::DiscoveryResponse;
use lateen_envoy::prost::Message;
use lateen_xds::client::Resource;
use lateen_xds::resource_name;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use parking_lot::Mutex;
use tokio::net::unix::pipe::Receiver;

use super::Origin;
use super::apply::{self, UpdateStats};
use crate::bootstrap;
use crate::lenient;
use crate::manager::Manager;

/// A file, and the folder whose changes count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    path: PathBuf,
    folder: PathBuf,
}

/// The file of a source, where it is one.
pub fn path(source: Option<&ConfigSource>) -> Option<File> {
    let (path, watched) = match source?.config_source_specifier.as_ref()? {
        ConfigSourceSpecifier::PathConfigSource(path) => {
            (PathBuf::from(&path.path), path.watched_directory.as_ref().map(|folder| folder.path.clone()))
        }
        #[allow(deprecated)]
        ConfigSourceSpecifier::Path(path) => (PathBuf::from(path), None),
        _ => return None,
    };
    let parent = || path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = watched.map_or_else(|| parent().to_path_buf(), PathBuf::from);
    Some(File { path, folder })
}

/// Reads a file: a `DiscoveryResponse` in YAML, JSON or, with the ending `.pb`, the binary form.
fn read(file: &File) -> Result<DiscoveryResponse, String> {
    let bytes = std::fs::read(&file.path).map_err(|error| error.to_string())?;
    if file.path.extension().is_some_and(|end| end == "pb") {
        return DiscoveryResponse::decode(&*bytes).map_err(|error| error.to_string());
    }
    let text = String::from_utf8(bytes).map_err(|error| error.to_string())?;
    let mut value = bootstrap::parse_value(&text).map_err(|error| error.to_string())?;
    // Dynamic configuration may be of a newer Envoy.
    let (response, unknown) = lenient::from_json(&mut value).map_err(|error| error.to_string())?;
    for path in unknown {
        tracing::warn!(file = %file.path.display(), %path, "this field is not known and has no effect");
    }
    Ok(response)
}

/// Follows a file for as long as the manager lives and `wanted` says so. `first` hears when it was read for the first
/// time, whatever the outcome.
pub async fn follow(
    manager: Weak<Mutex<Manager>>,
    kind: &'static str,
    file: File,
    updates: Option<UpdateStats>,
    first: impl FnOnce(),
    wanted: impl Fn() -> bool,
) {
    let events = watch(&file.folder)
        .inspect_err(|error| tracing::warn!(folder = %file.folder.display(), %error, "changes are not seen"))
        .ok();
    let mut held = BTreeSet::new();
    let mut last: Option<DiscoveryResponse> = None;
    let mut first = Some(first);
    loop {
        if let Some(updates) = &updates {
            updates.attempt(kind);
        }
        match read(&file) {
            Ok(response) if last.as_ref() == Some(&response) => {}
            Ok(response) => {
                let Some(manager) = manager.upgrade() else { return };
                let rejected = take(&manager, kind, &file, &response, &mut held);
                if response.resources.is_empty() {
                    manager.lock().note_empty(kind, &file, &response.version_info);
                }
                if let Some(updates) = &updates {
                    updates.applied(kind, &response.version_info, rejected, !held.is_empty(), false);
                }
                last = Some(response);
            }
            Err(reason) => {
                tracing::warn!(file = %file.path.display(), %reason, "the file is not taken");
                if let Some(updates) = &updates {
                    updates.failure();
                }
            }
        }
        if let Some(first) = first.take() {
            first();
        }
        let Some(events) = &events else { return std::future::pending().await };
        if events.readable().await.is_err() {
            return;
        }
        // That something has happened is enough.
        while matches!(events.try_read(&mut [0; 4096]), Ok(1..)) {}
        if !wanted() {
            return;
        }
    }
}

/// Applies a response; what an earlier one had and this one has not is removed. True where something was refused.
fn take(
    manager: &Mutex<Manager>,
    kind: &str,
    file: &File,
    response: &DiscoveryResponse,
    held: &mut BTreeSet<String>,
) -> bool {
    let resource = |any: &lateen_envoy::Any| Resource {
        name: resource_name(&any.value).unwrap_or_default().to_owned(),
        version: response.version_info.clone(),
        type_url: any.type_url.clone(),
        body: any.value.clone(),
    };
    let resources: Vec<Resource> =
        response.resources.iter().filter(|any| any.type_url == kind).map(resource).collect();
    let names = apply::names(&resources);
    let removed: Vec<String> = held.difference(&names).cloned().collect();
    let rejected = apply::apply(&mut manager.lock(), kind, &resources, &removed, &Origin::File(file.clone()));
    *held = names;
    !rejected.is_empty()
}

/// The events of a folder: a descriptor of which can be read when something has happened.
fn watch(folder: &Path) -> std::io::Result<Receiver> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    inotify.add_watch(
        folder,
        AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_CLOSE_WRITE,
    )?;
    // What the runtime reads from a pipe it reads from this, too.
    Receiver::from_owned_fd_unchecked(inotify.as_fd().try_clone_to_owned()?)
}
