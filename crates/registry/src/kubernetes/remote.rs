//! Further clusters: Secrets with the label `istio/multiCluster=true` in the root namespace, whose keys are names of
//! clusters and whose values are kubeconfigs (Istio's remote secrets; `istioctl create-remote-secret` makes them).
//!
//! Secrets come, change and go at run time, and their clusters with them. A kubeconfig that cannot be used is reported,
//! and the cluster goes on as it was. What a kubeconfig asks for beyond credentials of its own (programs to run, files
//! of this machine) is refused: who may write Secrets there must not get more by it than a cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::Secret;
use kube::config::{AuthInfo, Cluster, KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, ResourceExt};
use lateen_base::backoff::Backoff;
use lateen_model::ClusterId;
use tracing::{info, warn};

use super::{Kubernetes, KubernetesOptions};
use crate::{ObjectKey, Platforms};

/// The label of such Secrets.
const LABEL: &str = "istio/multiCluster=true";

/// Kubeconfigs by name of the cluster.
type Kubeconfigs = BTreeMap<String, Vec<u8>>;

/// Keeps the registry's platforms in step with the Secrets.
pub struct RemoteClusters {
    client: Client,
    options: KubernetesOptions,
    platforms: Platforms,
    running: BTreeMap<String, Vec<u8>>,
}

impl RemoteClusters {
    /// `client` and `options` are those of the mesh's own cluster; further ones differ in their name alone.
    pub fn new(client: Client, options: KubernetesOptions, platforms: Platforms) -> Self {
        Self { client, options, platforms, running: BTreeMap::new() }
    }

    /// Follows the Secrets until the registry is closed.
    pub async fn run(mut self) {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.options.root_namespace);
        let begin = || watcher(api.clone(), watcher::Config::default().labels(LABEL));
        let stream = begin();
        pin_mut!(stream);
        let mut failing = false;
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        let (mut secrets, mut listing) = (BTreeMap::new(), BTreeMap::new());
        while let Some(event) = stream.next().await {
            match event {
                Ok(watcher::Event::Init) => {
                    listing = BTreeMap::new();
                    continue;
                }
                Ok(watcher::Event::InitApply(secret)) => {
                    listing.insert(key(&secret), kubeconfigs(secret));
                    continue;
                }
                Ok(watcher::Event::InitDone) => secrets = std::mem::take(&mut listing),
                Ok(watcher::Event::Apply(secret)) => {
                    secrets.insert(key(&secret), kubeconfigs(secret));
                }
                Ok(watcher::Event::Delete(secret)) => {
                    secrets.remove(&key(&secret));
                }
                Err(error) => {
                    let delay = backoff.next_delay();
                    if super::is_expired(&error) {
                        stream.set(begin());
                    }
                    // Once an outage: the attempts go on.
                    if !std::mem::replace(&mut failing, true) {
                        warn!("the Secrets of further clusters cannot be watched: {error}");
                    }
                    tokio::time::sleep(delay).await;
                    continue;
                }
            }
            backoff.reset();
            failing = false;
            if !self.settle(wanted(&secrets, self.options.cluster.as_str())).await {
                return;
            }
        }
    }

    /// Starts, restarts and ends clusters; says whether the registry still wants any.
    async fn settle(&mut self, wanted: Kubeconfigs) -> bool {
        let gone: Vec<String> =
            self.running.keys().filter(|name| !wanted.contains_key(*name)).cloned().collect();
        for name in gone {
            info!(cluster = name, "a cluster is no longer wanted");
            self.running.remove(&name);
            if self.platforms.remove(&ClusterId::from(name)).await.is_err() {
                return false;
            }
        }
        for (name, kubeconfig) in wanted {
            if self.running.get(&name) == Some(&kubeconfig) {
                continue;
            }
            let client = match client(&kubeconfig).await {
                Ok(client) => client,
                Err(reason) => {
                    warn!(cluster = name, "the kubeconfig of a cluster cannot be used: {reason}");
                    continue;
                }
            };
            info!(cluster = name, "a cluster is watched");
            let options = KubernetesOptions {
                cluster: name.as_str().into(),
                configuration: false,
                ..self.options.clone()
            };
            self.running.insert(name, kubeconfig);
            if self.platforms.add(Box::new(Kubernetes::new(client, options))).await.is_err() {
                return false;
            }
        }
        true
    }
}

fn key(secret: &Secret) -> ObjectKey {
    ObjectKey::new(secret.namespace().unwrap_or_default(), secret.name_any())
}

fn kubeconfigs(secret: Secret) -> Kubeconfigs {
    secret.data.unwrap_or_default().into_iter().map(|(name, bytes)| (name, bytes.0)).collect()
}

/// The clusters of all Secrets. The first Secret that names a cluster counts, and nothing redefines the mesh's own.
fn wanted(secrets: &BTreeMap<ObjectKey, Kubeconfigs>, own: &str) -> Kubeconfigs {
    let mut wanted = Kubeconfigs::new();
    for (secret, clusters) in secrets {
        for (name, kubeconfig) in clusters {
            if name == own {
                warn!(secret = secret.name, cluster = name, "a Secret names the mesh's own cluster; ignored");
            } else if wanted.contains_key(name) {
                warn!(secret = secret.name, cluster = name, "another Secret defines the cluster already");
            } else {
                wanted.insert(name.clone(), kubeconfig.clone());
            }
        }
    }
    wanted
}

async fn client(kubeconfig: &[u8]) -> Result<Client, String> {
    let text = std::str::from_utf8(kubeconfig).map_err(|error| error.to_string())?;
    let kubeconfig = Kubeconfig::from_yaml(text).map_err(|error| error.to_string())?;
    check(&kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    let config = config.map_err(|error| error.to_string())?;
    Client::try_from(config).map_err(|error| error.to_string())
}

/// Refuses what reaches beyond the kubeconfig itself.
fn check(kubeconfig: &Kubeconfig) -> Result<(), String> {
    let clusters =
        kubeconfig.clusters.iter().filter_map(|named| Some((&named.name, named.cluster.as_ref()?)));
    for (name, Cluster { certificate_authority, insecure_skip_tls_verify, .. }) in clusters {
        if certificate_authority.is_some() {
            return Err(format!(
                "cluster {name:?}: certificate-authority names a file; use certificate-authority-data"
            ));
        }
        if *insecure_skip_tls_verify == Some(true) {
            return Err(format!("cluster {name:?}: insecure-skip-tls-verify is not allowed; give the CA"));
        }
    }
    let users =
        kubeconfig.auth_infos.iter().filter_map(|named| Some((&named.name, named.auth_info.as_ref()?)));
    for (name, user) in users {
        let AuthInfo { exec, auth_provider, token_file, client_certificate, client_key, .. } = user;
        for (field, present, remedy) in [
            ("exec", exec.is_some(), "use a token"),
            ("auth-provider", auth_provider.is_some(), "use a token"),
            ("tokenFile", token_file.is_some(), "use token"),
            ("client-certificate", client_certificate.is_some(), "use client-certificate-data"),
            ("client-key", client_key.is_some(), "use client-key-data"),
        ] {
            if present {
                return Err(format!("user {name:?}: {field} is not allowed in a Secret; {remedy}"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_secret_counts_and_nothing_redefines_the_own_cluster() {
        let secret = |clusters: &[(&str, &str)]| -> Kubeconfigs {
            clusters.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect()
        };
        let secrets = BTreeMap::from([
            (ObjectKey::new("istio-system", "b"), secret(&[("east", "second"), ("own", "x")])),
            (ObjectKey::new("istio-system", "a"), secret(&[("east", "first"), ("west", "w")])),
        ]);
        assert_eq!(wanted(&secrets, "own"), secret(&[("east", "first"), ("west", "w")]));
    }

    #[test]
    fn what_reaches_beyond_the_kubeconfig_is_refused() {
        let read = |cluster: &str, user: &str| {
            let text = format!(
                "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
                 contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
                 clusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:1'{cluster}}}}}]\n\
                 users: [{{name: u, user: {{{user}}}}}]\n"
            );
            check(&Kubeconfig::from_yaml(&text).unwrap())
        };
        assert_eq!(read("", "token: t"), Ok(()));
        for (cluster, user, field) in [
            ("", "exec: {apiVersion: client.authentication.k8s.io/v1, command: sh}", "exec"),
            ("", "auth-provider: {name: gcp, config: {}}", "auth-provider"),
            ("", "tokenFile: /etc/passwd", "tokenFile"),
            ("", "client-certificate: /etc/passwd", "client-certificate"),
            ("", "client-key: /etc/passwd", "client-key"),
            (", certificate-authority: /etc/passwd", "token: t", "certificate-authority"),
            (", insecure-skip-tls-verify: true", "token: t", "insecure-skip-tls-verify"),
        ] {
            let refused = read(cluster, user).unwrap_err();
            assert!(refused.contains(field), "{field}: {refused}");
        }
    }
}
