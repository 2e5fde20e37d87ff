//! Heads of HTTP/1 messages: strict parsing, and writing.

use std::io::Write;

use lateen_dataplane::head::{Headers, RequestHead, ResponseHead, Scheme};
use lateen_dataplane::route::without_port;

use super::Framing;

/// Why a head is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The status for the client.
    pub status: u16,
    /// For logs, as Envoy's response code details.
    pub details: &'static str,
}

const fn bad(details: &'static str) -> Refusal {
    Refusal { status: 400, details }
}

/// What a head may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes.
    pub bytes: usize,
    /// Fields.
    pub fields: usize,
}

/// A request's head, beside the head itself.
#[derive(Debug, PartialEq, Eq)]
pub struct ParsedRequest {
    /// Bytes used of the input.
    pub length: usize,
    /// How the body is framed.
    pub framing: Framing,
    /// Whether the connection may be used again.
    pub keep_alive: bool,
    /// HTTP/1.0.
    pub http10: bool,
    /// Whether the client waits for `100 Continue`.
    pub expects_continue: bool,
    /// The protocol the client wants to change to.
    pub upgrade: Option<String>,
}

/// A response's head, beside the head itself.
#[derive(Debug, PartialEq, Eq)]
pub struct ParsedResponse {
    /// Bytes used of the input.
    pub length: usize,
    /// How the body is framed.
    pub framing: Framing,
    /// Whether the connection may be used again.
    pub keep_alive: bool,
}

/// The fields of a message that concern one connection alone.
#[derive(Default)]
struct Connection {
    close: bool,
    keep_alive: bool,
    upgrade: bool,
    /// Other fields named by `connection`.
    named: Vec<Vec<u8>>,
    chunked: bool,
    length: Option<u64>,
    upgrade_to: Option<String>,
}

/// Takes a request's head from `input`. None where it is not complete.
pub fn parse_request(
    input: &[u8],
    limits: Limits,
    head: &mut RequestHead,
) -> Result<Option<ParsedRequest>, Refusal> {
    let mut fields = [const { std::mem::MaybeUninit::uninit() }; 256];
    let mut request = httparse::Request::new(&mut []);
    let parsed =
        httparse::ParserConfig::default().parse_request_with_uninit_headers(&mut request, input, &mut fields);
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) if length <= limits.bytes => length,
        Ok(httparse::Status::Partial) if input.len() <= limits.bytes => return Ok(None),
        Ok(_) => return Err(Refusal { status: 431, details: "request_headers_too_large" }),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Refusal { status: 431, details: "too_many_headers" });
        }
        Err(_) => return Err(bad("http1.codec_error")),
    };
    strict_line_ends(&input[..length])?;
    if request.headers.len() > limits.fields {
        return Err(Refusal { status: 431, details: "too_many_headers" });
    }
    let method = request.method.unwrap_or_default();
    let target = request.path.unwrap_or_default();
    let http10 = request.version == Some(0);
    head.clear();
    head.set_method(method);
    let mut host: Option<&[u8]> = None;
    let mut expects_continue = false;
    let mut connection = Connection::default();
    for field in request.headers.iter() {
        let value = field.value.trim_ascii();
        if connection.take(field.name, value)? {
            continue;
        }
        if field.name.eq_ignore_ascii_case("host") {
            if host.replace(value).is_some() {
                return Err(bad("http1.duplicate_host"));
            }
        } else if field.name.eq_ignore_ascii_case("expect") {
            if !value.eq_ignore_ascii_case(b"100-continue") {
                return Err(Refusal { status: 417, details: "http1.unknown_expectation" });
            }
            expects_continue = true;
        } else {
            head.headers.append(field.name, value);
        }
    }
    set_target(head, method, target, host, http10)?;
    if connection.chunked && (connection.length.is_some() || http10) {
        return Err(bad("http1.content_length_and_chunked"));
    }
    let framing =
        if connection.chunked { Framing::Chunked } else { Framing::Length(connection.length.unwrap_or(0)) };
    connection.drop_named(&mut head.headers);
    let upgrade = if connection.upgrade && !http10 { connection.upgrade_to.take() } else { None };
    Ok(Some(ParsedRequest {
        length,
        framing,
        keep_alive: if http10 { connection.keep_alive && !connection.close } else { !connection.close },
        http10,
        expects_continue: expects_continue && !http10,
        upgrade,
    }))
}

/// A lone LF or CR would let others see other lines.
fn strict_line_ends(head: &[u8]) -> Result<(), Refusal> {
    for (at, byte) in head.iter().enumerate() {
        if *byte == b'\n' && (at == 0 || head[at - 1] != b'\r') {
            return Err(bad("http1.bare_lf"));
        }
        if *byte == b'\r' && head.get(at + 1) != Some(&b'\n') {
            return Err(bad("http1.bare_cr"));
        }
    }
    Ok(())
}

fn set_target(
    head: &mut RequestHead,
    method: &str,
    target: &str,
    host: Option<&[u8]>,
    http10: bool,
) -> Result<(), Refusal> {
    if target.bytes().any(|byte| byte <= b' ' || byte == b'#' || byte >= 127) {
        return Err(bad("http1.invalid_url"));
    }
    let mut authority = host;
    if method == "CONNECT" {
        authority = Some(target.as_bytes());
        head.set_path("");
    } else if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        head.set_path(target);
    } else if let Some((scheme, rest)) = target.split_once("://") {
        if scheme.eq_ignore_ascii_case("https") {
            head.scheme = Scheme::Https;
        } else if !scheme.eq_ignore_ascii_case("http") {
            return Err(bad("http1.invalid_scheme"));
        }
        // The host of an absolute target counts, not the Host field (RFC 9112, 3.2.2).
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        authority = Some(&rest.as_bytes()[..end]);
        let path = &rest[end..];
        if path.starts_with('/') {
            head.set_path(path);
        } else {
            head.set_path(format!("/{path}"));
        }
    } else {
        return Err(bad("http1.invalid_url"));
    }
    match authority {
        Some(authority) if valid_authority(authority) => head.set_authority(authority),
        Some(_) => return Err(bad("http1.invalid_host")),
        None if http10 => {}
        None => return Err(bad("missing_host_header")),
    }
    Ok(())
}

fn valid_authority(authority: &[u8]) -> bool {
    let host = without_port(authority);
    !host.is_empty()
        && authority.iter().all(|byte| {
            byte.is_ascii_alphanumeric()
                || matches!(
                    byte,
                    b'-' | b'.'
                        | b'_'
                        | b'~'
                        | b':'
                        | b'['
                        | b']'
                        | b'%'
                        | b'!'
                        | b'$'
                        | b'&'
                        | b'\''
                        | b'('
                        | b')'
                        | b'*'
                        | b'+'
                        | b';'
                        | b'='
                )
        })
}

impl Connection {
    /// Looks at a field; true if it is not to be passed on as it is.
    fn take(&mut self, name: &str, value: &[u8]) -> Result<bool, Refusal> {
        if name.eq_ignore_ascii_case("connection") || name.eq_ignore_ascii_case("proxy-connection") {
            for token in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                match token.to_ascii_lowercase().as_slice() {
                    b"close" => self.close = true,
                    b"keep-alive" => self.keep_alive = true,
                    b"upgrade" => self.upgrade = true,
                    b"" => {}
                    other => self.named.push(other.to_vec()),
                }
            }
        } else if name.eq_ignore_ascii_case("keep-alive") {
            // Said to us, and what we keep alive is our affair.
        } else if name.eq_ignore_ascii_case("upgrade") {
            self.upgrade_to = std::str::from_utf8(value).ok().map(str::to_owned);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            if self.chunked || value.contains(&b',') {
                return Err(bad("http1.invalid_transfer_encoding"));
            }
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Refusal { status: 501, details: "http1.unsupported_transfer_encoding" });
            }
            self.chunked = true;
        } else if name.eq_ignore_ascii_case("content-length") {
            if self.length.is_some() || value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
                return Err(bad("http1.invalid_content_length"));
            }
            let length = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok());
            self.length = Some(length.ok_or(bad("http1.invalid_content_length"))?);
            // Passed on, since a response to HEAD or a 304 has it without a body.
            return Ok(false);
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    /// Removes fields that were for us alone; what identifies the request or its way cannot be taken away so.
    fn drop_named(&self, headers: &mut Headers) {
        for name in &self.named {
            let kept: &[&[u8]] = &[b"content-length", b"cookie", b"authorization", b"te", b"forwarded"];
            if !kept.contains(&&name[..])
                && !name.starts_with(b"x-forwarded")
                && !name.starts_with(b"x-envoy")
            {
                headers.remove(name);
            }
        }
    }
}

/// Takes a response's head from `input`. None where it is not complete. `to_head`: the request was a HEAD.
pub fn parse_response(
    input: &[u8],
    limits: Limits,
    to_head: bool,
    head: &mut ResponseHead,
) -> Result<Option<ParsedResponse>, &'static str> {
    let mut fields = [const { std::mem::MaybeUninit::uninit() }; 256];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        input,
        &mut fields,
    );
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) if length <= limits.bytes => length,
        Ok(httparse::Status::Partial) if input.len() <= limits.bytes => return Ok(None),
        Ok(_) => return Err("the response's head is too large"),
        Err(_) => return Err("the response's head cannot be parsed"),
    };
    strict_line_ends(&input[..length]).map_err(|_| "the response's head has a bare line end")?;
    let http10 = response.version == Some(0);
    head.status = response.code.unwrap_or(0);
    if !(100..1000).contains(&head.status) {
        return Err("the response's status is not valid");
    }
    head.headers.clear();
    let mut connection = Connection::default();
    for field in response.headers.iter() {
        let value = field.value.trim_ascii();
        if !connection.take(field.name, value).map_err(|_| "the response's framing is ambiguous")? {
            head.headers.append(field.name, value);
        }
    }
    connection.drop_named(&mut head.headers);
    if connection.chunked && connection.length.is_some() {
        return Err("the response has both content-length and transfer-encoding");
    }
    if head.status == 101
        && let Some(protocol) = &connection.upgrade_to
    {
        head.headers.append("upgrade", protocol);
    }
    let bodiless = to_head || matches!(head.status, 100..=199 | 204 | 304);
    let framing = if bodiless {
        Framing::Length(0)
    } else if connection.chunked {
        Framing::Chunked
    } else if let Some(length) = connection.length {
        Framing::Length(length)
    } else {
        Framing::UntilClose
    };
    let keep_alive = if http10 { connection.keep_alive } else { !connection.close };
    Ok(Some(ParsedResponse { length, framing, keep_alive: keep_alive && framing != Framing::UntilClose }))
}

/// Writes a request's head. `upgrade` names the protocol to change to.
pub fn write_request(out: &mut Vec<u8>, head: &RequestHead, framing: Framing, upgrade: Option<&str>) {
    out.extend_from_slice(head.method());
    out.push(b' ');
    out.extend_from_slice(if head.method() == b"CONNECT" { head.authority() } else { head.path() });
    out.extend_from_slice(b" HTTP/1.1\r\n");
    field(out, b"host", head.authority());
    fields(out, &head.headers, framing);
    if let Some(protocol) = upgrade {
        field(out, b"connection", b"Upgrade");
        field(out, b"upgrade", protocol.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes a response's head. `bodiless`: there is no body, whatever the fields say of it.
pub fn write_response(
    out: &mut Vec<u8>,
    head: &ResponseHead,
    framing: Framing,
    keep_alive: Option<bool>,
    http10: bool,
) {
    let reason = http::StatusCode::from_u16(head.status).ok().and_then(|status| status.canonical_reason());
    let version = if http10 { "HTTP/1.0" } else { "HTTP/1.1" };
    // Writing to memory cannot fail.
    let _ = write!(out, "{version} {} {}\r\n", head.status, reason.unwrap_or("Unknown"));
    fields(out, &head.headers, framing);
    if head.status == 101 {
        field(out, b"connection", b"Upgrade");
    } else {
        match keep_alive {
            Some(false) => field(out, b"connection", b"close"),
            Some(true) if http10 => field(out, b"connection", b"keep-alive"),
            _ => {}
        }
    }
    out.extend_from_slice(b"\r\n");
}

fn fields(out: &mut Vec<u8>, headers: &Headers, framing: Framing) {
    let mut has_length = false;
    for (name, value) in headers.iter() {
        match name {
            b"content-length" if framing == Framing::Chunked || framing == Framing::UntilClose => continue,
            b"content-length" => has_length = true,
            b"transfer-encoding" | b"connection" => continue,
            _ => {}
        }
        field(out, name, value);
    }
    match framing {
        Framing::Chunked => field(out, b"transfer-encoding", b"chunked"),
        Framing::Length(length) if length > 0 && !has_length => {
            let _ = write!(out, "content-length: {length}\r\n");
        }
        _ => {}
    }
}

fn field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { bytes: 4096, fields: 100 };

    fn parse(text: &str) -> Result<Option<(ParsedRequest, RequestHead)>, Refusal> {
        let mut head = RequestHead::default();
        let parsed = parse_request(text.as_bytes(), LIMITS, &mut head)?;
        Ok(parsed.map(|parsed| (parsed, head)))
    }

    #[test]
    fn what_is_ambiguous_is_refused() {
        for (name, text, status) in [
            (
                "length and chunked",
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
                400,
            ),
            (
                "two lengths",
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
                400,
            ),
            (
                "two equal lengths",
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
                400,
            ),
            ("list of lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\n", 400),
            ("signed length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\n", 400),
            ("hexadecimal length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\n", 400),
            (
                "length beyond 64 bits",
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
                400,
            ),
            ("empty length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", 400),
            ("other encoding", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
            ("two encodings", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 400),
            (
                "chunked twice",
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
                400,
            ),
            ("odd chunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", 501),
            ("chunked in 1.0", "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            ("bare LF", "GET / HTTP/1.1\nHost: a\n\n", 400),
            ("bare LF in a field", "GET / HTTP/1.1\r\nHost: a\r\nX: b\nY: c\r\n\r\n", 400),
            ("bare CR in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: b\rY: c\r\n\r\n", 400),
            ("obs-fold", "GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", 400),
            ("blank before the colon", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length : 3\r\n\r\n", 400),
            ("NUL", "GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", 400),
            ("no host", "GET / HTTP/1.1\r\n\r\n", 400),
            ("two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
            ("odd host", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
            ("host with user", "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400),
            ("empty host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
            ("fragment", "GET /#a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("relative target", "GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("other scheme", "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("other version", "GET / HTTP/2.0\r\nHost: a\r\n\r\n", 400),
            ("no version", "GET /\r\n\r\n", 400),
            ("unknown expectation", "GET / HTTP/1.1\r\nHost: a\r\nExpect: x\r\n\r\n", 417),
        ] {
            assert_eq!(parse(text).map_err(|refusal| refusal.status), Err(status), "{name}");
        }
        let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "a".repeat(5000));
        assert_eq!(parse(&long).map_err(|refusal| refusal.status), Err(431));
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "x: y\r\n".repeat(150));
        assert_eq!(parse(&many).map_err(|refusal| refusal.status), Err(431));
    }

    #[test]
    fn what_concerns_the_connection_stays_here() {
        let text = "GET /a HTTP/1.1\r\nHost: h:80\r\nConnection: close, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: 5\r\nX-Other: 2\r\n\r\n";
        let (parsed, head) = parse(text).unwrap().unwrap();
        assert!(!parsed.keep_alive && parsed.length == text.len());
        assert_eq!((head.authority(), head.path()), (&b"h:80"[..], &b"/a"[..]));
        assert_eq!(head.headers, [("x-other", "2")].into_iter().collect());
        let (parsed, _) =
            parse("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
                .unwrap()
                .unwrap();
        assert_eq!(parsed.upgrade.as_deref(), Some("websocket"));
        let (_, head) = parse("GET http://b:81?x HTTP/1.1\r\nHost: a\r\n\r\n").unwrap().unwrap();
        assert_eq!((head.authority(), head.path()), (&b"b:81"[..], &b"/?x"[..]));
        assert_eq!(parse("GET / HTTP/1.1\r\nHost: a\r\n"), Ok(None));
    }

    #[test]
    fn responses() {
        let check = |name: &str, text: &str, to_head: bool, expect: Result<(Framing, bool), ()>| {
            let mut head = ResponseHead::default();
            let parsed = parse_response(text.as_bytes(), LIMITS, to_head, &mut head).map_err(|_| ());
            let parsed = parsed
                .map(|parsed| parsed.expect("complete"))
                .map(|parsed| (parsed.framing, parsed.keep_alive));
            assert_eq!(parsed, expect, "{name}");
        };
        check(
            "length",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            false,
            Ok((Framing::Length(5), true)),
        );
        check(
            "to HEAD",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            true,
            Ok((Framing::Length(0), true)),
        );
        check("304", "HTTP/1.1 304 x\r\nContent-Length: 5\r\n\r\n", false, Ok((Framing::Length(0), true)));
        check("until close", "HTTP/1.1 200 OK\r\n\r\n", false, Ok((Framing::UntilClose, false)));
        check(
            "close",
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            false,
            Ok((Framing::Length(0), false)),
        );
        check("1.0", "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", false, Ok((Framing::Length(0), false)));
        check(
            "both",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            false,
            Err(()),
        );
        check(
            "two lengths",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            false,
            Err(()),
        );
    }
}
