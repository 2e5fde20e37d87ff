//! TLS both ways.
//!
//! A [`ServerContext`] belongs to a filter chain, a [`ClientContext`] to a transport socket of a cluster. Each holds
//! the TLS library's configuration of the moment, made of what is configured and of the secrets it names; when a
//! secret changes, the next connection takes the new one and those that live go on. A context whose secrets are not
//! there has no configuration, and then there is no connection: never one in plain text.
//!
//! Sessions, tickets and pools belong to a context, so nothing of one identity is ever used for another.

mod context;
mod discovery;
mod handshake;
mod info;
mod inventory;
mod material;
mod parameters;
mod secrets;
mod stats;
mod stream;
mod view;

pub use context::{ClientContext, ServerContext, Transport};
pub use discovery::follow;
pub use handshake::{Wanted, accept, connect, is_timeout};
pub use info::TlsInfo;
pub use inventory::{certificates, days_until_first_expiration};
pub use secrets::{SecretKey, Secrets};
pub use stats::SslStats;
pub use stream::TlsStream;
pub(crate) use stream::take_read;

pub use lateen_identity::tls::TlsError;
