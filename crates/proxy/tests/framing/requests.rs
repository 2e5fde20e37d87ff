//! Requests that could be understood in two ways, or in none. In each, `/smuggled` marks what must never be served.

/// What is to become of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// This answer, then the end of the connection; nothing goes upstream.
    Refused(u16),
    /// The head may be on its way already; what follows it never completes the message upstream.
    Cut,
    /// Forwarded with this body.
    Forwarded(&'static str),
}

pub use Expect::{Cut, Forwarded, Refused};

/// Name, bytes, outcome.
pub type Row = (&'static str, &'static str, Expect);

/// A request that must not be served after one that was not understood.
macro_rules! then_smuggled {
    ($text:expr) => {
        concat!($text, "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
    };
}

/// A POST with these fields and this body.
macro_rules! post {
    ($fields:expr, $body:expr) => {
        concat!("POST / HTTP/1.1\r\nHost: a\r\n", $fields, "\r\n", $body)
    };
}

/// A chunked POST.
macro_rules! chunked {
    ($body:expr) => {
        post!("Transfer-Encoding: chunked\r\n", $body)
    };
}

/// A GET with these fields.
macro_rules! get {
    ($fields:expr) => {
        concat!("GET / HTTP/1.1\r\nHost: a\r\n", $fields, "\r\n")
    };
}

pub const ROWS: &[Row] = &[
    // What is clear goes through: the table can tell the difference.
    ("control: no body", get!(""), Forwarded("")),
    ("control: length", post!("Content-Length: 3\r\n", "abc"), Forwarded("abc")),
    ("control: length 0", post!("Content-Length: 0\r\n", ""), Forwarded("")),
    ("control: chunks", chunked!("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"), Forwarded("abcde")),
    ("control: chunk extension", chunked!("3;a=b\r\nabc\r\n0\r\n\r\n"), Forwarded("abc")),
    ("control: quoted chunk extension", chunked!("3;a=\"b;c\"\r\nabc\r\n0\r\n\r\n"), Forwarded("abc")),
    ("control: zeros before a size", chunked!("0003\r\nabc\r\n000\r\n\r\n"), Forwarded("abc")),
    ("control: capital size", chunked!("A\r\n0123456789\r\n0\r\n\r\n"), Forwarded("0123456789")),
    ("control: trailers", chunked!("1\r\na\r\n0\r\nX-Sum: 1\r\n\r\n"), Forwarded("a")),
    ("control: line ends before the request", concat!("\r\n\r\n", get!("")), Forwarded("")),
    ("control: blanks around a value", post!("Content-Length: \t 3 \t\r\n", "abc"), Forwarded("abc")),
    ("control: Chunked", post!("Transfer-Encoding: Chunked\r\n", "1\r\na\r\n0\r\n\r\n"), Forwarded("a")),
    ("control: absolute target", "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", Forwarded("")),
    ("control: an empty Host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", Forwarded("")),
    // Two lengths, or one that is none.
    (
        "length and chunked",
        then_smuggled!(post!("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
        Refused(400),
    ),
    (
        "chunked and length",
        then_smuggled!(post!("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", "0\r\n\r\n")),
        Refused(400),
    ),
    (
        "chunked and length 0",
        then_smuggled!(post!("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
        Refused(400),
    ),
    ("two lengths", then_smuggled!(post!("Content-Length: 3\r\nContent-Length: 0\r\n", "abc")), Refused(400)),
    (
        "two lengths, the other way",
        then_smuggled!(post!("Content-Length: 0\r\nContent-Length: 3\r\n", "abc")),
        Refused(400),
    ),
    (
        "the same length twice",
        then_smuggled!(post!("Content-Length: 3\r\nContent-Length: 3\r\n", "abc")),
        Refused(400),
    ),
    ("a list of lengths", then_smuggled!(post!("Content-Length: 3, 3\r\n", "abc")), Refused(400)),
    (
        "a list of lengths without blank",
        then_smuggled!(post!("Content-Length: 0,3\r\n", "abc")),
        Refused(400),
    ),
    ("plus", then_smuggled!(post!("Content-Length: +3\r\n", "abc")), Refused(400)),
    ("minus", then_smuggled!(post!("Content-Length: -3\r\n", "abc")), Refused(400)),
    ("minus zero", then_smuggled!(post!("Content-Length: -0\r\n", "")), Refused(400)),
    ("hexadecimal", then_smuggled!(post!("Content-Length: 0x3\r\n", "abc")), Refused(400)),
    ("hexadecimal digits", then_smuggled!(post!("Content-Length: a\r\n", "0123456789")), Refused(400)),
    ("octal prefix", then_smuggled!(post!("Content-Length: 0o3\r\n", "abc")), Refused(400)),
    ("exponent", then_smuggled!(post!("Content-Length: 3e0\r\n", "abc")), Refused(400)),
    ("fraction", then_smuggled!(post!("Content-Length: 3.0\r\n", "abc")), Refused(400)),
    ("underscore among digits", then_smuggled!(post!("Content-Length: 1_0\r\n", "abc")), Refused(400)),
    ("blank among digits", then_smuggled!(post!("Content-Length: 1 0\r\n", "abc")), Refused(400)),
    ("quoted", then_smuggled!(post!("Content-Length: \"3\"\r\n", "abc")), Refused(400)),
    ("empty length", then_smuggled!(post!("Content-Length:\r\n", "abc")), Refused(400)),
    ("blank length", then_smuggled!(post!("Content-Length:  \r\n", "abc")), Refused(400)),
    ("text", then_smuggled!(post!("Content-Length: three\r\n", "abc")), Refused(400)),
    ("65 bits", then_smuggled!(post!("Content-Length: 18446744073709551619\r\n", "abc")), Refused(400)),
    (
        "very long",
        then_smuggled!(post!("Content-Length: 99999999999999999999999999999999999\r\n", "abc")),
        Refused(400),
    ),
    (
        "vertical tab before the length",
        then_smuggled!(post!("Content-Length: \x0b3\r\n", "abc")),
        Refused(400),
    ),
    ("form feed after the length", then_smuggled!(post!("Content-Length: 3\x0c\r\n", "abc")), Refused(400)),
    ("NUL after the length", then_smuggled!(post!("Content-Length: 3\0\r\n", "abc")), Refused(400)),
    // Transfer codings.
    ("unknown coding", then_smuggled!(post!("Transfer-Encoding: gzip\r\n", "0\r\n\r\n")), Refused(501)),
    ("identity", then_smuggled!(post!("Transfer-Encoding: identity\r\n", "0\r\n\r\n")), Refused(501)),
    (
        "a coding before chunked",
        then_smuggled!(post!("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n")),
        Refused(501),
    ),
    (
        "a coding after chunked",
        then_smuggled!(post!("Transfer-Encoding: chunked, gzip\r\n", "0\r\n\r\n")),
        Refused(501),
    ),
    (
        "chunked twice in a list",
        then_smuggled!(post!("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n")),
        Refused(501),
    ),
    (
        "chunked twice",
        then_smuggled!(post!("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
        Refused(400),
    ),
    (
        "chunked, then identity",
        then_smuggled!(post!("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n")),
        Refused(400),
    ),
    ("almost chunked", then_smuggled!(post!("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n")), Refused(501)),
    (
        "chunked with a parameter",
        then_smuggled!(post!("Transfer-Encoding: chunked;q=1\r\n", "0\r\n\r\n")),
        Refused(501),
    ),
    (
        "quoted chunked",
        then_smuggled!(post!("Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n")),
        Refused(501),
    ),
    ("empty coding", then_smuggled!(post!("Transfer-Encoding:\r\n", "0\r\n\r\n")), Refused(501)),
    (
        "comma before chunked",
        then_smuggled!(post!("Transfer-Encoding: ,chunked\r\n", "0\r\n\r\n")),
        Refused(501),
    ),
    (
        "vertical tab before chunked",
        then_smuggled!(post!("Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n")),
        Refused(400),
    ),
    (
        "chunked in HTTP/1.0",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Refused(400),
    ),
    (
        "underscore for a dash",
        then_smuggled!(post!("Transfer_Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n")),
        Forwarded("0\r\n\r\n"),
    ),
    // Chunks.
    ("sign of a size", then_smuggled!(chunked!("+3\r\nabc\r\n0\r\n\r\n")), Cut),
    ("minus size", then_smuggled!(chunked!("-1\r\nabc\r\n0\r\n\r\n")), Cut),
    ("prefix of a size", then_smuggled!(chunked!("0x3\r\nabc\r\n0\r\n\r\n")), Cut),
    ("no size", then_smuggled!(chunked!("\r\nabc\r\n0\r\n\r\n")), Cut),
    ("only an extension", then_smuggled!(chunked!(";a=b\r\nabc\r\n0\r\n\r\n")), Cut),
    ("no digit", then_smuggled!(chunked!("xyz\r\nabc\r\n0\r\n\r\n")), Cut),
    ("blank before a size", then_smuggled!(chunked!(" 3\r\nabc\r\n0\r\n\r\n")), Cut),
    ("tab before a size", then_smuggled!(chunked!("\t3\r\nabc\r\n0\r\n\r\n")), Cut),
    ("text after a size", then_smuggled!(chunked!("3 abc\r\nabc\r\n0\r\n\r\n")), Cut),
    ("underscore in a size", then_smuggled!(chunked!("1_0\r\nabc\r\n0\r\n\r\n")), Cut),
    ("a size of 64 bits", then_smuggled!(chunked!("ffffffffffffffff\r\nabc\r\n0\r\n\r\n")), Cut),
    ("a size of 68 bits", then_smuggled!(chunked!("10000000000000003\r\nabc\r\n0\r\n\r\n")), Cut),
    ("bare LF after a size", then_smuggled!(chunked!("3\nabc\r\n0\r\n\r\n")), Cut),
    ("bare CR after a size", then_smuggled!(chunked!("3\rabc\r\n0\r\n\r\n")), Cut),
    ("bare LF after a chunk", then_smuggled!(chunked!("3\r\nabc\n0\r\n\r\n")), Cut),
    ("bare CR after a chunk", then_smuggled!(chunked!("3\r\nabc\r0\r\n\r\n")), Cut),
    ("no line end after a chunk", then_smuggled!(chunked!("3\r\nabc0\r\n\r\n")), Cut),
    ("a chunk longer than its size", then_smuggled!(chunked!("3\r\nabcd\r\n0\r\n\r\n")), Cut),
    ("bare LF in an extension", then_smuggled!(chunked!("3;a\nb\r\nabc\r\n0\r\n\r\n")), Cut),
    ("bare CR in an extension", then_smuggled!(chunked!("3;a\rb\r\nabc\r\n0\r\n\r\n")), Cut),
    ("NUL in an extension", then_smuggled!(chunked!("3;a\0\r\nabc\r\n0\r\n\r\n")), Cut),
    ("bare LF after the last chunk", then_smuggled!(chunked!("0\n\n")), Cut),
    ("bare LF at the end", then_smuggled!(chunked!("0\r\n\n")), Cut),
    ("blank trailer name", then_smuggled!(chunked!("0\r\n x: y\r\n\r\n")), Cut),
    ("a trailer without colon", then_smuggled!(chunked!("0\r\nabc\r\n\r\n")), Cut),
    ("blank before a trailer's colon", then_smuggled!(chunked!("0\r\nx : y\r\n\r\n")), Cut),
    ("a folded trailer", then_smuggled!(chunked!("0\r\nx: y\r\n z\r\n\r\n")), Cut),
    ("NUL in a trailer", then_smuggled!(chunked!("0\r\nx: \0\r\n\r\n")), Cut),
    // Line ends and characters.
    ("bare LF", "GET / HTTP/1.1\nHost: a\n\nGET /smuggled HTTP/1.1\nHost: a\n\n", Refused(400)),
    ("bare LF after the request line", "GET / HTTP/1.1\nHost: a\r\n\r\n", Refused(400)),
    ("bare LF after a field", "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", Refused(400)),
    ("bare LF at the end", "GET / HTTP/1.1\r\nHost: a\r\n\n", Refused(400)),
    ("bare CR in a value", get!("X: b\rTransfer-Encoding: chunked\r\n"), Refused(400)),
    ("bare CR in a name", get!("X\rY: b\r\n"), Refused(400)),
    ("CR CR LF", "GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", Refused(400)),
    ("bare CR before the request", "\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("NUL in a value", get!("X: a\0b\r\n"), Refused(400)),
    ("NUL in a name", get!("X\0: b\r\n"), Refused(400)),
    ("NUL in the target", "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("NUL in the method", "G\0T / HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("control character in a value", get!("X: a\x01b\r\n"), Refused(400)),
    ("DEL in a value", get!("X: a\x7fb\r\n"), Refused(400)),
    ("a folded field", get!("X: b\r\n c\r\n"), Refused(400)),
    ("a field folded by a tab", get!("X: b\r\n\tc\r\n"), Refused(400)),
    ("a folded length", then_smuggled!(post!("Content-Length:\r\n 3\r\n", "abc")), Refused(400)),
    (
        "a folded coding",
        then_smuggled!(post!("Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n")),
        Refused(400),
    ),
    ("a fold before the first field", "GET / HTTP/1.1\r\n X: y\r\nHost: a\r\n\r\n", Refused(400)),
    ("blank before a colon", then_smuggled!(post!("Content-Length : 3\r\n", "abc")), Refused(400)),
    (
        "tab before a colon",
        then_smuggled!(post!("Transfer-Encoding\t: chunked\r\n", "0\r\n\r\n")),
        Refused(400),
    ),
    ("blank in a name", get!("X Y: b\r\n"), Refused(400)),
    ("no colon", get!("abc\r\n"), Refused(400)),
    ("no name", get!(": b\r\n"), Refused(400)),
    ("bracket in a name", get!("X[]: b\r\n"), Refused(400)),
    ("quote in a name", get!("\"X\": b\r\n"), Refused(400)),
    ("a letter beyond ASCII in a name", get!("Ẍ: b\r\n"), Refused(400)),
    // Hosts.
    ("no Host", "GET / HTTP/1.1\r\n\r\n", Refused(400)),
    ("two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Refused(400)),
    ("the same Host twice", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Refused(400)),
    ("blank in Host", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", Refused(400)),
    ("slash in Host", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Refused(400)),
    ("question mark in Host", "GET / HTTP/1.1\r\nHost: a?b\r\n\r\n", Refused(400)),
    ("hash in Host", "GET / HTTP/1.1\r\nHost: a#b\r\n\r\n", Refused(400)),
    ("user in Host", "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", Refused(400)),
    ("comma in Host", "GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", Refused(400)),
    ("only a port", "GET / HTTP/1.1\r\nHost: :80\r\n\r\n", Refused(400)),
    ("backslash in Host", "GET / HTTP/1.1\r\nHost: a\\b\r\n\r\n", Refused(400)),
    ("user in an absolute target", "GET http://u@b/ HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("no host in an absolute target", "GET http:/// HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    (
        "an absolute target and two Hosts",
        "GET http://b/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        Refused(400),
    ),
    // The request line.
    ("two blanks after the method", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("two blanks after the target", "GET /  HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("tab after the method", "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("tab after the target", "GET /\tHTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("blank in the target", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("blank before the method", " GET / HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("blank after the version", "GET / HTTP/1.1 \r\nHost: a\r\n\r\n", Refused(400)),
    ("letters beyond ASCII in the target", "GET /ä HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("relative target", "GET a HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("asterisk with GET", "GET * HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("fragment in the target", "GET /#b HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("other scheme", "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("unknown method", "FOO / HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("method in lower case", "get / HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("odd character in the method", "G@T / HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("version 1.2", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", Refused(426)),
    ("version 2.0", "GET / HTTP/2.0\r\nHost: a\r\n\r\n", Refused(426)),
    ("version 1.10", "GET / HTTP/1.10\r\nHost: a\r\n\r\n", Refused(400)),
    ("version in lower case", "GET / http/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("no version", "GET /\r\n\r\n", Refused(426)),
    ("no HTTP", "hello\r\n\r\n", Refused(400)),
    // Upgrades.
    (
        "an upgrade with a length",
        then_smuggled!(post!("Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n", "abc")),
        Refused(400),
    ),
    (
        "an upgrade with chunks",
        then_smuggled!(post!(
            "Connection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n",
            "0\r\n\r\n"
        )),
        Refused(400),
    ),
    (
        "the length is named as a hop's own",
        then_smuggled!(post!("Connection: Content-Length\r\nContent-Length: 3\r\n", "abc")),
        Forwarded("abc"),
    ),
    (
        "the host is named as a hop's own",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Host\r\n\r\n",
        Forwarded(""),
    ),
];
