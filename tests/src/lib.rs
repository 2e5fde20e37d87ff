//! Tests of whole processes, and of the project's own rules.
//!
//! [`mesh::Mesh`] starts the real programs as a user would, as root or as somebody without any privilege; `kubectl`
//! is the real one; [`load`] sends traffic and counts what goes wrong; [`leftovers`] looks for what a mesh that has
//! ended should not have left behind.

pub mod bookinfo;
pub mod http_client;
pub mod leftovers;
pub mod load;
pub mod mesh;
