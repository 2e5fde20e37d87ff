//! Configuration objects: the user's word, typed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use lateen_api as api;
use serde::{Serialize, Serializer};

use crate::{Namespace, Visibility};

/// What every object carries, whatever its kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Meta {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Seconds since 1970 when it was created.
    pub created: i64,
    /// Counts the changes of the spec.
    pub generation: i64,
    /// What the mesh said about the object before and now reads back.
    pub reported: Reported,
}

/// The parts of an object's status that count as configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Reported {
    /// Of a ServiceEntry: the address that the mesh gave to each host (`status.addresses`).
    pub addresses: Vec<(String, IpAddr)>,
    /// Of a WorkloadEntry: whether it may get requests (condition `Healthy`), where its health is known.
    pub healthy: Option<bool>,
}

/// The key of an object within its kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ConfigKey {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: String,
}

/// The key of an object among all kinds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ConfigReference {
    /// Its kind.
    pub kind: ConfigKind,
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: String,
}

/// One configuration object. Status is left out but for what [`Reported`] holds: writing it changes no configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Config<T> {
    /// Name, labels and age.
    pub meta: Meta,
    /// What the user asked for.
    pub spec: Arc<T>,
}

impl<T> Config<T> {
    /// The key within the kind.
    pub fn key(&self) -> ConfigKey {
        ConfigKey { namespace: self.meta.namespace.clone(), name: self.meta.name.clone() }
    }

    /// Order among conflicting objects: the older wins, then the name decides (Istio sorts in the same way).
    pub fn age_order(&self) -> (i64, &str, &str) {
        (self.meta.created, &self.meta.name, &self.meta.namespace)
    }

    /// Whether proxies of `namespace` may see it, by its `exportTo`.
    pub fn visible_to(&self, export_to: &[String], namespace: &Namespace) -> bool {
        let entries: Vec<Visibility> = export_to.iter().map(|entry| Visibility::parse(entry)).collect();
        Visibility::any(&entries, &self.meta.namespace, namespace)
    }
}

/// Writes a map as the list of its values: the values carry their keys, and JSON has no structured keys.
pub(crate) fn values<K: Ord, V: Serialize, S: Serializer>(
    map: &OrdMap<K, Arc<V>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(map.values())
}

macro_rules! kinds {
    ($($kind:ident, $field:ident, $spec:ty, $doc:literal;)*) => {
        /// The kinds of configuration objects.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub enum ConfigKind {
            $(#[doc = $doc] $kind,)*
        }

        impl ConfigKind {
            /// Every kind.
            pub const ALL: &[ConfigKind] = &[$(ConfigKind::$kind),*];

            /// The kind as objects write it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$kind => stringify!($kind),)* }
            }

            /// The kind that objects write like this.
            pub fn parse(kind: &str) -> Option<Self> {
                match kind { $(stringify!($kind) => Some(Self::$kind),)* _ => None }
            }
        }

        /// One object of any kind.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
        pub enum ConfigObject {
            $(#[doc = $doc] $kind(Arc<Config<$spec>>),)*
        }

        impl ConfigObject {
            /// The key among all kinds.
            pub fn reference(&self) -> ConfigReference {
                match self {
                    $(Self::$kind(config) => ConfigReference {
                        kind: ConfigKind::$kind,
                        namespace: config.meta.namespace.clone(),
                        name: config.meta.name.clone(),
                    },)*
                }
            }

            /// Reads the `spec` of an object of this kind; a missing spec is an empty one.
            pub fn from_json(
                kind: ConfigKind,
                meta: Meta,
                spec: serde_json::Value,
            ) -> Result<Self, serde_json::Error> {
                let spec = if spec.is_null() { serde_json::Value::Object(Default::default()) } else { spec };
                Ok(match kind {
                    $(ConfigKind::$kind => Self::$kind(Arc::new(Config {
                        meta,
                        spec: Arc::new(serde_json::from_value::<$spec>(spec)?),
                    })),)*
                })
            }
        }

        /// All configuration objects, by kind and key.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
        pub struct Configs {
            $(
                #[doc = $doc]
                #[serde(serialize_with = "values")]
                pub $field: OrdMap<ConfigKey, Arc<Config<$spec>>>,
            )*
        }

        impl Configs {
            /// Puts the object in, and says whether anything changed.
            pub(crate) fn put(&mut self, object: ConfigObject) -> bool {
                match object {
                    $(ConfigObject::$kind(config) => {
                        let key = config.key();
                        if self.$field.get(&key).is_some_and(|old| old.same(&config)) {
                            return false;
                        }
                        self.$field.insert(key, config);
                        true
                    })*
                }
            }

            /// Takes the object out, and says whether it was there.
            pub(crate) fn remove(&mut self, reference: &ConfigReference) -> bool {
                let key = ConfigKey { namespace: reference.namespace.clone(), name: reference.name.clone() };
                match reference.kind {
                    $(ConfigKind::$kind => self.$field.remove(&key).is_some(),)*
                }
            }

            /// Whether the object is there.
            pub fn contains(&self, reference: &ConfigReference) -> bool {
                self.meta(reference).is_some()
            }

            /// Name, labels and age of an object, whatever its kind.
            pub fn meta(&self, reference: &ConfigReference) -> Option<&Meta> {
                let key = ConfigKey { namespace: reference.namespace.clone(), name: reference.name.clone() };
                match reference.kind {
                    $(ConfigKind::$kind => self.$field.get(&key).map(|config| &config.meta),)*
                }
            }

            /// One object.
            pub fn get(&self, reference: &ConfigReference) -> Option<ConfigObject> {
                let key = ConfigKey { namespace: reference.namespace.clone(), name: reference.name.clone() };
                match reference.kind {
                    $(ConfigKind::$kind => self.$field.get(&key).cloned().map(ConfigObject::$kind),)*
                }
            }

            /// The keys of all objects.
            pub fn references(&self) -> Vec<ConfigReference> {
                let mut all = Vec::new();
                $(all.extend(self.$field.keys().map(|key| ConfigReference {
                    kind: ConfigKind::$kind,
                    namespace: key.namespace.clone(),
                    name: key.name.clone(),
                }));)*
                all
            }
        }
    };
}

impl<T: PartialEq> Config<T> {
    /// Equal in all that a reader may look at. The generation counts: who waits until proxies have what was written
    /// asks for it by generation.
    fn same(&self, other: &Self) -> bool {
        let (ours, theirs) = (&self.meta, &other.meta);
        ours.created == theirs.created
            && ours.generation == theirs.generation
            && ours.labels == theirs.labels
            && ours.annotations == theirs.annotations
            && ours.reported == theirs.reported
            && (Arc::ptr_eq(&self.spec, &other.spec) || self.spec == other.spec)
    }
}

kinds! {
    VirtualService, virtual_services, api::networking::VirtualService, "How requests to a host are routed.";
    DestinationRule, destination_rules, api::networking::DestinationRule, "Subsets and traffic policies of a host.";
    Gateway, gateways, api::networking::Gateway, "What the proxies of a gateway listen for.";
    ServiceEntry, service_entries, api::networking::ServiceEntry, "Services that no platform knows.";
    Sidecar, sidecars, api::networking::Sidecar, "What a sidecar sees.";
    WorkloadEntry, workload_entries, api::networking::WorkloadEntry, "Workloads that no platform runs.";
    WorkloadGroup, workload_groups, api::networking::WorkloadGroup, "Templates of such workloads.";
    EnvoyFilter, envoy_filters, api::networking::EnvoyFilter, "Patches of generated configuration.";
    ProxyConfig, proxy_configs, api::networking::ProxyConfig, "Settings of proxies.";
    AuthorizationPolicy, authorization_policies, api::security::AuthorizationPolicy, "Who may call what.";
    PeerAuthentication, peer_authentications, api::security::PeerAuthentication, "Whether mutual TLS is demanded.";
    RequestAuthentication, request_authentications, api::security::RequestAuthentication, "Whose tokens are trusted.";
    Telemetry, telemetries, api::telemetry::Telemetry, "What is logged, measured and traced.";
    WasmPlugin, wasm_plugins, api::extensions::WasmPlugin, "Filters of the user's own.";
    TrafficExtension, traffic_extensions, api::extensions::TrafficExtension, "Filters of the user's own, in Wasm or Lua.";
    Ingress, ingresses, api::kubernetes::Ingress, "Kubernetes' rules for requests from outside.";
    IngressClass, ingress_classes, api::kubernetes::IngressClass, "Who serves such rules.";
    HTTPRoute, http_routes, api::gateway_api::HTTPRoute, "The Gateway API's rules for requests.";
}
