//! The set of changes between two snapshots.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::{ConfigKind, ConfigReference, Namespace, ServiceKey, WorkloadKey};

/// What differs between two snapshots, by key. Merging is union: keys only ever say "look again", so a set that names
/// too much costs work and never correctness.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ChangeSet {
    /// Services that came, went or changed.
    pub services: BTreeSet<ServiceKey>,
    /// Services whose endpoints changed.
    pub endpoints: BTreeSet<ServiceKey>,
    /// Workloads that came, went or changed.
    pub workloads: BTreeSet<WorkloadKey>,
    /// Configuration objects that came, went or changed.
    pub configs: BTreeSet<ConfigReference>,
    /// Namespaces that came, went or changed their labels.
    pub namespaces: BTreeSet<Namespace>,
    /// Whether the mesh's settings changed.
    pub mesh: bool,
    /// Whether everything must be looked at again, as at the first snapshot.
    pub full: bool,
}

impl ChangeSet {
    /// The set that names everything.
    pub fn full() -> Self {
        Self { full: true, ..Self::default() }
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Takes in the changes that followed.
    pub fn merge(&mut self, later: ChangeSet) {
        self.services.extend(later.services);
        self.endpoints.extend(later.endpoints);
        self.workloads.extend(later.workloads);
        self.configs.extend(later.configs);
        self.namespaces.extend(later.namespaces);
        self.mesh |= later.mesh;
        self.full |= later.full;
    }

    /// Whether any object of this kind changed.
    pub fn touches(&self, kind: ConfigKind) -> bool {
        self.full || self.configs.iter().any(|reference| reference.kind == kind)
    }

    /// Whether nothing but endpoints and workloads changed: the common case, and the cheap one.
    pub fn only_endpoints(&self) -> bool {
        !self.full
            && !self.mesh
            && self.services.is_empty()
            && self.configs.is_empty()
            && self.namespaces.is_empty()
    }
}
