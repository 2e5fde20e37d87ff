//! Sidecar injection.
