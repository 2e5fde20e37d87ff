//! Heads of HTTP/1 messages: strict parsing, and writing.

use lateen_dataplane::head::{Headers, RequestHead, ResponseHead, Scheme};
use lateen_dataplane::http_protocol::{HeaderCase, Underscores};
use lateen_dataplane::route::without_port;

use smallvec::SmallVec;

use super::Framing;
use crate::decimal::Decimal;

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

/// What is asked of a request's head.
#[derive(Debug, Clone, Copy)]
pub struct RequestRules {
    /// What it may cost.
    pub limits: Limits,
    /// Whether a target in absolute form is taken apart; else it is a path, and not one that anybody serves.
    pub absolute_url: bool,
    /// Whether a length beside chunks is dropped, and not refused.
    pub chunked_length: bool,
    /// Fields with underscores in their names.
    pub underscores: Underscores,
    /// Whether the spelling of names is remembered.
    pub keep_case: bool,
}

impl RequestRules {
    /// The usual ones.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            absolute_url: true,
            chunked_length: false,
            underscores: Underscores::Allow,
            keep_case: false,
        }
    }
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
    /// Whether there was neither a `Host` field nor a target with an authority.
    pub missing_host: bool,
    /// Whether the target said the scheme.
    pub scheme_given: bool,
    /// Fields that were dropped for the underscores in their names.
    pub dropped: u32,
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
    /// Bytes of the first line.
    pub line: usize,
    /// Fields, also those that are not kept.
    pub fields: usize,
    /// Whether the peer says that the connection ends.
    pub close: bool,
}

/// The fields of a message that concern one connection alone.
#[derive(Default)]
struct Connection {
    close: bool,
    keep_alive: bool,
    upgrade: bool,
    /// The field that asks for an upgrade, as it came.
    asks_upgrade: Vec<u8>,
    /// Other fields named by `connection`.
    named: Vec<Vec<u8>>,
    chunked: bool,
    length: Option<u64>,
    upgrade_to: Option<String>,
}

/// Takes a request's head from `input`. None where it is not complete.
pub fn parse_request(
    input: &[u8],
    rules: RequestRules,
    head: &mut RequestHead,
) -> Result<Option<ParsedRequest>, Refusal> {
    let limits = rules.limits;
    let mut fields = [const { std::mem::MaybeUninit::uninit() }; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    let parsed =
        httparse::ParserConfig::default().parse_request_with_uninit_headers(&mut request, input, &mut fields);
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) if length <= limits.bytes => length,
        Ok(httparse::Status::Partial) if input.len() <= limits.bytes => return Ok(None),
        Ok(_) => return Err(Refusal { status: 431, details: "http1.headers_too_large" }),
        // What else the line says decides what is wrong with it.
        Err(httparse::Error::Version) if !input.contains(&b'\n') && input.len() <= limits.bytes => {
            return Ok(None);
        }
        Err(error) => return Err(refusal(error, input)),
    };
    strict_line_ends(&input[..length])?;
    if request.headers.len() > limits.fields {
        return Err(Refusal { status: 431, details: "http1.too_many_headers" });
    }
    let method = request.method.unwrap_or_default();
    let target = request.path.unwrap_or_default();
    let http10 = request.version == Some(0);
    if !METHODS.contains(&method) {
        return Err(bad("http1.codec_error"));
    }
    head.clear();
    head.headers.reserve(length + ADDED_BYTES, request.headers.len() + ADDED_FIELDS);
    head.set_method(method);
    let mut host: Option<&[u8]> = None;
    let mut expects_continue = false;
    let mut dropped = 0;
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
        } else if rules.underscores != Underscores::Allow && field.name.contains('_') {
            if rules.underscores == Underscores::Reject {
                return Err(bad("http1.unexpected_underscore"));
            }
            dropped += 1;
            continue;
        } else {
            expects_continue |=
                field.name.eq_ignore_ascii_case("expect") && value.eq_ignore_ascii_case(b"100-continue");
            head.headers.append(field.name, value);
        }
        if rules.keep_case {
            head.headers.remember_case(field.name);
        }
    }
    let scheme_given = set_target(head, method, target, host, rules.absolute_url)?;
    // HTTP/1.0 has no chunks: a server that does not know them would take them for the next request.
    if connection.chunked && http10 {
        return Err(bad("http1.transfer_encoding_not_allowed"));
    }
    if connection.chunked && connection.length.is_some() {
        if !rules.chunked_length {
            return Err(bad("http1.content_length_and_chunked_not_allowed"));
        }
        head.headers.remove("content-length");
    }
    let framing =
        if connection.chunked { Framing::Chunked } else { Framing::Length(connection.length.unwrap_or(0)) };
    connection.drop_named(&mut head.headers);
    let upgrade = connection.upgrade_for(http10);
    if let Some(protocol) = &upgrade {
        head.headers.append("connection", &connection.asks_upgrade);
        head.headers.append("upgrade", protocol);
    }
    // Is what follows a body, or what the new protocol says?
    if upgrade.is_some() && framing != Framing::Length(0) {
        return Err(bad("http1.body_disallowed"));
    }
    Ok(Some(ParsedRequest {
        length,
        framing,
        keep_alive: if http10 { connection.keep_alive && !connection.close } else { !connection.close },
        http10,
        expects_continue: expects_continue && !http10,
        upgrade,
        missing_host: host.is_none() && !scheme_given && method != "CONNECT",
        scheme_given,
        dropped,
    }))
}

/// Fields that a head may have at all.
const MAX_FIELDS: usize = 256;

/// What is added to most heads on their way; more than that costs an allocation.
const ADDED_BYTES: usize = 192;
const ADDED_FIELDS: usize = 6;

/// The methods that are passed on: those Envoy knows.
const METHODS: [&str; 34] = [
    "GET",
    "POST",
    "PUT",
    "DELETE",
    "HEAD",
    "OPTIONS",
    "PATCH",
    "CONNECT",
    "TRACE",
    "ACL",
    "BIND",
    "CHECKOUT",
    "COPY",
    "LINK",
    "LOCK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MOVE",
    "MSEARCH",
    "NOTIFY",
    "PROPFIND",
    "PROPPATCH",
    "PURGE",
    "REBIND",
    "REPORT",
    "SEARCH",
    "SOURCE",
    "SUBSCRIBE",
    "UNBIND",
    "UNLINK",
    "UNLOCK",
    "UNSUBSCRIBE",
];

fn refusal(error: httparse::Error, input: &[u8]) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => Refusal { status: 431, details: "http1.too_many_headers" },
        httparse::Error::HeaderValue => bad("http1.invalid_characters"),
        _ if is_other_version(input) => Refusal { status: 426, details: "low_version" },
        _ => bad("http1.codec_error"),
    }
}

/// Whether only the version in the first line is not one of ours; none at all is that of HTTP/0.9. What begins HTTP/2
/// is no request of any version.
fn is_other_version(input: &[u8]) -> bool {
    let line = input.split(|byte| *byte == b'\r' || *byte == b'\n').next().unwrap_or_default();
    let words: SmallVec<[&[u8]; 4]> = line.split(|byte| *byte == b' ').collect();
    let [method, target, version @ ..] = &words[..] else { return false };
    let understood = METHODS.iter().any(|known| known.as_bytes() == *method)
        && target.first().is_some_and(|first| matches!(first, b'/' | b'*'))
        && target.iter().all(u8::is_ascii_graphic);
    understood
        && match version {
            [] => input.len() > line.len(),
            [version] => matches!(version.strip_prefix(b"HTTP/"),
                Some([major @ b'0'..=b'9', b'.', minor @ b'0'..=b'9']) if *major != b'1' || *minor > b'1'),
            _ => false,
        }
}

/// A lone LF or CR would let others see other lines.
fn strict_line_ends(head: &[u8]) -> Result<(), Refusal> {
    // Counted in blocks whose counts fit into a byte: that is sixteen bytes an instruction.
    let (mut feeds, mut returns, mut ends) = (0, 0, 0);
    let mut before = 0;
    for block in head.chunks(255) {
        feeds += count(block.iter().map(|byte| *byte == b'\n'));
        returns += count(block.iter().map(|byte| *byte == b'\r'));
        ends += count(block.iter().zip(&block[1..]).map(|(one, next)| *one == b'\r' && *next == b'\n'));
        ends += usize::from(before == b'\r' && block[0] == b'\n');
        before = block[block.len() - 1];
    }
    if feeds != ends {
        Err(bad("http1.bare_lf"))
    } else if returns != ends {
        Err(bad("http1.bare_cr"))
    } else {
        Ok(())
    }
}

fn count(found: impl Iterator<Item = bool>) -> usize {
    usize::from(found.map(u8::from).fold(0u8, u8::wrapping_add))
}

/// Sets path, authority and scheme; says whether the target named the scheme.
fn set_target(
    head: &mut RequestHead,
    method: &str,
    target: &str,
    host: Option<&[u8]>,
    absolute_url: bool,
) -> Result<bool, Refusal> {
    if target.bytes().any(|byte| byte <= b' ' || byte >= 127) {
        return Err(bad("http1.codec_error"));
    }
    let mut authority = host;
    let mut scheme_given = false;
    if method == "CONNECT" {
        authority = Some(target.as_bytes());
        head.set_path("");
    } else if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        head.set_path(target);
    } else if let Some((scheme, rest)) = target.split_once("://") {
        if !absolute_url {
            head.set_path(target);
        } else {
            scheme_given = true;
            if scheme.eq_ignore_ascii_case("https") {
                head.scheme = Scheme::Https;
            } else if !scheme.eq_ignore_ascii_case("http") {
                return Err(bad("http1.invalid_scheme"));
            }
            // The host of an absolute target counts, not the Host field (RFC 9112, 3.2.2).
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            authority = Some(&rest.as_bytes()[..end]);
            let path = &rest[end..];
            if path.starts_with('/') {
                head.set_path(path);
            } else {
                head.set_path(format!("/{path}"));
            }
            if end == 0 {
                return Err(bad("http1.invalid_url"));
            }
        }
    } else {
        return Err(bad(if target == "*" { "http1.invalid_url" } else { "http1.codec_error" }));
    }
    match authority {
        Some(authority) if valid_authority(authority) => head.set_authority(authority),
        Some(_) => return Err(bad("http.invalid_authority")),
        None => {}
    }
    Ok(scheme_given)
}

fn valid_authority(authority: &[u8]) -> bool {
    // `Host:` without a value is that of a target without authority (RFC 9112, 3.2).
    let host = without_port(authority);
    (!host.is_empty() || authority.is_empty())
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
        // Most names have another length than any of these.
        if !matches!(name.len(), 7 | 10 | 14 | 16 | 17) {
            return Ok(false);
        }
        if name.eq_ignore_ascii_case("connection") || name.eq_ignore_ascii_case("proxy-connection") {
            for token in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                match token {
                    b"" => {}
                    token if token.eq_ignore_ascii_case(b"close") => self.close = true,
                    token if token.eq_ignore_ascii_case(b"keep-alive") => self.keep_alive = true,
                    token if token.eq_ignore_ascii_case(b"upgrade") => {
                        self.upgrade = true;
                        self.asks_upgrade = value.to_vec();
                    }
                    other => self.named.push(other.to_ascii_lowercase()),
                }
            }
        } else if name.eq_ignore_ascii_case("keep-alive") {
            // Said to us, and what we keep alive is our affair.
        } else if name.eq_ignore_ascii_case("upgrade") {
            self.upgrade_to = std::str::from_utf8(value).ok().map(str::to_owned);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            if self.chunked {
                return Err(bad("http1.invalid_transfer_encoding"));
            }
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Refusal { status: 501, details: "http1.invalid_transfer_encoding" });
            }
            self.chunked = true;
        } else if name.eq_ignore_ascii_case("content-length") {
            if self.length.is_some() || value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
                return Err(bad("http1.codec_error"));
            }
            let length = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok());
            self.length = Some(length.ok_or(bad("http1.codec_error"))?);
            // Passed on, since a response to HEAD or a 304 has it without a body.
            return Ok(false);
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    /// The protocol to change to. HTTP/2 is spoken by prior knowledge or not at all (RFC 9113, 3.1).
    fn upgrade_for(&mut self, http10: bool) -> Option<String> {
        self.upgrade_to.take().filter(|to| self.upgrade && !http10 && !to.eq_ignore_ascii_case("h2c"))
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
    let mut fields = [const { std::mem::MaybeUninit::uninit() }; MAX_FIELDS];
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
    head.headers.reserve(length + ADDED_BYTES, response.headers.len() + ADDED_FIELDS);
    let mut connection = Connection::default();
    for field in response.headers.iter() {
        let value = field.value.trim_ascii();
        if !connection.take(field.name, value).map_err(|_| "the response's framing is ambiguous")? {
            head.headers.append(field.name, value);
        }
    }
    if connection.chunked && connection.length.is_some() {
        return Err("the response has both content-length and transfer-encoding");
    }
    if connection.chunked && http10 {
        return Err("an HTTP/1.0 response is chunked");
    }
    if head.status == 101
        && let Some(protocol) = &connection.upgrade_to
    {
        head.headers.append("upgrade", protocol);
        if connection.upgrade {
            head.headers.append("connection", &connection.asks_upgrade);
        }
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
    Ok(Some(ParsedResponse {
        length,
        framing,
        keep_alive: keep_alive && framing != Framing::UntilClose,
        close: !keep_alive,
        line: input.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1),
        fields: response.headers.len(),
    }))
}

/// Remembers how a peer wrote the names of a head's fields.
pub fn remember_names(head: &[u8], headers: &mut Headers) {
    for line in head.split(|byte| *byte == b'\n').skip(1) {
        if let Some(end) = line.iter().position(|byte| *byte == b':') {
            headers.remember_case(&line[..end]);
        }
    }
}

/// How a head is written.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spelling {
    /// The case of names.
    pub case: HeaderCase,
    /// Whether a request's target is the whole URL.
    pub fully_qualified: bool,
}

/// Writes a request's head. `upgrade` names the protocol to change to.
pub fn write_request(
    out: &mut Vec<u8>,
    head: &RequestHead,
    framing: Framing,
    upgrade: Option<&str>,
    spelling: Spelling,
) {
    out.reserve(head.headers.written_size() + LINES);
    let mut writer = FieldWriter { out, headers: &head.headers, case: spelling.case };
    writer.out.extend_from_slice(head.method());
    writer.out.push(b' ');
    if head.method() == b"CONNECT" {
        writer.out.extend_from_slice(head.authority());
    } else {
        if spelling.fully_qualified {
            writer.out.extend_from_slice(head.scheme.as_str().as_bytes());
            writer.out.extend_from_slice(b"://");
            writer.out.extend_from_slice(head.authority());
        }
        writer.out.extend_from_slice(head.path());
    }
    writer.out.extend_from_slice(b" HTTP/1.1\r\n");
    writer.field(b"host", head.authority());
    let has_length = writer.fields(framing);
    // A request that could have a body says that it has none (RFC 9110, 8.6).
    if framing == Framing::Length(0)
        && !has_length
        && !matches!(head.method(), b"GET" | b"HEAD" | b"DELETE" | b"TRACE" | b"CONNECT")
    {
        writer.field(b"content-length", b"0");
    }
    if let Some(protocol) = upgrade {
        writer.field(b"connection", head.headers.get("connection").unwrap_or(b"upgrade"));
        if !head.headers.contains("upgrade") {
            writer.field(b"upgrade", protocol.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// What a response's first line and last fields say.
#[derive(Debug, Clone, Copy)]
pub struct ResponseWriting {
    /// How the body is framed.
    pub framing: Framing,
    /// Whether the connection is used again; none says nothing about it.
    pub keep_alive: Option<bool>,
    /// To a client of HTTP/1.0.
    pub http10: bool,
    /// Whether a body of no bytes is said to be one.
    pub explicit_length: bool,
    /// Whether the body would be in chunks, had the request not been a HEAD.
    pub would_be_chunked: bool,
    /// The case of names.
    pub case: HeaderCase,
}

/// Writes a response's head.
pub fn write_response(out: &mut Vec<u8>, head: &ResponseHead, writing: ResponseWriting) {
    // A short body follows in the same write.
    let body = match writing.framing {
        Framing::Length(length @ ..=SHORT_BODY) => length as usize,
        _ => 0,
    };
    out.reserve(head.headers.written_size() + LINES + body);
    write_status_line(out, if writing.http10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " }, head.status);
    let mut writer = FieldWriter { out, headers: &head.headers, case: writing.case };
    let has_length = writer.fields(writing.framing);
    if writing.explicit_length && !has_length {
        writer.field(b"content-length", b"0");
    }
    if writing.would_be_chunked && !has_length {
        writer.field(b"transfer-encoding", b"chunked");
    }
    if head.status == 101 {
        writer.field(b"connection", head.headers.get("connection").unwrap_or(b"upgrade"));
    } else {
        match writing.keep_alive {
            Some(false) => writer.field(b"connection", b"close"),
            Some(true) if writing.http10 => writer.field(b"connection", b"keep-alive"),
            _ => {}
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// What a head has beside its fields: the first line, and lines about its framing.
const LINES: usize = 128;

/// Bodies up to this follow their heads in the same buffer.
const SHORT_BODY: u64 = 4096;

fn write_status_line(out: &mut Vec<u8>, version: &[u8], status: u16) {
    let reason = http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    out.extend_from_slice(version);
    // Three digits, as the parser has made sure.
    out.extend_from_slice(&[100, 10, 1].map(|unit| b'0' + (status / unit % 10) as u8));
    out.push(b' ');
    out.extend_from_slice(reason.unwrap_or("Unknown").as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Writes an interim response (1xx but 101).
pub fn write_interim(out: &mut Vec<u8>, head: &ResponseHead, case: HeaderCase) {
    write_status_line(out, b"HTTP/1.1 ", head.status);
    let mut writer = FieldWriter { out, headers: &head.headers, case };
    for (name, value) in head.headers.iter() {
        if !matches!(name, b"content-length" | b"transfer-encoding" | b"connection") {
            writer.field(name, value);
        }
    }
    out.extend_from_slice(b"\r\n");
}

struct FieldWriter<'a> {
    out: &'a mut Vec<u8>,
    headers: &'a Headers,
    case: HeaderCase,
}

impl FieldWriter<'_> {
    /// Says whether there was a length among them.
    fn fields(&mut self, framing: Framing) -> bool {
        let mut has_length = false;
        for (name, value) in self.headers.iter() {
            match name {
                b"content-length" if matches!(framing, Framing::Chunked | Framing::UntilClose) => continue,
                b"content-length" => has_length = true,
                b"transfer-encoding" | b"connection" => continue,
                _ => {}
            }
            self.field(name, value);
        }
        match framing {
            Framing::Chunked => self.field(b"transfer-encoding", b"chunked"),
            Framing::Length(length) if length > 0 && !has_length => {
                self.field(b"content-length", Decimal::new(length).as_bytes());
            }
            _ => {}
        }
        has_length
    }

    fn field(&mut self, name: &[u8], value: &[u8]) {
        match self.headers.as_sent(name) {
            Some(name) => self.out.extend_from_slice(name),
            None if self.case == HeaderCase::Proper => {
                let mut first = true;
                for byte in name {
                    self.out.push(if first { byte.to_ascii_uppercase() } else { *byte });
                    first = !byte.is_ascii_alphanumeric();
                }
            }
            None => self.out.extend_from_slice(name),
        }
        self.out.extend_from_slice(b": ");
        self.out.extend_from_slice(value);
        self.out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { bytes: 4096, fields: 100 };

    fn parse(text: &str) -> Result<Option<(ParsedRequest, RequestHead)>, Refusal> {
        let mut head = RequestHead::default();
        let parsed = parse_request(text.as_bytes(), RequestRules::new(LIMITS), &mut head)?;
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
            ("two encodings", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
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
            ("two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
            ("odd host", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
            ("host with user", "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400),
            ("relative target", "GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("other scheme", "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("other version", "GET / HTTP/2.0\r\nHost: a\r\n\r\n", 426),
            ("two words and a version", "GET / x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("other method", "FOO / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            (
                "an upgrade with a body",
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\nContent-Length: 1\r\n\r\n",
                400,
            ),
            ("no version", "GET /\r\n\r\n", 426),
            ("HTTP/2", "PRI * HTTP/2.0\r\n\r\n", 400),
        ] {
            assert_eq!(parse(text).map_err(|refusal| refusal.status), Err(status), "{name}");
        }
        let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "a".repeat(5000));
        assert_eq!(parse(&long).map_err(|refusal| refusal.status), Err(431));
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "x: y\r\n".repeat(150));
        assert_eq!(parse(&many).map_err(|refusal| refusal.status), Err(431));
    }

    #[test]
    fn what_is_clear_is_for_others_to_judge() {
        for (name, text, missing_host) in [
            ("no host", "GET / HTTP/1.1\r\n\r\n", true),
            ("empty host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", false),
            ("fragment", "GET /#a HTTP/1.1\r\nHost: a\r\n\r\n", false),
            ("unknown expectation", "GET / HTTP/1.1\r\nHost: a\r\nExpect: x\r\n\r\n", false),
            ("any target", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", false),
        ] {
            let (parsed, _) = parse(text).unwrap().unwrap();
            assert_eq!(parsed.missing_host, missing_host, "{name}");
        }
        let rules = |change: fn(&mut RequestRules)| {
            let mut rules = RequestRules::new(LIMITS);
            change(&mut rules);
            rules
        };
        let mut head = RequestHead::default();
        let both = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n";
        let parsed =
            parse_request(both, rules(|rules| rules.chunked_length = true), &mut head).unwrap().unwrap();
        assert_eq!((parsed.framing, head.headers.contains("content-length")), (Framing::Chunked, false));
        let under = b"GET / HTTP/1.1\r\nHost: a\r\nA_B: 1\r\nC: 2\r\n\r\n";
        let drop = rules(|rules| rules.underscores = Underscores::Drop);
        let parsed = parse_request(under, drop, &mut head).unwrap().unwrap();
        assert_eq!((parsed.dropped, head.headers.len()), (1, 1));
        let reject = rules(|rules| rules.underscores = Underscores::Reject);
        assert_eq!(parse_request(under, reject, &mut head).map_err(|refusal| refusal.status), Err(400));
        let absolute = b"GET http://b/x HTTP/1.1\r\nHost: a\r\n\r\n";
        parse_request(absolute, rules(|rules| rules.absolute_url = false), &mut head).unwrap().unwrap();
        assert_eq!((head.authority(), head.path()), (&b"a"[..], &b"http://b/x"[..]));
    }

    #[test]
    fn names_are_written_as_asked() {
        let mut head = RequestHead::default();
        let mut rules = RequestRules::new(LIMITS);
        rules.keep_case = true;
        parse_request(b"GET / HTTP/1.1\r\nhOst: a\r\nX-fOO: 1\r\n\r\n", rules, &mut head).unwrap().unwrap();
        head.headers.append("x-new-one", "2");
        let write = |case, fully_qualified| {
            let mut out = Vec::new();
            write_request(&mut out, &head, Framing::Length(0), None, Spelling { case, fully_qualified });
            String::from_utf8(out).unwrap()
        };
        let expect = "GET / HTTP/1.1\r\nhOst: a\r\nX-fOO: 1\r\nX-New-One: 2\r\n\r\n";
        assert_eq!(write(HeaderCase::Proper, false), expect);
        assert!(write(HeaderCase::Lower, true).starts_with("GET http://a/ HTTP/1.1\r\n"));
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
