//! Answers of our own.

use std::borrow::Cow;

use bytes::Bytes;
use lateen_dataplane::head::{Headers, ResponseHead};

use crate::filters::Buffered;
use crate::message::BodyReader;
use crate::router::Exchange;

/// An answer of our own.
pub struct LocalReply {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: Bytes,
    /// Response code details.
    pub details: &'static str,
    /// Fields.
    pub headers: Headers,
    /// The gRPC status, where it is not the usual one.
    pub grpc_status: Option<u32>,
}

impl LocalReply {
    /// An answer with a text.
    pub fn new(status: u16, body: impl Into<Bytes>, details: &'static str) -> Self {
        Self { status, body: body.into(), details, headers: Headers::new(), grpc_status: None }
    }
}

impl Exchange {
    /// A local reply as a message: with the fields of the route, rewritten as the connection manager says, and in the
    /// form that gRPC clients expect.
    pub(crate) fn local_response(&mut self, reply: LocalReply) -> (ResponseHead, BodyReader) {
        self.info.response_code_details = Some(reply.details);
        self.info.response_code = reply.status;
        self.note_cluster();
        let mut head = ResponseHead { status: reply.status, headers: reply.headers };
        let mut body = reply.body;
        self.apply_route(&mut head);
        let kind = self.rewrite(&mut head, &mut body);
        if self.head.is_grpc() && !matches!(head.status, 300..=399) {
            grpc_reply(&mut head, reply.grpc_status, &body);
            body = Bytes::new();
        } else if !body.is_empty() {
            if let Some(kind) = kind {
                head.headers.set("content-type", kind.as_bytes());
            }
            head.headers.set("content-length", body.len().to_string());
        } else {
            head.headers.remove("content-type");
            head.headers.remove("content-length");
        }
        (head, Buffered::new(body).into_reader())
    }

    /// Rewrites an answer as `local_reply_config` says; returns the type that its body gets.
    fn rewrite(&mut self, head: &mut ResponseHead, body: &mut Bytes) -> Option<Cow<'static, str>> {
        let typed = head.headers.get("content-type").map(<[u8]>::to_vec);
        let Some(replies) = &self.runtime.config.local_replies else {
            return typed.is_none().then_some(Cow::Borrowed("text/plain"));
        };
        let before = body.clone();
        let hostname = &self.worker.state.hostname;
        let kind = replies.rewrite(head, body, &mut self.info, &self.head, hostname);
        let now = head.headers.get("content-type");
        // A body that has become another one has another type, unless the configuration wrote that down as a field.
        (now.is_none() || (*body != before && now == typed.as_deref())).then(|| Cow::Owned(kind.to_owned()))
    }
}

/// gRPC clients read the status from headers (gRPC over HTTP/2, "Trailers-Only").
fn grpc_reply(head: &mut ResponseHead, status: Option<u32>, message: &[u8]) {
    let status = status.unwrap_or(match head.status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    });
    head.status = 200;
    head.headers.set("content-type", "application/grpc");
    if !head.headers.contains("grpc-status") {
        head.headers.set("grpc-status", status.to_string());
    }
    // An object ends with its line; a field cannot.
    let message = message.strip_suffix(b"\n").unwrap_or(message);
    if !message.is_empty() {
        head.headers.set("grpc-message", percent_encoded(message));
    }
    head.headers.remove("content-length");
}

/// As gRPC wants its messages: what is not printable ASCII is escaped, and the sign of an escape.
fn percent_encoded(text: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = Vec::with_capacity(text.len());
    for byte in text {
        match byte {
            b'%' | 0..b' ' | 127.. => {
                out.extend([b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
            }
            byte => out.push(*byte),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_grpc_are_escaped() {
        let mut head = ResponseHead::new(504);
        head.headers.append("content-length", "5");
        grpc_reply(&mut head, None, "a b%\u{e9}\n".as_bytes());
        let expect =
            [("content-type", "application/grpc"), ("grpc-status", "14"), ("grpc-message", "a b%25%C3%A9")];
        assert_eq!((head.status, head.headers), (200, expect.into_iter().collect()));
    }
}
