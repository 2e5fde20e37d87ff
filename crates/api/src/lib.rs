//! Istio's objects as Rust types.
//!
//! Each kind of Istio's API is a plain struct named like the kind (its `spec`), with the field names and the JSON form
//! that Istio gives them; [`Object`] puts the usual Kubernetes frame around it. Doc comments become the descriptions
//! that `kubectl explain` shows, `schemars` attributes become the CRD's schema (made structural in `lateen-galley`).
//! There is no logic here beyond reading and writing values: validation is `galley`'s, meaning is `pilot`'s.
//!
//! Two conventions of protobuf's JSON run through all types. A scalar that is absent has its zero value, so a plain
//! field means "zero is the same as absent" and an `Option` means "absent differs from zero". A choice of one among
//! several (`oneof`) is a struct of options, because that is what the JSON looks like.

#[macro_use]
mod macros;

mod duration;
pub mod extensions;
pub mod gateway_api;
pub mod kubernetes;
pub mod mesh;
pub mod mesh_parts;
pub mod meta;
pub mod networking;
pub mod networks;
pub mod providers;
pub mod registries;
mod schema;
pub mod security;
pub mod selection;
pub mod telemetry;
mod values;

pub use duration::{Duration, ParseDurationError};
pub use meta::{Object, ObjectMeta, OwnerReference, PrinterColumn, Resource, Scope, TypeMeta, Version};
pub use values::{Double, IntOrString, JsonObject};

/// Whether a value is its type's default, and so may be left out of the JSON.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Calls a macro with every kind that Lateen serves, so that tables over all kinds cannot forget one.
///
/// ```
/// # use lateen_api::Resource;
/// macro_rules! names { ($($kind:ty),* $(,)?) => { vec![$(<$kind as Resource>::KIND),*] } }
/// assert!(lateen_api::for_each_kind!(names).contains(&"VirtualService"));
/// ```
#[macro_export]
macro_rules! for_each_kind {
    ($macro:ident) => {
        $macro!(
            $crate::networking::VirtualService,
            $crate::networking::DestinationRule,
            $crate::networking::Gateway,
            $crate::networking::ServiceEntry,
            $crate::networking::Sidecar,
            $crate::networking::WorkloadEntry,
            $crate::networking::WorkloadGroup,
            $crate::networking::EnvoyFilter,
            $crate::networking::ProxyConfig,
            $crate::security::AuthorizationPolicy,
            $crate::security::PeerAuthentication,
            $crate::security::RequestAuthentication,
            $crate::telemetry::Telemetry,
            $crate::extensions::WasmPlugin,
            $crate::extensions::TrafficExtension,
        )
    };
}

/// Calls a macro with the kinds of others that the mesh reads: they are not served as the mesh's own.
#[macro_export]
macro_rules! for_each_foreign_kind {
    ($macro:ident) => {
        $macro!(
            $crate::kubernetes::Ingress,
            $crate::kubernetes::IngressClass,
            $crate::gateway_api::HTTPRoute,
        )
    };
}
