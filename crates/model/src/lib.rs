//! The mesh as plain values: host names, services, endpoints, workloads, identities, the immutable snapshot and the set of changes between two snapshots.
