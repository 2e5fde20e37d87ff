//! One module a command.

pub(crate) mod analyze;
pub(crate) mod demo;
pub(crate) mod down;
pub(crate) mod proxy_config;
pub(crate) mod proxy_status;
pub(crate) mod up;
pub(crate) mod validate;
pub(crate) mod version;
pub(crate) mod wait;
