//! How strategic merge patch treats the fields of the built-in kinds.
//!
//! The facts are the `patchStrategy` and `patchMergeKey` tags of Kubernetes' API types, as its API reference prints
//! them ("patch strategy: merge", "patches merge on key"). What is not listed follows the defaults: objects merge,
//! lists and values are replaced.

/// A type of the API, as far as strategic merge patch needs it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Type {
    fields: &'static [(&'static str, Field)],
}

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    /// An object of a type.
    Object(&'static Type),
    /// An object with `patchStrategy: retainKeys`: the patch names the keys that stay.
    RetainKeys(&'static Type),
    /// A list that merges on a key.
    Keyed(&'static str, &'static Type),
    /// A list that merges on a key, whose elements are replaced as unions (`merge,retainKeys`).
    KeyedUnion(&'static str, &'static Type),
    /// A list of values that merges as a set.
    Set,
    /// Anything else.
    Plain,
}

impl Type {
    /// All fields about which something is to be said.
    pub(super) fn fields(&self) -> &'static [(&'static str, Field)] {
        self.fields
    }

    /// What a field holds.
    pub(super) fn field(&self, name: &str) -> Field {
        self.fields.iter().find(|(field, _)| *field == name).map_or(Field::Plain, |(_, field)| *field)
    }
}

/// The type of a kind's objects.
pub(super) fn of_kind(group: &str, kind: &str) -> &'static Type {
    match (group, kind) {
        ("", "Pod") => &POD,
        ("", "Service") => &SERVICE,
        ("", "ServiceAccount") => &SERVICE_ACCOUNT,
        ("", "Node") => &NODE,
        ("", "Namespace") => &NAMESPACE,
        ("apps", "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet") => &DEPLOYMENT,
        ("batch", "Job") => &DEPLOYMENT,
        ("admissionregistration.k8s.io", _) => &WEBHOOKS,
        _ => &OBJECT,
    }
}

use Field::{Keyed, KeyedUnion, Object, RetainKeys, Set};

/// A type about which nothing is to be said.
pub(super) static ANY: Type = Type { fields: &[] };

static METADATA: Type = Type { fields: &[("finalizers", Set), ("ownerReferences", Keyed("uid", &ANY))] };

static OBJECT: Type = Type { fields: &[("metadata", Object(&METADATA))] };

static POD: Type = Type {
    fields: &[("metadata", Object(&METADATA)), ("spec", Object(&POD_SPEC)), ("status", Object(&POD_STATUS))],
};

static POD_TEMPLATE: Type = Type { fields: &[("metadata", Object(&METADATA)), ("spec", Object(&POD_SPEC))] };

static POD_SPEC: Type = Type {
    fields: &[
        ("containers", Keyed("name", &CONTAINER)),
        ("initContainers", Keyed("name", &CONTAINER)),
        ("ephemeralContainers", Keyed("name", &CONTAINER)),
        ("volumes", KeyedUnion("name", &ANY)),
        ("imagePullSecrets", Keyed("name", &ANY)),
        ("hostAliases", Keyed("ip", &ANY)),
        ("topologySpreadConstraints", Keyed("topologyKey", &ANY)),
        ("schedulingGates", Keyed("name", &ANY)),
        ("resourceClaims", KeyedUnion("name", &ANY)),
    ],
};

static CONTAINER: Type = Type {
    fields: &[
        ("ports", Keyed("containerPort", &ANY)),
        ("env", Keyed("name", &ANY)),
        ("volumeMounts", Keyed("mountPath", &ANY)),
        ("volumeDevices", Keyed("devicePath", &ANY)),
    ],
};

static POD_STATUS: Type = Type {
    fields: &[
        ("conditions", Keyed("type", &ANY)),
        ("podIPs", Keyed("ip", &ANY)),
        ("hostIPs", Keyed("ip", &ANY)),
        ("resourceClaimStatuses", KeyedUnion("name", &ANY)),
    ],
};

static DEPLOYMENT: Type = Type {
    fields: &[
        ("metadata", Object(&METADATA)),
        ("spec", Object(&DEPLOYMENT_SPEC)),
        ("status", Object(&CONDITIONS)),
    ],
};

static DEPLOYMENT_SPEC: Type =
    Type { fields: &[("template", Object(&POD_TEMPLATE)), ("strategy", RetainKeys(&ANY))] };

static CONDITIONS: Type = Type { fields: &[("conditions", Keyed("type", &ANY))] };

static SERVICE: Type = Type {
    fields: &[
        ("metadata", Object(&METADATA)),
        ("spec", Object(&SERVICE_SPEC)),
        ("status", Object(&CONDITIONS)),
    ],
};

static SERVICE_SPEC: Type = Type { fields: &[("ports", Keyed("port", &ANY))] };

static SERVICE_ACCOUNT: Type =
    Type { fields: &[("metadata", Object(&METADATA)), ("secrets", Keyed("name", &ANY))] };

static NODE: Type = Type {
    fields: &[
        ("metadata", Object(&METADATA)),
        ("spec", Object(&NODE_SPEC)),
        ("status", Object(&NODE_STATUS)),
    ],
};

static NODE_SPEC: Type = Type { fields: &[("podCIDRs", Set)] };

static NODE_STATUS: Type =
    Type { fields: &[("conditions", Keyed("type", &ANY)), ("addresses", Keyed("type", &ANY))] };

static NAMESPACE: Type = Type { fields: &[("metadata", Object(&METADATA)), ("status", Object(&CONDITIONS))] };

static WEBHOOKS: Type =
    Type { fields: &[("metadata", Object(&METADATA)), ("webhooks", Keyed("name", &ANY))] };
