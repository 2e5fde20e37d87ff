//! A place in compiled configuration for what its user resolves from it once.

use std::any::Any;
use std::fmt;
use std::sync::OnceLock;

/// Filled at first use by whoever runs the configuration (with counters, say), and shared by all threads from then on.
#[derive(Default)]
pub struct Slot(OnceLock<Box<dyn Any + Send + Sync>>);

impl Slot {
    /// What is there; made if there is nothing. None where something of another type is there.
    pub fn get_or_init<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> Option<&T> {
        self.0.get_or_init(|| Box::new(make())).downcast_ref()
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Slot")
    }
}
