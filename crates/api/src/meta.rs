//! The frame around every object: metadata, status, and what a kind is called.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::IntOrString;

/// A kind of the API. Implemented by the type of its `spec`.
pub trait Resource: Sized {
    /// API group, such as `networking.istio.io`.
    const GROUP: &'static str;
    /// Versions, all with the same schema; exactly one is stored.
    const VERSIONS: &'static [Version];
    /// Kind, such as `VirtualService`.
    const KIND: &'static str;
    /// Kind of a list.
    const LIST_KIND: &'static str;
    /// Plural, as in URLs.
    const PLURAL: &'static str;
    /// Singular, as `kubectl` accepts it.
    const SINGULAR: &'static str;
    /// Short names, as `kubectl` accepts them.
    const SHORT_NAMES: &'static [&'static str];
    /// Categories, such as `istio-io`.
    const CATEGORIES: &'static [&'static str];
    /// Whether objects live in a namespace.
    const SCOPE: Scope;
    /// Columns of `kubectl get`.
    const COLUMNS: &'static [PrinterColumn];
    /// Whether an object without `spec` is refused by the schema.
    const SPEC_REQUIRED: bool;

    /// The `apiVersion` in which objects are stored.
    fn api_version() -> String {
        format!("{}/{}", Self::GROUP, Self::storage_version())
    }

    /// The version in which objects are stored.
    fn storage_version() -> &'static str {
        Self::VERSIONS.iter().find(|version| version.storage).map_or("v1", |version| version.name)
    }
}

/// A version of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// Name, such as `v1beta1`.
    pub name: &'static str,
    /// Whether requests may use it.
    pub served: bool,
    /// Whether objects are stored in it.
    pub storage: bool,
}

/// Where objects of a kind live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// In a namespace.
    Namespaced,
    /// Beside the namespaces.
    Cluster,
}

/// A column of `kubectl get`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrinterColumn {
    /// Heading.
    pub name: &'static str,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub kind: &'static str,
    /// Where the value is.
    pub json_path: &'static str,
    /// What it means.
    pub description: &'static str,
}

/// `apiVersion` and `kind`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TypeMeta {
    /// Group and version.
    pub api_version: String,
    /// Kind.
    pub kind: String,
}

/// The part of Kubernetes' metadata that a mesh looks at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectMeta {
    /// Name, unique among the kind in its namespace.
    #[serde(skip_serializing_if = "crate::is_default")]
    pub name: String,
    /// Namespace; empty for what lives in none.
    #[serde(skip_serializing_if = "crate::is_default")]
    pub namespace: String,
    /// Labels, by which objects are selected.
    #[serde(skip_serializing_if = "crate::is_default")]
    pub labels: BTreeMap<String, String>,
    /// Annotations, which say more without selecting.
    #[serde(skip_serializing_if = "crate::is_default")]
    pub annotations: BTreeMap<String, String>,
    /// Unique over time.
    #[serde(skip_serializing_if = "crate::is_default")]
    pub uid: String,
    /// Version of the object in the store.
    #[serde(skip_serializing_if = "crate::is_default")]
    pub resource_version: String,
    /// Counts the changes of `spec`.
    #[serde(skip_serializing_if = "crate::is_default")]
    pub generation: i64,
    /// When it was created, RFC 3339.
    #[serde(skip_serializing_if = "crate::is_default")]
    pub creation_timestamp: Option<String>,
    /// When deletion was asked for, RFC 3339.
    #[serde(skip_serializing_if = "crate::is_default")]
    pub deletion_timestamp: Option<String>,
    /// Who has to do something before it is gone.
    #[serde(skip_serializing_if = "crate::is_default")]
    pub finalizers: Vec<String>,
    /// Whose deletion deletes it.
    #[serde(skip_serializing_if = "crate::is_default")]
    pub owner_references: Vec<OwnerReference>,
}

/// An owner of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnerReference {
    /// Group and version of the owner.
    pub api_version: String,
    /// Kind of the owner.
    pub kind: String,
    /// Name of the owner.
    pub name: String,
    /// Unique id of the owner.
    pub uid: String,
    /// Whether this owner controls the object.
    #[serde(skip_serializing_if = "crate::is_default")]
    pub controller: Option<bool>,
    /// Whether the owner's deletion waits for the object's.
    #[serde(skip_serializing_if = "crate::is_default")]
    pub block_owner_deletion: Option<bool>,
}

/// A whole object: metadata, `spec`, `status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(
    rename_all = "camelCase",
    bound(deserialize = "Spec: Default + Deserialize<'de>, Status: Deserialize<'de>")
)]
pub struct Object<Spec, Status = IstioStatus> {
    /// Group and version.
    #[serde(default)]
    pub api_version: String,
    /// Kind.
    #[serde(default)]
    pub kind: String,
    /// Name, namespace, labels and the like.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What the user wants.
    #[serde(default)]
    pub spec: Spec,
    /// What the mesh reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
}

impl<Spec: Resource, Status> Object<Spec, Status> {
    /// An object of that name, in the stored version.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>, spec: Spec) -> Self {
        Self {
            api_version: Spec::api_version(),
            kind: Spec::KIND.to_owned(),
            metadata: ObjectMeta { name: name.into(), namespace: namespace.into(), ..ObjectMeta::default() },
            spec,
            status: None,
        }
    }
}

message! {
    /// What the mesh reports about an object of its own kinds.
    #[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
    pub struct IstioStatus {
        /// Current observations.
        pub conditions: Vec<IstioCondition>,
        /// Problems that analysis found.
        pub validation_messages: Vec<AnalysisMessage>,
        /// The generation that was looked at.
        pub observed_generation: Option<IntOrString>,
    }

    /// One observation.
    pub struct IstioCondition {
        /// What is observed.
        #[serde(rename = "type")]
        pub condition_type: String,
        /// `True`, `False` or `Unknown`.
        pub status: String,
        /// When it was last looked at.
        #[schemars(extend("format" = "date-time"))]
        pub last_probe_time: Option<String>,
        /// When the status last changed.
        #[schemars(extend("format" = "date-time"))]
        pub last_transition_time: Option<String>,
        /// One word for machines.
        pub reason: String,
        /// A sentence for people.
        pub message: String,
        /// The generation that was looked at.
        pub observed_generation: Option<IntOrString>,
    }

    /// A problem that analysis found.
    pub struct AnalysisMessage {
        /// Which problem.
        #[serde(rename = "type")]
        pub message_type: Option<AnalysisMessageType>,
        /// How grave it is.
        pub level: MessageLevel,
        /// Where to read more.
        pub documentation_url: String,
    }

    /// Which problem it is.
    pub struct AnalysisMessageType {
        /// Name for people.
        pub name: String,
        /// Code for machines, such as `IST0101`.
        pub code: String,
    }
}

enumeration! {
    /// How grave a message is.
    pub enum MessageLevel { #[default] Unknown, Error, Warning, Info }
}

/// Served versions, the stored one first.
macro_rules! versions {
    ($storage:literal $(, $served:literal)*) => {
        &[
            $crate::Version { name: $storage, served: true, storage: true },
            $($crate::Version { name: $served, served: true, storage: false },)*
        ]
    };
}

/// Implements [`Resource`] for a namespaced kind of Istio.
macro_rules! resource {
    (
        $kind:ident, $group:literal, $versions:expr, $plural:literal, $singular:literal,
        short: [$($short:literal),*], category: $category:literal, spec_required: $required:literal,
        columns: [$($name:literal $type:literal $path:literal $description:literal),*]
    ) => {
        impl $crate::Resource for $kind {
            const GROUP: &'static str = $group;
            const VERSIONS: &'static [$crate::Version] = $versions;
            const KIND: &'static str = stringify!($kind);
            const LIST_KIND: &'static str = concat!(stringify!($kind), "List");
            const PLURAL: &'static str = $plural;
            const SINGULAR: &'static str = $singular;
            const SHORT_NAMES: &'static [&'static str] = &[$($short),*];
            const CATEGORIES: &'static [&'static str] = &["istio-io", $category];
            const SCOPE: $crate::Scope = $crate::Scope::Namespaced;
            const COLUMNS: &'static [$crate::PrinterColumn] = &[$(
                $crate::PrinterColumn { name: $name, kind: $type, json_path: $path, description: $description }
            ),*];
            const SPEC_REQUIRED: bool = $required;
        }
    };
}

/// Implements [`Resource`] for a kind of somebody else's API.
macro_rules! foreign_resource {
    (
        $kind:ident, $group:literal, $versions:expr, $plural:literal, $singular:literal, short: [$($short:literal),*],
        $scope:expr
    ) => {
        impl $crate::Resource for $kind {
            const GROUP: &'static str = $group;
            const VERSIONS: &'static [$crate::Version] = $versions;
            const KIND: &'static str = stringify!($kind);
            const LIST_KIND: &'static str = concat!(stringify!($kind), "List");
            const PLURAL: &'static str = $plural;
            const SINGULAR: &'static str = $singular;
            const SHORT_NAMES: &'static [&'static str] = &[$($short),*];
            const CATEGORIES: &'static [&'static str] = &[];
            const SCOPE: $crate::Scope = $scope;
            const COLUMNS: &'static [$crate::PrinterColumn] = &[];
            const SPEC_REQUIRED: bool = true;
        }
    };
}

pub(crate) use {foreign_resource, resource, versions};
