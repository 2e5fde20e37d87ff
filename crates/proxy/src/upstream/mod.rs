//! Upstream: connecting, pools of connections, and one try of a request.

pub mod balance_stats;
mod connect;
pub(crate) mod destinations;
pub mod dns;
pub mod health;
mod hosts;
pub mod limits;
pub mod outlier;
mod pool;
pub mod proxy_protocol;
pub mod zones;

pub use connect::{ConnectError, Dialing, Purpose, connect};
pub use pool::{AcquireError, Lease, Pools, Tunnel, Upstream, UpstreamResponse, UseOf};
