//! Platform adapters become one stream of changes, and one writer turns those into snapshots.
