//! Whether servers of the mesh take mutual TLS, as far as it decides what clients do (automatic mutual TLS).

use std::collections::BTreeMap;

use lateen_api::security::{MutualTlsMode, PeerAuthentication};
use lateen_model::{Config, ConfigKey, Endpoint, Namespace, Snapshot, WorkloadKind};

use crate::shared::Shared;

/// The label of workloads that take mutual TLS; injection sets it.
pub(crate) const LABEL: &str = "security.istio.io/tlsMode";

/// The policies that count for workloads of one namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Policies {
    /// Of the root namespace, then of the namespace, each the oldest without a selector.
    general: Vec<Shared<Config<PeerAuthentication>>>,
    /// Those of the namespace with a selector, oldest first.
    selecting: Vec<Shared<Config<PeerAuthentication>>>,
}

impl Policies {
    /// The policies for a namespace. Only where mutual TLS is turned off somewhere do they change what clients do; in
    /// the common case there are none, and nothing depends on any.
    pub(crate) fn new(snapshot: &Snapshot, namespace: &Namespace) -> Self {
        let all = &snapshot.configs().peer_authentications;
        if all.is_empty() {
            return Self::default();
        }
        let of = |namespace: &Namespace, selecting: bool| {
            let first = ConfigKey { namespace: namespace.clone(), name: String::new() };
            let mut found: Vec<_> = all
                .range(first..)
                .take_while(|(key, _)| key.namespace == *namespace)
                .map(|(_, config)| config)
                .filter(|config| has_selector(&config.spec) == selecting)
                .collect();
            found.sort_by_key(|config| config.age_order());
            found.into_iter().map(Shared::of).collect::<Vec<_>>()
        };
        let root: Namespace = snapshot.mesh().root_namespace.as_str().into();
        let mut general: Vec<_> = of(&root, false).into_iter().take(1).collect();
        if root != *namespace {
            general.extend(of(namespace, false).into_iter().take(1));
        }
        let selecting = of(namespace, true);
        let turns_off = |config: &Shared<Config<PeerAuthentication>>| {
            let modes = config.spec.mtls.iter().chain(config.spec.port_level_mtls.values());
            modes.into_iter().any(|mtls| mtls.mode == MutualTlsMode::Disable)
        };
        if !general.iter().chain(&selecting).any(turns_off) {
            return Self::default();
        }
        Self { general, selecting }
    }

    /// Whether mutual TLS is turned off for the namespace as a whole.
    pub(crate) fn namespace_is_off(&self) -> bool {
        let mode = self.general.iter().rev().find_map(|config| mode(&config.spec));
        mode == Some(MutualTlsMode::Disable)
    }

    /// Whether it is turned off for a port of the workload with these labels.
    fn is_off(&self, labels: &BTreeMap<String, String>, port: u16) -> bool {
        let selecting = self.selecting.iter().find(|config| {
            let selector = config.spec.selector.as_ref().map(|selector| &selector.match_labels);
            selector.is_some_and(|wanted| wanted.iter().all(|(key, value)| labels.get(key) == Some(value)))
        });
        if let Some(config) = selecting {
            let of_port = config.spec.port_level_mtls.get(&port.to_string()).map(|mtls| mtls.mode);
            if let Some(found) = of_port.filter(|mode| *mode != MutualTlsMode::Unset).or(mode(&config.spec)) {
                return found == MutualTlsMode::Disable;
            }
        }
        self.namespace_is_off()
    }

    /// Whether clients speak mutual TLS to a port of this endpoint, where no rule says otherwise.
    pub(crate) fn allow(&self, endpoint: &Endpoint, port: u16) -> bool {
        is_capable(endpoint) && !self.is_off(&endpoint.labels, port)
    }
}

/// Whether an endpoint says that it takes mutual TLS: by its label, or, where it is written by hand and nothing is said,
/// by having an identity (`WorkloadEntry.serviceAccount`).
pub(crate) fn is_capable(endpoint: &Endpoint) -> bool {
    match endpoint.labels.get(LABEL) {
        Some(mode) => mode == "istio",
        None => {
            let is_pod = endpoint.workload.as_ref().is_some_and(|key| key.kind == WorkloadKind::Pod);
            !is_pod && !endpoint.service_account.is_empty()
        }
    }
}

fn has_selector(spec: &PeerAuthentication) -> bool {
    spec.selector.as_ref().is_some_and(|selector| !selector.match_labels.is_empty())
}

fn mode(spec: &PeerAuthentication) -> Option<MutualTlsMode> {
    spec.mtls.as_ref().map(|mtls| mtls.mode).filter(|mode| *mode != MutualTlsMode::Unset)
}

#[cfg(test)]
mod tests {
    use lateen_model::{Address, ConfigKind, ConfigObject, Meta};
    use serde_json::{Value, json};

    use super::*;

    fn endpoint(labels: &[(&str, &str)]) -> Endpoint {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Endpoint { labels, ..Endpoint::new(Address::Ip(vec!["10.0.0.1".parse().unwrap()])) }
    }

    #[test]
    fn policies() {
        let istio = [(LABEL, "istio"), ("app", "a")];
        type Row = (&'static str, Vec<(&'static str, Value)>, bool, bool);
        let table: Vec<Row> = vec![
            ("none", vec![], true, false),
            ("strict", vec![("ns", json!({"mtls": {"mode": "STRICT"}}))], true, false),
            ("off in the namespace", vec![("ns", json!({"mtls": {"mode": "DISABLE"}}))], false, true),
            ("off in another", vec![("other", json!({"mtls": {"mode": "DISABLE"}}))], true, false),
            ("off in the mesh", vec![("istio-system", json!({"mtls": {"mode": "DISABLE"}}))], false, true),
            (
                "the namespace over the mesh",
                vec![
                    ("istio-system", json!({"mtls": {"mode": "DISABLE"}})),
                    ("ns", json!({"mtls": {"mode": "PERMISSIVE"}})),
                ],
                true,
                false,
            ),
            (
                "a workload",
                vec![("ns", json!({"selector": {"matchLabels": {"app": "a"}}, "mtls": {"mode": "DISABLE"}}))],
                false,
                false,
            ),
            (
                "another workload",
                vec![("ns", json!({"selector": {"matchLabels": {"app": "b"}}, "mtls": {"mode": "DISABLE"}}))],
                true,
                false,
            ),
            (
                "a port",
                vec![(
                    "ns",
                    json!({"selector": {"matchLabels": {"app": "a"}}, "portLevelMtls": {"80": {"mode": "DISABLE"}}}),
                )],
                false,
                false,
            ),
        ];
        for (name, objects, allowed, off) in table {
            let mut edit = Snapshot::default().edit();
            for (index, (namespace, spec)) in objects.into_iter().enumerate() {
                let meta = Meta { namespace: namespace.into(), name: format!("p{index}"), ..Meta::default() };
                let kind = ConfigKind::PeerAuthentication;
                edit.put_config(ConfigObject::from_json(kind, meta, spec).unwrap());
            }
            let made = Policies::new(&edit.finish().0, &"ns".into());
            assert_eq!(made.allow(&endpoint(&istio), 80), allowed, "{name}");
            assert_eq!(made.namespace_is_off(), off, "{name}");
            assert!(!made.allow(&endpoint(&[("app", "a")]), 80), "{name}: without the label");
        }
    }
}
