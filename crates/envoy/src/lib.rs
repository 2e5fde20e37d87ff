//! Messages.
#[allow(missing_docs, clippy::all, unused_qualifications, rustdoc::all)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/messages.rs"));
}
pub use generated::*;
