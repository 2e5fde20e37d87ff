//! All EnvoyFilters, read, and which of them are for a proxy.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use lateen_api::networking::{EnvoyFilter, PatchContext, ProxyMatch};
use lateen_model::{ChangeSet, Config, ConfigKey, ConfigKind, Namespace, Snapshot};
use regex::Regex;
use serde::Serialize;

use super::{ClassPatches, Patch, fits, parse};
use crate::shared::Shared;
use crate::{Class, ProxyNode};

/// An EnvoyFilter that is for a proxy, with those of its patches that are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct SelectedFilter {
    /// The object.
    pub key: ConfigKey,
    /// The places of the patches in it.
    pub patches: Vec<usize>,
}

/// All EnvoyFilters.
#[derive(Debug, Default)]
pub(crate) struct PatchIndex {
    filters: HashMap<ConfigKey, Read>,
}

/// One of them.
#[derive(Debug)]
struct Read {
    config: Arc<Config<EnvoyFilter>>,
    patches: Vec<Option<Arc<Patch>>>,
    /// The versions of proxies that a patch is for, by its place; `None` for an expression that makes no sense.
    versions: BTreeMap<usize, Option<Regex>>,
}

impl Read {
    fn new(config: &Arc<Config<EnvoyFilter>>, old: Option<&Self>) -> Self {
        let mut patches = parse::patches(config);
        // What is as it was stays the same value, so that what was made with it stays.
        let known = || old.into_iter().flat_map(|old| old.patches.iter().flatten());
        for patch in patches.iter_mut().flatten() {
            if let Some(same) = known().find(|other| *other == patch) {
                *patch = Arc::clone(same);
            }
        }
        let mut versions = BTreeMap::new();
        for (index, patch) in config.spec.config_patches.iter().enumerate() {
            let version = patch.r#match.as_ref().and_then(|condition| condition.proxy.as_ref());
            if let Some(version) = version.map(|proxy| &proxy.proxy_version).filter(|text| !text.is_empty()) {
                versions.insert(index, Regex::new(version).ok());
            }
        }
        Self { config: Arc::clone(config), patches, versions }
    }

    fn selects(&self, node: &ProxyNode, labels: &BTreeMap<String, String>) -> bool {
        let spec = &self.config.spec;
        if !spec.target_refs.is_empty() {
            let name = labels.get("gateway.networking.k8s.io/gateway-name");
            return spec
                .target_refs
                .iter()
                .any(|target| target.kind == "Gateway" && Some(&target.name) == name)
                && self.config.meta.namespace == node.namespace;
        }
        let wanted = spec.workload_selector.as_ref().map(|selector| &selector.labels);
        wanted.is_none_or(|wanted| wanted.iter().all(|(key, value)| labels.get(key) == Some(value)))
    }

    /// The patches for the proxy's kind, version and metadata.
    fn for_proxy(&self, node: &ProxyNode) -> Vec<usize> {
        let is_for = |(index, patch): (usize, &Option<Arc<Patch>>)| {
            let patch = patch.as_ref()?;
            let proxy = patch.condition().and_then(|condition| condition.proxy.as_ref());
            let fine = fits(patch, node.role)
                && proxy.is_none_or(|proxy| self.version_fits(index, node) && metadata_fits(proxy, node));
            fine.then_some(index)
        };
        self.patches.iter().enumerate().filter_map(is_for).collect()
    }

    fn version_fits(&self, index: usize, node: &ProxyNode) -> bool {
        match self.versions.get(&index) {
            None => true,
            Some(expression) => {
                !node.version.is_empty()
                    && expression.as_ref().is_some_and(|expression| expression.is_match(&node.version))
            }
        }
    }
}

fn metadata_fits(proxy: &ProxyMatch, node: &ProxyNode) -> bool {
    proxy.metadata.iter().all(|(key, value)| node.metadata.get(key) == Some(value))
}

impl PatchIndex {
    /// Takes in what changed.
    pub(crate) fn update(&mut self, snapshot: &Snapshot, changes: &ChangeSet) {
        let present = &snapshot.configs().envoy_filters;
        if changes.full {
            self.filters.retain(|key, _| present.contains_key(key));
            present.keys().for_each(|key| self.put(snapshot, key));
            return;
        }
        for reference in changes.configs.iter().filter(|one| one.kind == ConfigKind::EnvoyFilter) {
            let key = ConfigKey { namespace: reference.namespace.clone(), name: reference.name.clone() };
            self.put(snapshot, &key);
        }
    }

    fn put(&mut self, snapshot: &Snapshot, key: &ConfigKey) {
        let old = self.filters.remove(key);
        let Some(config) = snapshot.configs().envoy_filters.get(key) else { return };
        let read = match old {
            Some(old) if Arc::ptr_eq(&old.config, config) => old,
            old => Read::new(config, old.as_ref()),
        };
        self.filters.insert(key.clone(), read);
    }

    /// Those for a proxy: by priority, the root namespace's before its own, oldest first.
    pub(crate) fn select(
        &self,
        snapshot: &Snapshot,
        node: &ProxyNode,
        labels: &BTreeMap<String, String>,
    ) -> Vec<SelectedFilter> {
        if self.filters.is_empty() {
            return Vec::new();
        }
        let root: Namespace = snapshot.mesh().root_namespace.as_str().into();
        let mut found: Vec<&Read> = self
            .filters
            .values()
            .filter(|read| [&node.namespace, &root].contains(&&read.config.meta.namespace))
            .filter(|read| read.selects(node, labels))
            .collect();
        found.sort_by_key(|read| {
            let config = &read.config;
            (config.spec.priority, config.meta.namespace != root, config.age_order())
        });
        found
            .into_iter()
            .map(|read| SelectedFilter { key: read.config.key(), patches: read.for_proxy(node) })
            .filter(|selected| !selected.patches.is_empty())
            .collect()
    }

    /// Whether any of these changes routes outside of gateways.
    pub(crate) fn change_routes(&self, selected: &[SelectedFilter]) -> bool {
        selected.iter().any(|selected| {
            let read = self.filters.get(&selected.key);
            let mut patches = selected.patches.iter().filter_map(|index| read?.patches.get(*index)?.as_ref());
            patches.any(|patch| {
                use lateen_api::networking::EnvoyFilterApplyTo::{
                    HttpRoute, RouteConfiguration, VirtualHost,
                };
                matches!(patch.apply_to(), RouteConfiguration | VirtualHost | HttpRoute)
                    && patch.context() != PatchContext::SidecarInbound
            })
        })
    }

    /// The patches of a class.
    pub(crate) fn of(&self, class: &Class) -> ClassPatches {
        let patches = class.envoy_filters.iter().filter_map(|selected| {
            let read = self.filters.get(&selected.key)?;
            let patches = selected.patches.iter().filter_map(|index| read.patches.get(*index)?.as_ref());
            Some(patches.map(Shared::of).collect::<Vec<_>>())
        });
        ClassPatches::new(class.role, patches.flatten().collect())
    }
}
