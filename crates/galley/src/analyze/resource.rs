//! Objects as analysis sees them: any kind, with its origin.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use crate::Document;

/// An object and where it came from.
#[derive(Debug, Clone)]
pub struct Resource {
    /// API group; empty for Kubernetes' core.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Namespace; empty for what has none, and for files whose objects name none.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// The whole object with the lines of its file.
    pub document: Document,
    /// Cluster that it is in; empty where there is only one.
    pub cluster: Arc<str>,
    /// File that it is in; empty for what a cluster holds.
    pub file: Arc<str>,
}

/// The object that a message is about: enough of it to be found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    /// Cluster that it is in; empty where there is only one.
    pub cluster: Arc<str>,
    /// Namespace; may be empty.
    pub namespace: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// File that it is in; empty for what a cluster holds.
    pub file: Arc<str>,
}

// === impl Subject ===

impl From<&Resource> for Subject {
    fn from(resource: &Resource) -> Self {
        Self {
            cluster: resource.cluster.clone(),
            namespace: resource.namespace.clone(),
            kind: resource.kind.clone(),
            name: resource.name.clone(),
            file: resource.file.clone(),
        }
    }
}

/// `Kind namespace/name`, or `Kind name`.
impl fmt::Display for Subject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.is_empty() {
            true => write!(formatter, "{} {}", self.kind, self.name),
            false => write!(formatter, "{} {}/{}", self.kind, self.namespace, self.name),
        }
    }
}

// === impl Resource ===

impl Resource {
    /// An object of a cluster or of a file. Objects of files take `default_namespace` where they name none, unless
    /// their kind has none.
    pub fn new(document: Document, cluster: &Arc<str>, file: &Arc<str>, default_namespace: &str) -> Self {
        let object = &document.value;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (group, _) =
            object["apiVersion"].as_str().unwrap_or_default().split_once('/').unwrap_or_default();
        let kind = text(&object["kind"]);
        let metadata = &object["metadata"];
        let mut namespace = text(&metadata["namespace"]);
        if namespace.is_empty() && !is_cluster_scoped(&kind) {
            default_namespace.clone_into(&mut namespace);
        }
        Self {
            group: group.to_owned(),
            kind,
            namespace,
            name: text(&metadata["name"]),
            labels: texts(&metadata["labels"]),
            annotations: texts(&metadata["annotations"]),
            document,
            cluster: cluster.clone(),
            file: file.clone(),
        }
    }

    /// The object's `spec`.
    pub fn spec(&self) -> &Value {
        &self.document.value["spec"]
    }

    /// Any other field of the object.
    pub fn field(&self, name: &str) -> &Value {
        &self.document.value[name]
    }

    /// `namespace/name`, or the name alone where there is no namespace.
    pub fn full_name(&self) -> String {
        match self.namespace.is_empty() {
            true => self.name.clone(),
            false => format!("{}/{}", self.namespace, self.name),
        }
    }

    /// Whether it is part of the control plane itself.
    pub fn is_control_plane(&self) -> bool {
        self.labels.contains_key("istio")
            || self.labels.get("release").is_some_and(|release| release == "istio")
    }
}

/// A map of texts; other values are left out.
pub(super) fn texts(value: &Value) -> BTreeMap<String, String> {
    let fields = value.as_object().into_iter().flatten();
    fields.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

fn is_cluster_scoped(kind: &str) -> bool {
    matches!(
        kind,
        "Namespace"
            | "Node"
            | "MutatingWebhookConfiguration"
            | "ValidatingWebhookConfiguration"
            | "CustomResourceDefinition"
            | "GatewayClass"
            | "ClusterRole"
            | "ClusterRoleBinding"
            | "PersistentVolume"
    )
}
