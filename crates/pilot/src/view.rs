//! What a class holds at one moment.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use imbl::OrdMap;
use lateen_envoy::type_urls::{CLUSTER, ENDPOINT, EXTENSION_CONFIG, LISTENER, ROUTE};

use crate::encoded::Encoded;
use crate::name_table::NAME_TABLE;
use crate::on_demand::HostTable;

/// Resources by name. Clones share.
pub(crate) type Resources = OrdMap<Arc<str>, Arc<Encoded>>;

/// By type URL, the names of the resources that came, went or changed; of virtual hosts that are asked for, those of their
/// tables.
pub type Changed = BTreeMap<&'static str, BTreeSet<Arc<str>>>;

/// Resources of all types.
#[derive(Debug, Clone, Default)]
pub(crate) struct ResourceSet {
    pub(crate) clusters: Resources,
    pub(crate) endpoints: Resources,
    pub(crate) listeners: Resources,
    pub(crate) routes: Resources,
    /// Whether virtual hosts and clusters of services are sent only to who asks for them.
    pub(crate) on_demand: bool,
    /// Of tables whose virtual hosts are asked for: these, by the table's name.
    pub(crate) tables: OrdMap<Arc<str>, Arc<HostTable>>,
    /// What EnvoyFilters add of extensions.
    pub(crate) extensions: Resources,
    /// The one resource of its kind.
    pub(crate) name_table: Option<Arc<Encoded>>,
}

/// What a class holds at one moment. Clones share, and never change.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// What it has in common with all who call the same services in the same way.
    pub(crate) shared: ResourceSet,
    /// What is made for its own application.
    pub(crate) own: ResourceSet,
}

impl ResourceSet {
    fn of_type(&self, type_url: &str) -> Option<&Resources> {
        match type_url {
            CLUSTER => Some(&self.clusters),
            ENDPOINT => Some(&self.endpoints),
            LISTENER => Some(&self.listeners),
            ROUTE => Some(&self.routes),
            EXTENSION_CONFIG => Some(&self.extensions),
            _ => None,
        }
    }
}

impl View {
    /// All resources of a type, in the order of names.
    pub fn list<'a>(&'a self, type_url: &'a str) -> impl Iterator<Item = &'a Arc<Encoded>> {
        let mut shared = self.shared.of_type(type_url).into_iter().flat_map(|all| all.values()).peekable();
        let mut own = self.own.of_type(type_url).into_iter().flat_map(|all| all.values()).peekable();
        let table = self.shared.name_table.iter().filter(move |_| type_url == NAME_TABLE);
        std::iter::from_fn(move || match (shared.peek(), own.peek()) {
            (Some(left), Some(right)) if right.name < left.name => own.next(),
            (Some(_), _) => shared.next(),
            (None, _) => own.next(),
        })
        .chain(table)
    }

    /// How many resources of a type there are.
    pub fn count(&self, type_url: &str) -> usize {
        if type_url == NAME_TABLE {
            return usize::from(self.shared.name_table.is_some());
        }
        [&self.shared, &self.own]
            .into_iter()
            .filter_map(|set| set.of_type(type_url))
            .map(|all| all.len())
            .sum()
    }

    /// One resource.
    pub fn get(&self, type_url: &str, name: &str) -> Option<&Arc<Encoded>> {
        if type_url == NAME_TABLE {
            return self.shared.name_table.as_ref().filter(|table| *table.name == *name);
        }
        let find = |set| ResourceSet::of_type(set, type_url)?.get(name);
        find(&self.own).or_else(|| find(&self.shared))
    }
}

/// Puts `next` in the place of all present resources, and names what differs. Entries that are as before stay where
/// they are, so that views share them.
pub(crate) fn replace(
    present: &mut Resources,
    next: impl IntoIterator<Item = Arc<Encoded>>,
    changed: &mut BTreeSet<Arc<str>>,
) {
    let mut kept = HashSet::new();
    for resource in next {
        kept.insert(Arc::clone(&resource.name));
        put(present, resource, changed);
    }
    if kept.len() == present.len() {
        return;
    }
    let gone: Vec<Arc<str>> = present.keys().filter(|name| !kept.contains(*name)).cloned().collect();
    for name in gone {
        present.remove(&name);
        changed.insert(name);
    }
}

/// Puts one resource in its place.
pub(crate) fn put(present: &mut Resources, resource: Arc<Encoded>, changed: &mut BTreeSet<Arc<str>>) {
    // The old allocation stays where the bytes are equal: streams compare pointers first.
    let same = present.get(&resource.name).is_some_and(|old| old.version == resource.version);
    if !same {
        changed.insert(Arc::clone(&resource.name));
        present.insert(Arc::clone(&resource.name), resource);
    }
}
