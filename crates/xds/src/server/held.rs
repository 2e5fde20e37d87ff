//! What a client holds of one type. Most clients hold exactly what their snapshot says: then the snapshot is kept, which
//! many share, and names are kept only for exceptions.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::EncodedResource;
use crate::source::Holding;

/// See the module's documentation.
#[derive(Default)]
pub(super) struct HeldSet {
    /// All of it that the client wants is held, but for the exceptions.
    base: Option<Arc<dyn Holding>>,
    /// `None` is not held though the base has it.
    exceptions: HashMap<Arc<str>, Option<Held>>,
}

/// A resource that a client holds.
#[derive(Clone)]
pub(super) struct Held {
    pub(super) version: Arc<str>,
    /// Kept for state of the world, where a response repeats what did not change.
    pub(super) resource: Option<Arc<EncodedResource>>,
}

/// What a client wants of a type.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) type_url: &'a str,
    pub(super) wildcard: bool,
    pub(super) names: &'a BTreeSet<Arc<str>>,
}

impl Wanted<'_> {
    pub(super) fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }
}

impl HeldSet {
    /// The version that is held.
    pub(super) fn version(&self, wanted: Wanted<'_>, name: &str) -> Option<Arc<str>> {
        match self.exceptions.get(name) {
            Some(exception) => exception.as_ref().map(|held| Arc::clone(&held.version)),
            None if wanted.wants(name) => self.base.as_ref()?.version(wanted.type_url, name),
            None => None,
        }
    }

    pub(super) fn contains(&self, wanted: Wanted<'_>, name: &str) -> bool {
        self.version(wanted, name).is_some()
    }

    /// All names that are held.
    pub(super) fn names(&self, wanted: Wanted<'_>) -> BTreeSet<Arc<str>> {
        let held =
            self.exceptions.iter().filter(|(_, held)| held.is_some()).map(|(name, _)| Arc::clone(name));
        let mut names: BTreeSet<Arc<str>> = held.collect();
        if let Some(base) = &self.base {
            let of_base = base.names(wanted.type_url).into_iter();
            names.extend(of_base.filter(|name| wanted.wants(name) && !self.exceptions.contains_key(name)));
        }
        names
    }

    /// How many are held; for names that a client wants one by one and the base stands for, how many it wants.
    pub(super) fn len(&self, wanted: Wanted<'_>) -> usize {
        match &self.base {
            None => self.exceptions.len(),
            Some(base) if wanted.wildcard => base.count(wanted.type_url),
            Some(_) => wanted.names.len(),
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Is held now.
    pub(super) fn insert(&mut self, name: Arc<str>, held: Held) {
        self.exceptions.insert(name, Some(held));
    }

    /// Is not held any more.
    pub(super) fn remove(&mut self, type_url: &str, name: &Arc<str>) {
        if self.base.as_ref().is_some_and(|base| base.version(type_url, name).is_some()) {
            self.exceptions.insert(Arc::clone(name), None);
        } else {
            self.exceptions.remove(name);
        }
    }

    /// Forgets what is not wanted any more.
    pub(super) fn keep_wanted(&mut self, wanted: Wanted<'_>) {
        self.exceptions.retain(|name, _| wanted.wants(name));
    }

    /// The client has all of `base` now, but still holds `withheld`, which is not in it.
    pub(super) fn rebase(&mut self, base: Arc<dyn Holding>, withheld: &BTreeSet<Arc<str>>) {
        let kept: HashMap<_, _> = withheld
            .iter()
            .map(|name| {
                let held = self.exceptions.remove(name).flatten();
                let held = held.unwrap_or_else(|| Held { version: Arc::from(""), resource: None });
                (Arc::clone(name), Some(held))
            })
            .collect();
        self.exceptions = kept;
        self.base = Some(base);
    }

    /// The newest of equal snapshots is kept, so that the older can go.
    pub(super) fn move_base(&mut self, base: Arc<dyn Holding>) {
        if self.base.is_some() {
            self.base = Some(base);
        }
    }

    /// The resources themselves, by name; for state of the world, which has no base.
    pub(super) fn resources(&self) -> std::collections::BTreeMap<&Arc<str>, &Arc<EncodedResource>> {
        let held = self.exceptions.iter();
        held.filter_map(|(name, held)| Some((name, held.as_ref()?.resource.as_ref()?))).collect()
    }
}

impl From<&Arc<EncodedResource>> for Held {
    fn from(resource: &Arc<EncodedResource>) -> Self {
        Self { version: resource.version().clone(), resource: Some(resource.clone()) }
    }
}

impl FromIterator<(Arc<str>, Held)> for HeldSet {
    fn from_iter<T: IntoIterator<Item = (Arc<str>, Held)>>(iter: T) -> Self {
        let exceptions = iter.into_iter().map(|(name, held)| (name, Some(held))).collect();
        Self { base: None, exceptions }
    }
}
