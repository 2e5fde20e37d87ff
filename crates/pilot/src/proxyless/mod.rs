//! gRPC clients and servers that speak xDS themselves, without a proxy (Istio's documentation, "gRPC Proxyless Service
//! Mesh"; gRPC's proposals A27, A28, A36).
//!
//! They ask for a listener by the very name that the application calls (`xds:///HOST:PORT`), find the name of a route
//! configuration in it, and so on. What they do not know they refuse, so every resource is cut down to what gRPC's
//! implementations have in common. Calls are plain text unless a DestinationRule asks for the mesh's own certificates.

mod cluster;
mod listener;
mod route;

pub(crate) use cluster::adapt as adapt_cluster;
pub(crate) use listener::{ApiListener, ServerListener, plan as plan_listeners, plan_servers};
pub(crate) use route::{adapt as adapt_host, plan as plan_routes};
