//! Protobuf messages of xDS, Envoy and Istio, their JSON form and type URLs. No logic, no services.
//!
//! Messages live in modules named like their packages: `envoy.config.cluster.v3.Cluster` is
//! [`envoy::config::cluster::v3::Cluster`], and Google's own types, which are generated here too, are in
//! [`google::protobuf`]. Three choices hold for all of them:
//!
//! - wrappers such as `google.protobuf.UInt32Value` appear as the plain Rust value (`Option<u32>`), and `Empty` as `()`;
//! - `bytes` fields, the value of an [`Any`] among them, are [`bytes::Bytes`]: decoding from `Bytes` copies nothing;
//! - maps are `BTreeMap`s, so equal messages encode to equal bytes, and a hash of them is a version.
//!
//! [`to_any`] and [`from_any`] pack and unpack, [`TypeUrl`] names a message's type, [`json`] reads and writes the JSON
//! form (naming the path of what is wrong), [`fields`] lists what a message has set, and [`merge`] patches messages.

pub mod fields;
pub mod json;
pub mod merge;
mod pack;
mod schema;
pub mod type_urls;
mod well_known;
mod wire;

#[allow(missing_docs, clippy::all, unused_qualifications, rustdoc::all)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/messages.rs"));
}

pub use generated::{cel, envoy, google, io, istio, opentelemetry, ratelimit, stats, udpa, validate, xds};
pub use google::protobuf::Any;
pub use pack::{AnyError, TypeUrl, from_any, to_any};
pub use prost;
