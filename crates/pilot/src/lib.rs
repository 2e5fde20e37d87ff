//! Pure functions from a snapshot to xDS resources, and sidecar injection as a pure function on JSON.
