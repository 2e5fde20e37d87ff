//! SPIFFE names, trust bundles, certificate verification and rustls configurations: what both halves of the mesh need.
//!
//! Today that is [`tls`]: server and client configurations from PEM, for xDS and webhooks.

pub mod tls;
