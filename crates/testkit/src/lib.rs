//! What tests of several crates need: throw-away certificates ([`Authority`]), and waiting for something with a bound
//! ([`eventually`]).
//!
//! For tests alone, so what goes wrong here panics and says what it was.

#![allow(clippy::unwrap_used)] // Helpers of tests panic as tests do.

mod pki;
mod wait;

pub use pki::{Authority, Leaf};
pub use wait::{Outcome, PATIENCE, eventually, eventually_blocking};
