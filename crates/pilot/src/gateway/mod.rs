//! Gateway objects as one workload serves them: which objects select it, on which of its ports their servers listen,
//! and what is left when they are merged (Istio's reference, "Gateway"). Listeners and routes are both made from this.

mod automatic;
mod bound;
mod inputs;
mod merge;

pub(crate) use automatic::automatic_clusters;
pub(crate) use bound::BoundServices;
pub use inputs::{Inputs, Selected};
#[cfg(test)]
pub(crate) use merge::served_hosts;
pub(crate) use merge::{Group, Served, merge};
