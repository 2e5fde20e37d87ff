//! Giving memory back.
//!
//! The allocator returns what was freed to the kernel when it is asked for more, a second later or never: a thread that
//! has read ten thousand clusters and then waits keeps what it needed to read them.

// One function of the allocator that its crate does not offer.
#![allow(unsafe_code)]

// Links it.
use mimalloc as _;

// SAFETY: the declaration is that of mimalloc.h. The function may be called at any time from any thread, and where
// mimalloc is not the program's allocator it has nothing to do.
unsafe extern "C" {
    safe fn mi_collect(force: bool);
}

/// Gives back what this thread has freed. For after the start and after large updates, not for the request path.
pub fn release() {
    mi_collect(true);
}
