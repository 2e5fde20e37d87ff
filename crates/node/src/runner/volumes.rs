//! Volumes: folders of the Pod on the node, which are bound into its containers.
//!
//! What comes from ConfigMaps, Secrets, tokens and the downward API is written as Kubernetes writes it: a folder of
//! links through `..data`, which is exchanged in one step, so that a reader sees all of the old or all of the new.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, KeyToPath, Pod, ServiceAccount, ServiceAccountTokenProjection, Volume,
};
use kube::api::PostParams;
use kube::{Api, Client};

use super::environment::{PodFacts, Sources, find_container, pod_field, resource_field};

/// A file of a volume: content and permission bits.
type Files = BTreeMap<String, (Vec<u8>, u32)>;

/// Where a volume lies on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// A folder, or a file of the host.
    pub path: PathBuf,
    /// Whether writing is refused whatever the mount says.
    pub read_only: bool,
}

/// The volumes of one Pod.
#[derive(Debug)]
pub struct Volumes {
    folder: PathBuf,
    allowed_host_paths: Vec<PathBuf>,
    tokens: HashMap<(String, String), Token>,
}

#[derive(Debug)]
struct Token {
    value: String,
    renew: Instant,
}

impl Volumes {
    /// Volumes below `folder`; host paths only inside the allowed folders.
    pub fn new(folder: PathBuf, allowed_host_paths: Vec<PathBuf>) -> Self {
        Self { folder, allowed_host_paths, tokens: HashMap::new() }
    }

    /// Makes and fills all volumes of the Pod. The error is the message of a `FailedMount` event.
    pub async fn prepare(
        &mut self,
        pod: &Pod,
        facts: &PodFacts,
        sources: &impl Sources,
        client: &Client,
    ) -> Result<HashMap<String, Place>, String> {
        self.renew_tokens(pod, client).await?;
        let mut places = HashMap::new();
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            let place = self.place(volume).map_err(|error| format!("volume \"{}\": {error}", volume.name))?;
            places.insert(volume.name.clone(), place);
        }
        self.refresh(pod, facts, sources)?;
        Ok(places)
    }

    /// Writes anew what has changed.
    pub fn refresh(&self, pod: &Pod, facts: &PodFacts, sources: &impl Sources) -> Result<(), String> {
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            let context = |error: String| format!("volume \"{}\": {error}", volume.name);
            if let Some(files) = self.files(volume, pod, facts, sources).map_err(context)? {
                write_files(&self.folder.join(&volume.name), &files)
                    .map_err(|error| context(error.to_string()))?;
            }
        }
        Ok(())
    }

    /// When a token must be renewed next.
    pub fn next_renewal(&self) -> Option<Instant> {
        self.tokens.values().map(|token| token.renew).min()
    }

    /// Asks for the tokens that are missing or due.
    pub async fn renew_tokens(&mut self, pod: &Pod, client: &Client) -> Result<(), String> {
        for (volume, projection) in token_projections(pod) {
            let key = (volume, projection.path.clone());
            if self.tokens.get(&key).is_some_and(|token| token.renew > Instant::now()) {
                continue;
            }
            let token = request_token(pod, &projection, client)
                .await
                .map_err(|error| format!("volume \"{}\": token for {}: {error}", key.0, projection.path))?;
            self.tokens.insert(key, token);
        }
        Ok(())
    }

    /// Lets a failed renewal be tried again a little later.
    pub fn postpone_renewal(&mut self, delay: Duration) {
        let at = Instant::now() + delay;
        for token in self.tokens.values_mut().filter(|token| token.renew < at) {
            token.renew = at;
        }
    }

    fn place(&self, volume: &Volume) -> Result<Place, String> {
        let path = self.folder.join(&volume.name);
        if let Some(host) = &volume.host_path {
            return self.host_path(Path::new(&host.path));
        }
        let known = volume.empty_dir.is_some()
            || volume.config_map.is_some()
            || volume.secret.is_some()
            || volume.projected.is_some()
            || volume.downward_api.is_some();
        if !known {
            return Err("this kind of volume is not supported; emptyDir, configMap, secret, projected, \
                        downwardAPI and hostPath are"
                .to_owned());
        }
        let mode = if volume.empty_dir.is_some() { 0o777 } else { 0o755 };
        std::fs::create_dir_all(&path)
            .and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)))
            .map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Place { path, read_only: volume.empty_dir.is_none() })
    }

    fn host_path(&self, path: &Path) -> Result<Place, String> {
        let path = path.canonicalize().map_err(|error| format!("hostPath {}: {error}", path.display()))?;
        if !self.allowed_host_paths.iter().any(|allowed| path.starts_with(allowed)) {
            let allowed: Vec<String> =
                self.allowed_host_paths.iter().map(|path| path.display().to_string()).collect();
            return Err(format!(
                "hostPath {} lies outside the allowed folders ({}); `--allow-host-path DIR` allows more",
                path.display(),
                allowed.join(", ")
            ));
        }
        Ok(Place { path, read_only: true })
    }

    /// The files of a volume that is written by the node; `None` for the other kinds.
    fn files(
        &self,
        volume: &Volume,
        pod: &Pod,
        facts: &PodFacts,
        sources: &impl Sources,
    ) -> Result<Option<Files>, String> {
        let bits = |mode: Option<i32>| mode.map_or(0o644, |mode| mode as u32 & 0o777);
        if let Some(source) = &volume.config_map {
            let data = config_map_data(sources, &source.name, source.optional)?;
            return select(data, source.items.as_deref(), bits(source.default_mode), source.optional)
                .map(Some);
        }
        if let Some(source) = &volume.secret {
            let name = source.secret_name.clone().unwrap_or_default();
            let data = secret_data(sources, &name, source.optional)?;
            return select(data, source.items.as_deref(), bits(source.default_mode), source.optional)
                .map(Some);
        }
        if let Some(source) = &volume.downward_api {
            let items = source.items.as_deref().unwrap_or_default();
            return downward(items, pod, facts, bits(source.default_mode)).map(Some);
        }
        let Some(projected) = &volume.projected else { return Ok(None) };
        let mode = bits(projected.default_mode);
        let mut files = Files::new();
        for source in projected.sources.iter().flatten() {
            if let Some(source) = &source.config_map {
                let data = config_map_data(sources, &source.name, source.optional)?;
                files.extend(select(data, source.items.as_deref(), mode, source.optional)?);
            }
            if let Some(source) = &source.secret {
                let data = secret_data(sources, &source.name, source.optional)?;
                files.extend(select(data, source.items.as_deref(), mode, source.optional)?);
            }
            if let Some(source) = &source.downward_api {
                files.extend(downward(source.items.as_deref().unwrap_or_default(), pod, facts, mode)?);
            }
            if let Some(source) = &source.service_account_token {
                let token = self.tokens.get(&(volume.name.clone(), source.path.clone()));
                let token = token.ok_or("the token has not been issued yet")?;
                files.insert(source.path.clone(), (token.value.clone().into_bytes(), mode));
            }
        }
        Ok(Some(files))
    }
}

fn token_projections(pod: &Pod) -> Vec<(String, ServiceAccountTokenProjection)> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes
        .flat_map(|volume| {
            let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
            sources.filter_map(|source| Some((volume.name.clone(), source.service_account_token.clone()?)))
        })
        .collect()
}

async fn request_token(
    pod: &Pod,
    projection: &ServiceAccountTokenProjection,
    client: &Client,
) -> Result<Token, kube::Error> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let account = pod_field(pod, &PodFacts::default(), "spec.serviceAccountName").unwrap_or_default();
    let seconds = projection.expiration_seconds.unwrap_or(3600).max(600);
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: projection.audience.clone().map(|audience| vec![audience]),
            expiration_seconds: Some(seconds),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
            }),
            ..TokenRequestSpec::default()
        }),
        ..TokenRequest::default()
    };
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let answer = api.create_token_request(&account, &PostParams::default(), &request).await?;
    let value = answer.status.and_then(|status| status.token).unwrap_or_default();
    // Kubernetes renews when four fifths of the time are over.
    let renew = Instant::now() + Duration::from_secs(seconds as u64).mul_f64(0.8);
    Ok(Token { value, renew })
}

type Data = Option<BTreeMap<String, Vec<u8>>>;

fn config_map_data(sources: &impl Sources, name: &str, optional: Option<bool>) -> Result<Data, String> {
    let Some(map) = sources.config_map(name) else {
        return missing(optional, || format!("configmap \"{name}\" not found"));
    };
    let text = map.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
    Ok(Some(text.chain(binary).collect()))
}

fn secret_data(sources: &impl Sources, name: &str, optional: Option<bool>) -> Result<Data, String> {
    let Some(secret) = sources.secret(name) else {
        return missing(optional, || format!("secret \"{name}\" not found"));
    };
    Ok(Some(secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect()))
}

fn missing(optional: Option<bool>, message: impl FnOnce() -> String) -> Result<Data, String> {
    if optional == Some(true) { Ok(None) } else { Err(message()) }
}

/// The chosen entries under the chosen names; all where nothing is chosen.
fn select(
    data: Data,
    items: Option<&[KeyToPath]>,
    mode: u32,
    optional: Option<bool>,
) -> Result<Files, String> {
    let data = data.unwrap_or_default();
    let Some(items) = items else {
        return Ok(data.into_iter().map(|(key, value)| (key, (value, mode))).collect());
    };
    let mut files = Files::new();
    for item in items {
        let mode = item.mode.map_or(mode, |mode| mode as u32 & 0o777);
        match data.get(&item.key) {
            Some(value) => {
                files.insert(item.path.clone(), (value.clone(), mode));
            }
            None if optional == Some(true) => {}
            None => return Err(format!("references non-existent key: {}", item.key)),
        }
    }
    Ok(files)
}

fn downward(
    items: &[DownwardAPIVolumeFile],
    pod: &Pod,
    facts: &PodFacts,
    mode: u32,
) -> Result<Files, String> {
    let mut files = Files::new();
    for item in items {
        let text = if let Some(field) = &item.field_ref {
            pod_field(pod, facts, &field.field_path)
                .ok_or_else(|| format!("fieldRef {}: not a field of the downward API", field.field_path))?
        } else if let Some(resource) = &item.resource_field_ref {
            let name = resource.container_name.as_deref().unwrap_or_default();
            let container =
                find_container(pod, name).ok_or_else(|| format!("container \"{name}\" not found"))?;
            resource_field(container, &resource.resource, resource.divisor.as_ref().map(|one| one.0.as_str()))
        } else {
            continue;
        };
        let mode = item.mode.map_or(mode, |mode| mode as u32 & 0o777);
        files.insert(item.path.clone(), (text.into_bytes(), mode));
    }
    Ok(files)
}

/// Makes `folder` show exactly `files`, in one step.
pub fn write_files(folder: &Path, files: &Files) -> io::Result<()> {
    let data = folder.join("..data");
    if data.exists() && holds(&data, files) {
        return Ok(());
    }
    let generation = format!("..{:016x}", rand::random::<u64>());
    let fresh = folder.join(&generation);
    let folder_of = |path: &Path| std::fs::DirBuilder::new().recursive(true).mode(0o755).create(path);
    folder_of(&fresh)?;
    for (name, (contents, mode)) in files {
        if Path::new(name).components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
            return Err(io::Error::other(format!("path {name}: must be relative and without ..")));
        }
        let path = fresh.join(name);
        if let Some(parent) = path.parent() {
            folder_of(parent)?;
        }
        std::fs::write(&path, contents)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(*mode))?;
    }
    let old = std::fs::read_link(&data).ok();
    let temporary = folder.join("..data_tmp");
    let _ = std::fs::remove_file(&temporary);
    symlink(&generation, &temporary)?;
    std::fs::rename(&temporary, &data)?;
    let tops: std::collections::BTreeSet<&str> =
        files.keys().map(|name| name.split('/').next().unwrap_or(name)).collect();
    for top in &tops {
        let link = folder.join(top);
        if std::fs::symlink_metadata(&link).is_err() {
            symlink(Path::new("..data").join(top), &link)?;
        }
    }
    for entry in std::fs::read_dir(folder)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !tops.contains(name.as_str()) {
            std::fs::remove_file(entry.path())?;
        }
    }
    match old {
        Some(old) => std::fs::remove_dir_all(folder.join(old)),
        None => Ok(()),
    }
}

fn holds(data: &Path, files: &Files) -> bool {
    fn count(folder: &Path) -> usize {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| if entry.path().is_dir() { count(&entry.path()) } else { 1 }).sum()
    }
    let same = |(name, (contents, mode)): (&String, &(Vec<u8>, u32))| {
        let path = data.join(name);
        std::fs::read(&path).is_ok_and(|present| present == *contents)
            && path.metadata().is_ok_and(|found| found.permissions().mode() & 0o777 == *mode)
    };
    files.iter().all(same) && count(data) == files.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(entries: &[(&str, &str)]) -> Files {
        entries.iter().map(|(name, text)| ((*name).to_owned(), (text.as_bytes().to_vec(), 0o644))).collect()
    }

    #[test]
    fn a_volume_changes_in_one_step() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
        write_files(folder, &files(&[("a", "1"), ("sub/b", "2")])).unwrap();
        assert_eq!((read("a").as_deref(), read("sub/b").as_deref()), (Some("1"), Some("2")));
        let generation = std::fs::read_link(folder.join("..data")).unwrap();
        write_files(folder, &files(&[("a", "1"), ("sub/b", "2")])).unwrap();
        assert_eq!(std::fs::read_link(folder.join("..data")).unwrap(), generation, "nothing to write");
        write_files(folder, &files(&[("a", "3"), ("c", "4")])).unwrap();
        assert_eq!((read("a").as_deref(), read("c").as_deref(), read("sub/b")), (Some("3"), Some("4"), None));
        assert!(!folder.join(generation).exists(), "the old content is removed");
        assert_eq!(std::fs::read_link(folder.join("a")).unwrap(), Path::new("..data/a"));
    }

    #[test]
    fn paths_cannot_leave_the_volume() {
        let folder = tempfile::tempdir().unwrap();
        assert!(write_files(folder.path(), &files(&[("../x", "1")])).is_err());
        assert!(write_files(folder.path(), &files(&[("/x", "1")])).is_err());
    }

    #[test]
    fn host_paths_are_read_only_and_inside_the_allowed_folders() {
        let allowed = tempfile::tempdir().unwrap();
        let allowed = allowed.path().canonicalize().unwrap();
        let volumes = Volumes::new(PathBuf::from("/none"), vec![allowed.clone()]);
        assert_eq!(volumes.host_path(&allowed), Ok(Place { path: allowed.clone(), read_only: true }));
        let error = volumes.host_path(Path::new("/usr")).unwrap_err();
        assert!(error.contains("--allow-host-path"), "{error}");
    }

    #[test]
    fn chosen_keys() {
        let data =
            || Some(BTreeMap::from([("k".to_owned(), b"v".to_vec()), ("l".to_owned(), b"w".to_vec())]));
        let item = |key: &str| {
            vec![KeyToPath {
                key: key.to_owned(),
                path: "dir/file".to_owned(),
                mode: Some(0o400),
                ..KeyToPath::default()
            }]
        };
        let chosen = select(data(), Some(&item("k")), 0o644, None).unwrap();
        assert_eq!(chosen, Files::from([("dir/file".to_owned(), (b"v".to_vec(), 0o400))]));
        assert_eq!(
            select(data(), Some(&item("no")), 0o644, None).unwrap_err(),
            "references non-existent key: no"
        );
        assert_eq!(select(data(), Some(&item("no")), 0o644, Some(true)).unwrap(), Files::new());
        assert_eq!(select(data(), None, 0o644, None).unwrap().len(), 2);
    }
}
