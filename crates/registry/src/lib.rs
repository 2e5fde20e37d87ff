//! From platforms to snapshots.
//!
//! A [`Platform`] ([`Kubernetes`], and the [`catalogs`]: Consul, Eureka, ...) watches its own objects, trims them at
//! arrival to what the mesh needs, and sends [`Change`]s. Any number of them run at once; a host that several know is one
//! service with the endpoints of all. One writer puts the changes into the [`Store`], which replaces exactly the entries of the snapshot that
//! they touch; the new snapshot and the set of changes go to every [`Subscription`], merged for a reader that is
//! slower than the changes. There is no waiting for more changes to come: the first goes out at once.
//!
//! What errors do to the mesh: a watch that breaks is resumed, and meanwhile the last state stands; an object that
//! cannot be read is reported, and the last good one stands. A platform that does not answer says so in its
//! [`PlatformStatus`], in metrics and once in the log; the mesh starts without it.

mod addresses;
pub mod catalogs;
mod change;
mod kubernetes;
mod metrics;
mod publish;
mod registry;
mod status;
mod store;

pub use addresses::{Allocation, allocations};
pub use change::{Change, Item, Kind, NodeInfo, ObjectKey, Pod, Problem, Slice, SliceEndpoint};
pub use kubernetes::{Kubernetes, KubernetesOptions, RemoteClusters, convert, object};
pub use publish::Subscription;
pub use registry::{Closed, Platform, Platforms, Registry, RegistryOptions, Sink};
pub use status::{Failure, LastError, PlatformStatus, Reason};
pub use store::{Store, StoreOptions};

/// The page's example adapter is compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/registries.md")]
struct RegistriesPage;
