//! HTTP/1: what arrives in pieces is understood as what arrives at once, and what is accepted means the same after it
//! was written again.

use bytes::BytesMut;
use lateen_dataplane::head::{Headers, RequestHead, ResponseHead};
use lateen_dataplane::http_protocol::HeaderCase;

use crate::http1::{
    BodyDecoder, Framing, Limits, RequestRules, ResponseWriting, Spelling, parse_request, parse_response,
    write_chunk, write_end, write_request, write_response,
};
use crate::message::BodyEvent;

pub(super) const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b"0\r\n\r\n",
    b"ffffffffffffffff",
    b"Content-Length: ",
    b"Transfer-Encoding: chunked\r\n",
    b"Host: a\r\n",
    b"Connection: close\r\n",
    b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
    b"Expect: 100-continue\r\n",
    b"HTTP/1.1",
    b"HTTP/1.0",
    b"GET",
    b"HEAD",
    b"CONNECT",
    b"http://",
    b"*",
    b"chunked",
    b"101",
    b"204",
    b"304",
];

const LIMITS: Limits = Limits { bytes: 8 * 1024, fields: 64 };

fn rules() -> RequestRules {
    RequestRules::new(LIMITS)
}

/// Places to cut the input at: all of a short one, some of a long one.
fn cuts(length: usize) -> impl Iterator<Item = usize> {
    (0..length).step_by(1 + length / 64)
}

/// A request's head, and the body that follows.
pub(super) fn request(bytes: &[u8]) {
    let mut head = RequestHead::default();
    let parsed = parse_request(bytes, rules(), &mut head);
    let whole = parsed.as_ref().ok().and_then(Option::as_ref).map(|parsed| parsed.length);
    for cut in cuts(whole.unwrap_or(bytes.len())) {
        let part = parse_request(&bytes[..cut], rules(), &mut RequestHead::default());
        match part {
            Ok(None) => {}
            Ok(Some(_)) => panic!("a head ended at {cut}, and not when all of it was there: {parsed:?}"),
            Err(error) => assert_eq!(Some(error), parsed.as_ref().err().copied(), "refused at {cut}"),
        }
    }
    let Ok(Some(parsed)) = parsed else { return };
    let mut out = Vec::new();
    write_request(&mut out, &head, parsed.framing, parsed.upgrade.as_deref(), Spelling::default());
    let mut again = RequestHead::default();
    // A head without authority is HTTP/1.0's, and cannot be sent on before it is given one.
    if head.authority().is_empty() {
        return;
    }
    let wide = RequestRules::new(Limits { bytes: 64 * 1024, ..LIMITS });
    match parse_request(&out, wide, &mut again) {
        Ok(Some(second)) => {
            assert_eq!(second.length, out.len(), "something follows the head that was written");
            assert_eq!(second.framing, parsed.framing);
            assert_eq!(second.upgrade, parsed.upgrade);
            assert_eq!((again.method(), again.path()), (head.method(), head.path()));
            assert_eq!(again.authority(), head.authority());
            assert_eq!(less_what_is_added(again.headers, &head.headers), head.headers);
        }
        other => {
            panic!("what was accepted is not accepted again: {other:?} {:?}", String::from_utf8_lossy(&out))
        }
    }
    body(parsed.framing, &bytes[parsed.length..]);
}

/// Fields less those about the connection and the length that writing adds where they were not there.
fn less_what_is_added(mut again: Headers, before: &Headers) -> Headers {
    for name in ["content-length", "connection"] {
        if !before.contains(name) {
            again.remove(name);
        }
    }
    again
}

/// A response's head, and the body that follows. The first byte says whether the request was a HEAD.
pub(super) fn response(bytes: &[u8]) {
    let Some((first, bytes)) = bytes.split_first() else { return };
    let to_head = first % 8 == 0;
    let mut head = ResponseHead::default();
    let parsed = parse_response(bytes, LIMITS, to_head, &mut head);
    let whole = parsed.as_ref().ok().and_then(Option::as_ref).map(|parsed| parsed.length);
    for cut in cuts(whole.unwrap_or(bytes.len())) {
        let part = parse_response(&bytes[..cut], LIMITS, to_head, &mut ResponseHead::default());
        match part {
            Ok(None) => {}
            Ok(Some(_)) => panic!("a head ended at {cut}, and not when all of it was there: {parsed:?}"),
            Err(error) => assert_eq!(Some(error), parsed.as_ref().err().copied(), "refused at {cut}"),
        }
    }
    let Ok(Some(parsed)) = parsed else { return };
    let mut out = Vec::new();
    let writing = ResponseWriting {
        would_be_chunked: false,
        framing: parsed.framing,
        keep_alive: Some(parsed.keep_alive),
        http10: false,
        explicit_length: false,
        case: HeaderCase::Lower,
    };
    write_response(&mut out, &head, writing);
    let mut again = ResponseHead::default();
    let wide = Limits { bytes: 64 * 1024, ..LIMITS };
    match parse_response(&out, wide, to_head, &mut again) {
        Ok(Some(second)) => {
            assert_eq!(second.length, out.len(), "something follows the head that was written");
            assert_eq!(second.framing, parsed.framing);
            assert_eq!(again.status, head.status);
            assert_eq!(less_what_is_added(again.headers, &head.headers), head.headers);
        }
        other => {
            panic!("what was accepted is not accepted again: {other:?} {:?}", String::from_utf8_lossy(&out))
        }
    }
    body(parsed.framing, &bytes[parsed.length..]);
}

/// A chunked body.
pub(super) fn chunks(bytes: &[u8]) {
    body(Framing::Chunked, bytes);
}

/// What was decoded of a body: its bytes, its trailers, and how many bytes of input were not used. None: refused.
type Decoded = Option<(Vec<u8>, Option<Headers>, usize)>;

/// `piece`: how many bytes arrive at once.
fn decode(framing: Framing, bytes: &[u8], piece: usize) -> Decoded {
    let mut decoder = BodyDecoder::new(framing);
    let (mut input, mut rest) = (BytesMut::new(), bytes);
    let mut data = Vec::new();
    loop {
        match decoder.next(&mut input) {
            Err(_) => return None,
            Ok(Some(BodyEvent::Data(part))) => data.extend_from_slice(&part),
            Ok(Some(BodyEvent::Trailers(trailers))) => {
                return Some((data, Some(trailers), input.len() + rest.len()));
            }
            Ok(Some(BodyEvent::End)) => return Some((data, None, input.len() + rest.len())),
            Ok(None) if rest.is_empty() => return decoder.close().then_some((data, None, 0)),
            Ok(None) => {
                let (now, later) = rest.split_at(piece.min(rest.len()));
                input.extend_from_slice(now);
                rest = later;
            }
        }
    }
}

fn body(framing: Framing, bytes: &[u8]) {
    let whole = decode(framing, bytes, usize::MAX);
    for piece in [1, 2, 7, 64] {
        assert_eq!(decode(framing, bytes, piece), whole, "{piece} bytes at a time");
    }
    let (Framing::Chunked, Some((data, trailers, _))) = (framing, whole) else { return };
    let mut out = Vec::new();
    write_chunk(&mut out, &data);
    write_end(&mut out, trailers.as_ref());
    assert_eq!(decode(framing, &out, usize::MAX), Some((data, trailers, 0)), "written again");
}
