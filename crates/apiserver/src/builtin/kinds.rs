//! The kinds the server brings along: a table of facts, as the Kubernetes API reference prints them.

use crate::seam::{KindInfo, Origin, ScalePaths, Subresource};

/// What sets the built-in kinds apart.
struct Facts {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    short_names: &'static [&'static str],
    categories: &'static [&'static str],
    namespaced: bool,
    subresources: &'static [&'static str],
    generation: bool,
    fields: &'static [&'static str],
    verbs: &'static [&'static str],
}

const PLAIN: Facts = Facts {
    group: "",
    version: "v1",
    kind: "",
    plural: "",
    short_names: &[],
    categories: &[],
    namespaced: true,
    subresources: &[],
    generation: false,
    fields: &[],
    verbs: VERBS,
};

const FACTS: &[Facts] = &[
    Facts { kind: "ConfigMap", plural: "configmaps", short_names: &["cm"], ..PLAIN },
    Facts { kind: "Endpoints", plural: "endpoints", short_names: &["ep"], ..PLAIN },
    Facts { kind: "Event", plural: "events", short_names: &["ev"], fields: EVENT_FIELDS, ..PLAIN },
    Facts {
        kind: "Namespace",
        plural: "namespaces",
        short_names: &["ns"],
        namespaced: false,
        subresources: &["status", "finalize"],
        fields: &["status.phase"],
        ..PLAIN
    },
    Facts {
        kind: "Node",
        plural: "nodes",
        short_names: &["no"],
        namespaced: false,
        subresources: &["status"],
        fields: &["spec.unschedulable"],
        ..PLAIN
    },
    Facts {
        kind: "Pod",
        plural: "pods",
        short_names: &["po"],
        categories: &["all"],
        subresources: &["status", "log", "portforward", "proxy"],
        generation: true,
        fields: &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        ..PLAIN
    },
    Facts { kind: "Secret", plural: "secrets", fields: &["type"], ..PLAIN },
    Facts {
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        short_names: &["sa"],
        subresources: &["token"],
        ..PLAIN
    },
    Facts {
        kind: "Service",
        plural: "services",
        short_names: &["svc"],
        categories: &["all"],
        subresources: &["status", "proxy"],
        fields: &["spec.clusterIP", "spec.type"],
        ..PLAIN
    },
    Facts {
        group: "admissionregistration.k8s.io",
        kind: "MutatingWebhookConfiguration",
        plural: "mutatingwebhookconfigurations",
        categories: &["api-extensions"],
        namespaced: false,
        generation: true,
        ..PLAIN
    },
    Facts {
        group: "admissionregistration.k8s.io",
        kind: "ValidatingWebhookConfiguration",
        plural: "validatingwebhookconfigurations",
        categories: &["api-extensions"],
        namespaced: false,
        generation: true,
        ..PLAIN
    },
    Facts {
        group: "apiextensions.k8s.io",
        kind: "CustomResourceDefinition",
        plural: "customresourcedefinitions",
        short_names: &["crd", "crds"],
        categories: &["api-extensions"],
        namespaced: false,
        subresources: &["status"],
        generation: true,
        ..PLAIN
    },
    Facts {
        group: "apps",
        kind: "Deployment",
        plural: "deployments",
        short_names: &["deploy"],
        categories: &["all"],
        subresources: &["status", "scale"],
        generation: true,
        ..PLAIN
    },
    Facts {
        group: "apps",
        kind: "ReplicaSet",
        plural: "replicasets",
        short_names: &["rs"],
        categories: &["all"],
        subresources: &["status", "scale"],
        generation: true,
        fields: &["status.replicas"],
        ..PLAIN
    },
    Facts { group: "coordination.k8s.io", kind: "Lease", plural: "leases", ..PLAIN },
    Facts {
        group: "discovery.k8s.io",
        kind: "EndpointSlice",
        plural: "endpointslices",
        generation: true,
        ..PLAIN
    },
    Facts {
        group: "events.k8s.io",
        kind: "Event",
        plural: "events",
        short_names: &["ev"],
        fields: &[
            "regarding.kind",
            "regarding.name",
            "regarding.namespace",
            "regarding.uid",
            "reason",
            "type",
        ],
        ..PLAIN
    },
    Facts { group: RBAC, kind: "ClusterRole", plural: "clusterroles", namespaced: false, ..PLAIN },
    Facts {
        group: RBAC,
        kind: "ClusterRoleBinding",
        plural: "clusterrolebindings",
        namespaced: false,
        ..PLAIN
    },
    Facts { group: RBAC, kind: "Role", plural: "roles", ..PLAIN },
    Facts { group: RBAC, kind: "RoleBinding", plural: "rolebindings", ..PLAIN },
    review("authentication.k8s.io", "SelfSubjectReview", "selfsubjectreviews"),
    review("authentication.k8s.io", "TokenReview", "tokenreviews"),
    Facts {
        namespaced: true,
        ..review("authorization.k8s.io", "LocalSubjectAccessReview", "localsubjectaccessreviews")
    },
    review("authorization.k8s.io", "SelfSubjectAccessReview", "selfsubjectaccessreviews"),
    review("authorization.k8s.io", "SelfSubjectRulesReview", "selfsubjectrulesreviews"),
    review("authorization.k8s.io", "SubjectAccessReview", "subjectaccessreviews"),
];

const RBAC: &str = "rbac.authorization.k8s.io";

/// A kind of which nothing is stored.
const fn review(group: &'static str, kind: &'static str, plural: &'static str) -> Facts {
    Facts { group, kind, plural, namespaced: false, verbs: &["create"], ..PLAIN }
}

const EVENT_FIELDS: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
];

/// What can be done with objects of every kind.
pub const VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// What can be done through a proxy, by the methods of HTTP.
const PROXY_VERBS: &[&str] = &["create", "delete", "get", "patch", "update"];

/// All built-in kinds, in the order of discovery.
pub fn kinds() -> Vec<KindInfo> {
    FACTS.iter().map(kind_info).collect()
}

fn kind_info(facts: &Facts) -> KindInfo {
    let scale = facts.subresources.contains(&"scale").then(|| ScalePaths {
        spec_replicas: ".spec.replicas".to_owned(),
        status_replicas: ".status.replicas".to_owned(),
        label_selector: Some(".spec.selector".to_owned()),
    });
    let owned = |list: &[&str]| list.iter().map(|&entry| entry.to_owned()).collect();
    // As in Kubernetes, namespaces go one by one.
    let verbs = facts
        .verbs
        .iter()
        .copied()
        .filter(|&verb| !(facts.kind == "Namespace" && verb == "deletecollection"));
    KindInfo {
        group: facts.group.to_owned(),
        version: facts.version.to_owned(),
        kind: facts.kind.to_owned(),
        list_kind: format!("{}List", facts.kind),
        plural: facts.plural.to_owned(),
        singular: facts.kind.to_ascii_lowercase(),
        short_names: owned(facts.short_names),
        categories: owned(facts.categories),
        namespaced: facts.namespaced,
        verbs: verbs.collect(),
        subresources: facts.subresources.iter().map(|name| subresource(facts, name)).collect(),
        scale,
        storage_version: facts.version.to_owned(),
        generation: facts.generation,
        origin: Origin::BuiltIn,
        selectable_fields: owned(facts.fields),
        deprecation_warning: None,
    }
}

fn subresource(facts: &Facts, name: &'static str) -> Subresource {
    let (group, version, kind, verbs) = match name {
        "scale" => ("autoscaling", "v1", "Scale", vec!["get", "patch", "update"]),
        "token" => ("authentication.k8s.io", "v1", "TokenRequest", vec!["create"]),
        // Kubernetes names the kinds of the parameters here.
        "portforward" => ("", "v1", "PodPortForwardOptions", vec!["create", "get"]),
        "proxy" if facts.kind == "Pod" => ("", "v1", "PodProxyOptions", PROXY_VERBS.to_vec()),
        "proxy" => ("", "v1", "ServiceProxyOptions", PROXY_VERBS.to_vec()),
        "log" => (facts.group, facts.version, facts.kind, vec!["get"]),
        "finalize" => (facts.group, facts.version, facts.kind, vec!["update"]),
        _ => (facts.group, facts.version, facts.kind, vec!["get", "patch", "update"]),
    };
    Subresource { name, group: group.to_owned(), version: version.to_owned(), kind: kind.to_owned(), verbs }
}

/// The group part of schema names (`io.k8s.api.apps.v1.Deployment`) for a built-in kind.
pub fn schema_name(group: &str, version: &str, kind: &str) -> String {
    match group {
        "" => format!("io.k8s.api.core.{version}.{kind}"),
        "apiextensions.k8s.io" => {
            format!("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.{version}.{kind}")
        }
        _ => format!("io.k8s.api.{}.{version}.{kind}", group.split('.').next().unwrap_or(group)),
    }
}
