//! The kinds that come with the server.

pub mod allocate;
pub mod default;
pub mod kinds;
pub mod lists;
pub mod schemas;
pub mod validate;
mod validate_rbac;
