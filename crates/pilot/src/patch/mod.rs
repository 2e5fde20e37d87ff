//! EnvoyFilter: what users change in the resources that are generated (Istio's reference, "EnvoyFilter").
//!
//! A patch is read once into messages. Which of a class's patches can touch a resource is decided by its name when it is
//! planned; these, and the resource as it was generated, are the key of the patched one. So a change of an EnvoyFilter
//! makes anew only what it can touch, and a class without any pays nothing.

mod cluster;
mod edit;
mod index;
mod listener;
mod parse;
mod route;

use std::collections::BTreeMap;
use std::sync::Arc;

use lateen_api::networking::{
    EnvoyConfigObjectMatch, EnvoyConfigObjectPatch, EnvoyFilterApplyTo as ApplyTo, PatchContext,
    PatchOperation,
};
use lateen_envoy::type_urls;
use lateen_model::ConfigKey;

use crate::Role;
use crate::encoded::{Cache, Encoded, Key};
use crate::shared::Shared;
pub(crate) use index::PatchIndex;
pub use index::SelectedFilter;
pub(crate) use parse::{Value, problems};

/// One patch of an EnvoyFilter, read.
#[derive(Debug, PartialEq)]
pub(crate) struct Patch {
    /// The object it is part of.
    filter: ConfigKey,
    /// As the user wrote it.
    spec: EnvoyConfigObjectPatch,
    value: Value,
}

impl Patch {
    fn apply_to(&self) -> ApplyTo {
        self.spec.apply_to
    }

    fn operation(&self) -> PatchOperation {
        self.spec.patch.as_ref().map(|patch| patch.operation).unwrap_or_default()
    }

    /// Which objects it is for; `None` is all.
    fn condition(&self) -> Option<&EnvoyConfigObjectMatch> {
        self.spec.r#match.as_ref()
    }

    fn context(&self) -> PatchContext {
        self.condition().map(|condition| condition.context).unwrap_or_default()
    }

    fn is_for(&self, context: PatchContext) -> bool {
        matches!(self.context(), PatchContext::Any) || self.context() == context
    }

    /// As `Kind/namespace/name`.
    fn source(&self) -> String {
        format!("EnvoyFilter/{}/{}", self.filter.namespace, self.filter.name)
    }
}

/// The patches of a class, in the order in which they apply.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClassPatches {
    role: Option<Role>,
    patches: Vec<Shared<Patch>>,
}

/// What is patched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Cluster,
    Listener,
    Route,
}

/// All that a patched resource is made from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PatchedKey {
    kind: Kind,
    role: Role,
    plain: Shared<Encoded>,
    patches: Vec<Shared<Patch>>,
}

impl Key for PatchedKey {
    fn generate(&self) -> Encoded {
        let patches: Vec<&Patch> = self.patches.iter().map(|patch| &**patch).collect();
        let made = match self.kind {
            Kind::Cluster => cluster::patched(&self.plain, &patches),
            Kind::Listener => listener::patched(&self.plain, self.role, &patches),
            Kind::Route => route::patched(&self.plain, &patches),
        };
        made.unwrap_or_else(|| Encoded::part(Arc::clone(&self.plain.name), &()))
    }
}

/// Patched resources, kept as long as they are held.
#[derive(Debug, Default)]
pub(crate) struct PatchCache(Cache<PatchedKey>);

impl PatchCache {
    /// A resource as the class's patches leave it; `None` where they take it away.
    pub(crate) fn apply(
        &mut self,
        kind: Kind,
        plain: Arc<Encoded>,
        patches: &ClassPatches,
        ports: &BTreeMap<u16, u16>,
    ) -> Option<Arc<Encoded>> {
        let Some(role) = patches.role else { return Some(plain) };
        let touching: Vec<_> = patches
            .patches
            .iter()
            .filter(|patch| match kind {
                Kind::Cluster => cluster::may_touch(patch, role, &plain.name),
                Kind::Listener => listener::may_touch(patch, role, &plain.name),
                Kind::Route => route::may_touch(patch, role, &plain.name, ports),
            })
            .cloned()
            .collect();
        if touching.is_empty() {
            return Some(plain);
        }
        let key = PatchedKey { kind, role, plain: Shared(plain), patches: touching };
        Some(self.0.get(&key)).filter(|made| !made.bytes.is_empty())
    }

    /// Forgets what nobody holds.
    pub(crate) fn sweep(&mut self) {
        self.0.sweep();
    }
}

impl ClassPatches {
    fn new(role: Role, patches: Vec<Shared<Patch>>) -> Self {
        // What gRPC reads is no Envoy's, and what a patch adds it would refuse.
        let none = patches.is_empty() || role == Role::Proxyless;
        if none { Self::default() } else { Self { role: Some(role), patches } }
    }

    /// The resources that patches add. Without a context, they are for what leaves a sidecar or passes a gateway.
    pub(crate) fn added(&self, type_url: &str) -> Vec<Arc<Encoded>> {
        let adds = self.patches.iter().filter(|patch| patch.operation() == PatchOperation::Add);
        adds.filter(|patch| self.role.is_some_and(|role| fits(patch, role)))
            .filter_map(|patch| match (&patch.value, type_url) {
                (Value::Cluster(message), type_urls::CLUSTER) => {
                    Some(Encoded::resource(type_url, message.name.as_str(), &**message))
                }
                (Value::Listener(message), type_urls::LISTENER) => {
                    Some(Encoded::resource(type_url, message.name.as_str(), &**message))
                }
                (Value::Extension(message), type_urls::EXTENSION_CONFIG) => {
                    Some(Encoded::resource(type_url, message.name.as_str(), &**message))
                }
                _ => None,
            })
            .map(Arc::new)
            .collect()
    }
}

/// Whether a patch can be for this kind of proxy at all.
fn fits(patch: &Patch, role: Role) -> bool {
    match patch.context() {
        PatchContext::Any => true,
        PatchContext::Gateway => role == Role::Gateway,
        PatchContext::SidecarInbound | PatchContext::SidecarOutbound => role == Role::Sidecar,
        PatchContext::Waypoint => false,
    }
}

/// Reads a resource back.
fn decoded<M: prost::Message + lateen_envoy::TypeUrl + Default>(plain: &Encoded) -> Option<M> {
    use prost::Message;
    let any = lateen_envoy::Any::decode(plain.bytes.clone()).ok()?;
    lateen_envoy::from_any(&any).ok()
}
