//! The pure half of the proxy.
//!
//! xDS messages come in, runtime configuration comes out: [`compile`] validates and compiles each kind of resource,
//! and says by path what is wrong and what has no effect. The runtime types hold everything a request needs in the
//! form in which it needs it: [`route`] decides what to do with a request, [`filter_chain`] who serves a connection,
//! [`balance`] which host takes it. These are the only matchers there are; whatever explains or simulates
//! configuration calls them too.
//!
//! There is no I/O here, no clock and no thread: time and randomness are handed in.

pub mod access_log;
pub mod balance;
pub mod circuit;
pub mod cluster;
pub mod compile;
pub mod error;
pub mod filter_chain;
pub mod filter_state;
pub mod filters;
pub mod format;
pub mod head;
pub mod health;
pub mod http_protocol;
pub mod istio;
pub mod listener;
pub mod listener_filter;
pub mod local_reply;
pub mod matcher;
pub mod metadata;
pub mod network;
pub mod outlier;
pub mod outside;
pub mod path;
pub mod peer_exchange;
pub mod proxy_status;
pub mod route;
pub mod stat_tags;
pub mod stream_info;
pub mod tls;
pub mod token_bucket;
pub mod transport;
pub mod value_matcher;
pub mod walk;

pub use error::{ConfigError, Warning};
pub use stream_info::StreamInfo;
