//! The embedded Kubernetes-style API server and its durable store.
