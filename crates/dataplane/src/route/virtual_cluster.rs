//! Virtual clusters (`VirtualHost.virtual_clusters`): parts of a virtual host's requests that are counted by themselves.

use std::sync::Arc;

use crate::filters::Slot;
use crate::head::RequestHead;
use crate::matcher::HeaderMatcher;

/// A part of the requests of a virtual host.
#[derive(Debug)]
pub struct VirtualCluster {
    /// Its name; none for what is in no other part.
    pub name: Option<Arc<str>>,
    /// All must match.
    pub headers: Vec<HeaderMatcher>,
    /// Its counters.
    pub slot: Slot,
}

impl VirtualCluster {
    /// What its counters are called.
    pub fn stat_name(&self) -> &str {
        self.name.as_deref().unwrap_or("other")
    }

    /// Whether a request belongs to it.
    pub fn matches(&self, head: &RequestHead) -> bool {
        self.headers.iter().all(|matcher| matcher.matches(head))
    }
}
