//! HTTP/1: heads parsed into our own types, bodies as chunks, one write a message and direction.
//!
//! What could be understood in two ways is refused (RFC 9112 sections 2.2, 5, 6 and 11.2): a request that another
//! server would frame differently is never passed on.

mod body;
mod decode;
mod head;
mod server;

pub use body::{BodyReader, BodyWriter, write_chunk, write_end};
pub use decode::{BodyDecoder, Framing};
pub use head::{
    Limits, ParsedRequest, ParsedResponse, Refusal, RequestRules, ResponseWriting, Spelling, parse_request,
    parse_response, remember_names, write_interim, write_request, write_response,
};
pub use server::serve;
