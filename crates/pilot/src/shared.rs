//! A shared value that is compared by where it is, not by what it is.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

/// An `Arc` whose equality and hash are the pointer's. A key that holds one keeps the value alive, so the address cannot
/// come to mean another value; and edits keep the `Arc` of what did not change, so equal values stay one pointer.
pub struct Shared<T>(pub Arc<T>);

impl<T> Shared<T> {
    /// Shares a value of a snapshot.
    pub fn of(value: &Arc<T>) -> Self {
        Self(Arc::clone(value))
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T> Eq for Shared<T> {}

impl<T> Hash for Shared<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

impl<T: fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}
