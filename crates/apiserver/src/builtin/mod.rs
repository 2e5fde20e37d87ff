//! The kinds that come with the server.

pub mod allocate;
pub mod default;
pub mod kinds;
pub mod schemas;
pub mod validate;
