//! What configuration refers to outside of itself. This crate looks at nothing; who compiles gives it in.

use bytes::Bytes;

/// Files and variables that configuration names. They are read when a resource is compiled, and never later.
pub trait Outside: std::fmt::Debug {
    /// What is in a file (`DataSource.filename`), or why it cannot be read.
    fn file(&self, path: &str) -> Result<Bytes, String>;
    /// A variable of the environment (`DataSource.environment_variable`, the operator `ENVIRONMENT`).
    fn variable(&self, name: &str) -> Option<String>;
}

/// No files, no variables.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nothing;

impl Outside for Nothing {
    fn file(&self, path: &str) -> Result<Bytes, String> {
        Err(format!("`{path}` is not read here; write inline_string"))
    }

    fn variable(&self, _: &str) -> Option<String> {
        None
    }
}
