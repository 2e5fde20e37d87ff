//! From a container's spec to the process and the root that the sandbox is asked for.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod};

use super::environment::{self, PodFacts, Sources, expand};
use super::images::ImageMap;
use super::mount_plan::{self, Mount};
use super::volumes::Place;
use super::{IdMap, hostname};
use crate::sandbox::capabilities;
use crate::sandbox::protocol::{Process, Step};

/// What a start needs to know.
pub struct Inputs<'a, S> {
    /// The Pod.
    pub pod: &'a Pod,
    /// The container.
    pub container: &'a Container,
    /// Addresses.
    pub facts: &'a PodFacts,
    /// ConfigMaps, Secrets, Services.
    pub sources: &'a S,
    /// The Pod's volumes.
    pub volumes: &'a HashMap<String, Place>,
    /// From images to programs.
    pub images: &'a ImageMap,
    /// Which ids exist.
    pub ids: &'a IdMap,
    /// Folder of our programs.
    pub programs: &'a Path,
    /// Further folders of programs.
    pub program_dirs: &'a [PathBuf],
}

/// A container, ready to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// The program with everything about it.
    pub process: Process,
    /// Its root.
    pub steps: Vec<Step>,
    /// What the user should know: reason and message of warning Events.
    pub warnings: Vec<(&'static str, String)>,
}

/// Why a container waits: reason and message of its status.
pub type Waiting = (&'static str, String);

/// Prepares a start.
pub fn prepare<S: Sources>(inputs: &Inputs<'_, S>) -> Result<Prepared, Waiting> {
    let Inputs { pod, container, programs, .. } = inputs;
    let config = |message: String| ("CreateContainerConfigError", message);
    let mut variables =
        environment::environment(pod, container, inputs.facts, inputs.sources).map_err(config)?;
    if let Some((_, path)) = variables.iter_mut().find(|(name, _)| name == "PATH") {
        let _ = write!(path, ":{}", programs.display());
    }
    let mut warnings = Vec::new();
    let command = command(inputs, &variables)?;
    let mounts = mounts(inputs, &variables).map_err(config)?;
    let wanted = mount_plan::Wanted {
        mounts,
        etc: etc_files(pod, &inputs.facts.ip),
        keep: std::iter::once(programs.to_path_buf()).chain(inputs.program_dirs.iter().cloned()).collect(),
    };
    let steps = mount_plan::plan(&wanted, &mount_plan::Machine).map_err(config)?;

    let security = container.security_context.as_ref();
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let user = security.and_then(|own| own.run_as_user).or_else(|| of_pod.and_then(|own| own.run_as_user));
    let group = security.and_then(|own| own.run_as_group).or_else(|| of_pod.and_then(|own| own.run_as_group));
    let mut mapped = |what: &str, id: Option<i64>| match id.map(u32::try_from) {
        None => 0,
        Some(Ok(id)) if inputs.ids.contains(id) => id,
        Some(id) => {
            let id = id.map_or_else(|_| "?".to_owned(), |id| id.to_string());
            let message = format!(
                "container {}: {what} {id} does not exist in this user namespace (the node runs without root); \
                 it runs as the user who started the node",
                container.name
            );
            warnings.push(("UserNotMapped", message));
            0
        }
    };
    let user = mapped("runAsUser", user);
    let group = mapped("runAsGroup", group);
    let asked = security.and_then(|security| security.capabilities.as_ref());
    let list = |names: Option<&Vec<String>>| names.cloned().unwrap_or_default();
    let granted = capabilities::grant(
        &list(asked.and_then(|asked| asked.add.as_ref())),
        &list(asked.and_then(|asked| asked.drop.as_ref())),
    );
    for name in &granted.unknown {
        warnings.push(("UnknownCapability", format!("container {}: capability {name}", container.name)));
    }
    warnings.extend(unsupported(pod, container));
    let process = Process {
        command,
        environment: variables,
        working_directory: container
            .working_dir
            .clone()
            .filter(|dir| !dir.is_empty())
            .unwrap_or_else(|| "/".to_owned()),
        user,
        group,
        capabilities: granted.all,
        ambient: granted.added,
    };
    Ok(Prepared { process, steps, warnings })
}

/// `command` and `args` as Kubernetes combines them with an image's entry point.
fn command<S: Sources>(
    inputs: &Inputs<'_, S>,
    variables: &[(String, String)],
) -> Result<Vec<String>, Waiting> {
    let lookup = |name: &str| variables.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let filled = |words: Option<&Vec<String>>| -> Vec<String> {
        words.into_iter().flatten().map(|word| expand(word, lookup)).collect()
    };
    let mut command = filled(inputs.container.command.as_ref());
    if command.is_empty() {
        let image = inputs.container.image.as_deref().unwrap_or_default();
        command = inputs.images.command(image).ok_or_else(|| {
            let message = format!(
                "no local program stands for image \"{image}\", and images are not pulled. Give the container a \
                 `command`, or map the image in images.yaml of the state folder, for example:  \
                 \"{image}\": [/usr/bin/PROGRAM, ARGUMENT]"
            );
            ("ErrImageNeverPull", message)
        })?;
    }
    command.extend(filled(inputs.container.args.as_ref()));
    Ok(command)
}

fn mounts<S: Sources>(inputs: &Inputs<'_, S>, variables: &[(String, String)]) -> Result<Vec<Mount>, String> {
    let lookup = |name: &str| variables.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let mut mounts = Vec::new();
    for mount in inputs.container.volume_mounts.iter().flatten() {
        let place = inputs
            .volumes
            .get(&mount.name)
            .ok_or_else(|| format!("volumeMount \"{}\": the Pod has no such volume", mount.name))?;
        let below = match &mount.sub_path_expr {
            Some(expression) => Some(expand(expression, lookup)),
            None => mount.sub_path.clone(),
        };
        let source = match below.filter(|below| !below.is_empty()) {
            None => place.path.clone(),
            Some(below) => sub_path(place, &below)?,
        };
        let folder = source.is_dir();
        let read_only = place.read_only || mount.read_only == Some(true);
        mounts.push(Mount { source, target: PathBuf::from(&mount.mount_path), folder, read_only });
    }
    Ok(mounts)
}

fn sub_path(place: &Place, below: &str) -> Result<PathBuf, String> {
    let relative = Path::new(below);
    if relative.components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
        return Err(format!("subPath {below}: must be relative and without .."));
    }
    let path = place.path.join(relative);
    if !path.exists() {
        if place.read_only {
            return Err(format!("subPath {below}: the volume has no such file"));
        }
        std::fs::create_dir_all(&path).map_err(|error| format!("subPath {below}: {error}"))?;
    }
    // Links of a written volume are resolved now: the mount keeps this content, as in Kubernetes.
    path.canonicalize().map_err(|error| format!("subPath {below}: {error}"))
}

/// Our own files in `/etc`.
fn etc_files(pod: &Pod, ip: &str) -> BTreeMap<String, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let spec = pod.spec.as_ref();
    let host = hostname(pod);
    let mut hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
    let subdomain = spec.and_then(|spec| spec.subdomain.as_deref()).filter(|name| !name.is_empty());
    let full =
        subdomain.map(|sub| format!("{host}.{sub}.{namespace}.svc.cluster.local\t")).unwrap_or_default();
    let _ = writeln!(hosts, "{ip}\t{full}{host}");
    for alias in spec.iter().flat_map(|spec| spec.host_aliases.iter().flatten()) {
        let _ = writeln!(
            hosts,
            "{}\t{}",
            alias.ip,
            alias.hostnames.iter().flatten().cloned().collect::<Vec<_>>().join("\t")
        );
    }
    BTreeMap::from([
        ("resolv.conf".to_owned(), resolv_conf(pod, namespace)),
        ("hosts".to_owned(), hosts),
        ("hostname".to_owned(), format!("{host}\n")),
    ])
}

fn resolv_conf(pod: &Pod, namespace: &str) -> String {
    let spec = pod.spec.as_ref();
    let own = spec.and_then(|spec| spec.dns_config.as_ref());
    let alone = spec.and_then(|spec| spec.dns_policy.as_deref()) == Some("None");
    let (mut servers, mut searches, mut options) = match alone {
        true => (Vec::new(), Vec::new(), Vec::new()),
        false => (
            vec!["10.96.0.10".to_owned()],
            vec![
                format!("{namespace}.svc.cluster.local"),
                "svc.cluster.local".to_owned(),
                "cluster.local".to_owned(),
            ],
            vec!["ndots:5".to_owned()],
        ),
    };
    if let Some(own) = own {
        servers.extend(own.nameservers.iter().flatten().cloned());
        searches.extend(own.searches.iter().flatten().cloned());
        options.extend(own.options.iter().flatten().filter_map(|option| {
            let name = option.name.clone()?;
            Some(option.value.as_ref().map_or(name.clone(), |value| format!("{name}:{value}")))
        }));
    }
    let mut text = String::new();
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    for (word, list) in [("search", searches), ("options", options)] {
        if !list.is_empty() {
            let _ = writeln!(text, "{word} {}", list.join(" "));
        }
    }
    text
}

/// Fields that change nothing here, said aloud.
fn unsupported(pod: &Pod, container: &Container) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let spec = pod.spec.as_ref();
    let mut note = |given: bool, path: &str, what: &str| {
        if given {
            found.push(("FieldIgnored", format!("{path}: {what}")));
        }
    };
    note(
        spec.and_then(|spec| spec.host_network) == Some(true),
        "spec.hostNetwork",
        "Pods have networks of their own here",
    );
    note(
        spec.and_then(|spec| spec.host_pid) == Some(true),
        "spec.hostPID",
        "Pods have process tables of their own here",
    );
    note(
        container.security_context.as_ref().and_then(|own| own.privileged) == Some(true),
        &format!("spec.containers[{}].securityContext.privileged", container.name),
        "capabilities beyond the namespaces do not exist here",
    );
    note(
        container.volume_devices.as_ref().is_some_and(|devices| !devices.is_empty()),
        &format!("spec.containers[{}].volumeDevices", container.name),
        "block devices are not supported",
    );
    for (name, probe) in [
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
        ("startupProbe", &container.startup_probe),
    ] {
        let Some(probe) = probe else { continue };
        let path = format!("spec.containers[{}].{name}", container.name);
        note(
            probe.grpc.is_some(),
            &format!("{path}.grpc"),
            "only the connection is checked, not the health service",
        );
        let https = probe.http_get.as_ref().and_then(|get| get.scheme.as_deref()) == Some("HTTPS");
        note(https, &format!("{path}.httpGet.scheme"), "of HTTPS only the connection is checked");
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    struct Nothing;

    impl Sources for Nothing {
        fn config_map(&self, _: &str) -> Option<std::sync::Arc<k8s_openapi::api::core::v1::ConfigMap>> {
            None
        }
        fn secret(&self, _: &str) -> Option<std::sync::Arc<k8s_openapi::api::core::v1::Secret>> {
            None
        }
        fn services(&self) -> Vec<std::sync::Arc<k8s_openapi::api::core::v1::Service>> {
            Vec::new()
        }
    }

    fn prepared(container: serde_json::Value) -> Result<Prepared, Waiting> {
        let container: Container = serde_json::from_value(container).unwrap();
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns"},
            "spec": {"containers": []}}))
        .unwrap();
        prepare(&Inputs {
            pod: &pod,
            container: &container,
            facts: &PodFacts::default(),
            sources: &Nothing,
            volumes: &HashMap::new(),
            images: &ImageMap::built_in(Path::new("/lateen")),
            ids: &IdMap::parse("0 1000 1"),
            programs: Path::new("/lateen"),
            program_dirs: &[],
        })
    }

    #[test]
    fn commands() {
        let check = |container: serde_json::Value, expected: Result<&str, &str>| {
            let name = container.to_string();
            let got = prepared(container).map(|prepared| prepared.process.command.join(" "));
            assert_eq!(got.as_deref().map_err(|(reason, _)| *reason), expected, "{name}");
        };
        check(json!({"name": "c", "image": "x", "command": ["sleep"], "args": ["1"]}), Ok("sleep 1"));
        check(
            json!({"name": "c", "image": "a/proxyv2:1", "args": ["proxy"]}),
            Ok("/lateen/lateen-agent proxy"),
        );
        check(json!({"name": "c", "image": "a/proxyv2:1", "command": ["sleep"]}), Ok("sleep"));
        check(json!({"name": "c", "image": "nginx"}), Err("ErrImageNeverPull"));
        check(
            json!({"name": "c", "command": ["echo", "$(A)"], "env": [{"name": "A", "value": "b"}]}),
            Ok("echo b"),
        );
        check(
            json!({"name": "c", "command": ["x"], "volumeMounts": [{"name": "v", "mountPath": "/v"}]}),
            Err("CreateContainerConfigError"),
        );
    }

    #[test]
    fn an_unmapped_user_is_a_warning() {
        let got =
            prepared(json!({"name": "c", "command": ["x"], "securityContext": {"runAsUser": 1337}})).unwrap();
        assert_eq!(got.process.user, 0);
        assert!(got.warnings[0].1.contains("runAsUser 1337"), "{:?}", got.warnings);
        let none =
            prepared(json!({"name": "c", "command": ["x"], "securityContext": {"runAsUser": 0}})).unwrap();
        assert_eq!(none.warnings, []);
    }

    #[test]
    fn names_are_looked_up_in_the_pods_namespace_first() {
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": []}})).unwrap();
        assert_eq!(
            resolv_conf(&pod, "shop"),
            "nameserver 10.96.0.10\nsearch shop.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"
        );
    }
}
