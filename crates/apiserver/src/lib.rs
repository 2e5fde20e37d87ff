//! The embedded Kubernetes-style API server and its durable store.
//!
//! A request enters in `server` (TLS, shutdown), is authenticated in [`auth`], routed in `http`, and works on objects
//! that are plain JSON values. A write goes through the schema side ([`seam::SchemaSide`]: pruning, defaulting,
//! admission webhooks, validation) and then to the [`store`], whose single writer commits many writes with one fsync;
//! only what is durable is acknowledged or seen by a watch. `gc` and `namespace` work in the background through the
//! same store.

mod api;
pub mod auth;
mod builtin;
mod gc;
mod http;
pub mod kubeconfig;
mod merge;
mod namespace;
mod object;
mod patch;
mod rbac;
pub mod seam;
mod selector;
mod server;
pub mod status;
pub mod store;
mod token;

pub use selector::LabelSelector;
pub use server::{ApiServer, Config, StartError};

// The schema side.
mod admission;
mod discovery;
mod openapi;
pub mod schema;
mod table;
