//! Upstream: connecting, pools of connections, and one try of a request.

mod connect;
mod hosts;
mod pool;

pub use connect::{ConnectError, connect};
pub use pool::{AcquireError, Lease, Pools, Upstream, UpstreamResponse};
