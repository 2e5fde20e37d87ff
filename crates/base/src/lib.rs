//! The runtime kit of every process: drain, readiness, admin listener, metrics and tracing set-up, backoff, file watch.
