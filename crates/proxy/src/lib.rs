//! The other half of the data plane: a proxy that is configured by an Envoy bootstrap and by xDS.
//!
//! [`Proxy::start`] takes a [`bootstrap`] and gives a [`ProxyHandle`]; `lateen-proxy` is that with a command line, and
//! the agent calls it in its own process: nothing here is a singleton of the process.
//!
//! One thread (`manager`) owns configuration: it compiles resources, warms them, and publishes them by swapping
//! pointers in [`state`]. The others are [`worker`]s: each accepts its own connections ([`listener`]), speaks HTTP with
//! clients ([`connection`], [`http1`], [`http2`]), routes ([`router`], [`forward`]) and keeps its own upstream
//! connections ([`upstream`]). Between a worker and anything else there is no lock on a request's way.

mod access_log;
pub mod admin;
pub mod bind;
pub mod bootstrap;
pub mod client_cert;
pub mod clock;
pub mod connection;
mod decimal;
pub mod drain;
mod ending;
pub mod filters;
pub mod forward;
pub mod fuzz;
pub mod http1;
pub mod http2;
pub mod inspect;
pub mod lenient;
pub mod listener;
pub mod local_reply;
pub mod manager;
mod memory;
pub mod message;
pub mod network;
pub mod on_demand;
pub mod options;
pub mod outside;
pub mod overload;
pub mod preamble;
pub mod proxy_protocol;
pub mod refusals;
pub mod request;
pub mod respond;
pub mod router;
pub mod runtime;
pub mod socket;
pub mod sources;
pub mod state;
pub mod stats;
pub mod stream;
mod stream_end;
pub mod tcp;
pub mod tls;
pub mod upstream;
mod validate;
pub mod worker;
pub mod xds;

mod handle;

pub use handle::{Proxy, ProxyHandle, ProxyOptions, StartError};
