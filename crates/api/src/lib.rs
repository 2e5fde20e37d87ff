//! Istio's and Gateway API's objects as Rust types. No logic.
