//! Files and variables that configuration refers to.

use bytes::Bytes;
use lateen_dataplane::outside::Outside;

/// Those of this process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Process;

impl Outside for Process {
    fn file(&self, path: &str) -> Result<Bytes, String> {
        std::fs::read(path).map(Bytes::from).map_err(|error| format!("`{path}` cannot be read: {error}"))
    }

    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}
