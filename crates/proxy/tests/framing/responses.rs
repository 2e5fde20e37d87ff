//! Answers of upstreams that could be understood in two ways, or in none.

/// What a client is to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// This status of our own.
    Refused(u16),
    /// The head goes through; the body does not look complete.
    Cut,
    /// Everything goes through: this status and body.
    Passed(u16, &'static str),
}

pub use Expect::{Cut, Passed, Refused};

/// Name, bytes, whether the upstream closes after them, outcome.
pub type Row = (&'static str, &'static str, bool, Expect);

macro_rules! answer {
    ($fields:expr, $body:expr) => {
        concat!("HTTP/1.1 200 OK\r\n", $fields, "\r\n", $body)
    };
}

macro_rules! chunked {
    ($body:expr) => {
        answer!("Transfer-Encoding: chunked\r\n", $body)
    };
}

pub const ROWS: &[Row] = &[
    ("control: length", answer!("Content-Length: 3\r\n", "abc"), false, Passed(200, "abc")),
    ("control: chunks", chunked!("3\r\nabc\r\n0\r\n\r\n"), false, Passed(200, "abc")),
    ("control: until the end", answer!("", "abc"), true, Passed(200, "abc")),
    ("control: no content", "HTTP/1.1 204 No Content\r\n\r\n", false, Passed(204, "")),
    (
        "control: interim answer",
        concat!("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", answer!("Content-Length: 1\r\n", "a")),
        false,
        Passed(200, "a"),
    ),
    (
        "length and chunked",
        answer!("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        false,
        Refused(502),
    ),
    ("two lengths", answer!("Content-Length: 3\r\nContent-Length: 0\r\n", "abc"), false, Refused(502)),
    (
        "the same length twice",
        answer!("Content-Length: 3\r\nContent-Length: 3\r\n", "abc"),
        false,
        Refused(502),
    ),
    ("a list of lengths", answer!("Content-Length: 3,3\r\n", "abc"), false, Refused(502)),
    ("plus", answer!("Content-Length: +3\r\n", "abc"), false, Refused(502)),
    ("minus", answer!("Content-Length: -1\r\n", "abc"), false, Refused(502)),
    ("hexadecimal", answer!("Content-Length: 0x3\r\n", "abc"), false, Refused(502)),
    ("empty length", answer!("Content-Length:\r\n", "abc"), false, Refused(502)),
    ("65 bits", answer!("Content-Length: 18446744073709551619\r\n", "abc"), false, Refused(502)),
    ("unknown coding", answer!("Transfer-Encoding: gzip\r\n", "abc"), false, Refused(502)),
    (
        "a coding before chunked",
        answer!("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"),
        false,
        Refused(502),
    ),
    (
        "chunked twice",
        answer!("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        false,
        Refused(502),
    ),
    (
        "chunked in HTTP/1.0",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        true,
        Refused(502),
    ),
    ("bare LF", "HTTP/1.1 200 OK\nContent-Length: 3\n\nabc", false, Refused(502)),
    ("bare LF after a field", "HTTP/1.1 200 OK\r\nContent-Length: 3\n\r\nabc", false, Refused(502)),
    ("bare CR in a value", answer!("X: a\rContent-Length: 3\r\n", "abc"), false, Refused(502)),
    ("NUL in a value", answer!("X: a\0\r\nContent-Length: 3\r\n", "abc"), false, Refused(502)),
    ("a folded field", answer!("X: a\r\n b\r\nContent-Length: 3\r\n", "abc"), false, Refused(502)),
    ("a folded length", answer!("Content-Length:\r\n 3\r\n", "abc"), false, Refused(502)),
    ("blank before a colon", answer!("Content-Length : 3\r\n", "abc"), false, Refused(502)),
    ("no colon", answer!("abc\r\n", ""), false, Refused(502)),
    ("no HTTP", "hello\r\n\r\n", false, Refused(502)),
    ("other version", "HTTP/2.0 200 OK\r\n\r\n", false, Refused(502)),
    ("no status", "HTTP/1.1 OK\r\n\r\n", false, Refused(502)),
    ("a status of two digits", "HTTP/1.1 20 OK\r\n\r\n", false, Refused(502)),
    ("a status of four digits", "HTTP/1.1 2000 OK\r\n\r\n", false, Refused(502)),
    (
        "a change of protocol that nobody asked for",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nabc",
        false,
        Refused(502),
    ),
    ("shorter than its length", answer!("Content-Length: 5\r\n", "abc"), true, Cut),
    ("no last chunk", chunked!("3\r\nabc\r\n"), true, Cut),
    ("bare LF after a size", chunked!("3\nabc\r\n0\r\n\r\n"), false, Cut),
    ("sign of a size", chunked!("+3\r\nabc\r\n0\r\n\r\n"), false, Cut),
    ("a chunk longer than its size", chunked!("3\r\nabcd\r\n0\r\n\r\n"), false, Cut),
    ("a size of 68 bits", chunked!("10000000000000003\r\nabc\r\n0\r\n\r\n"), false, Cut),
    // What follows an answer is no answer to anything.
    ("longer than its length", answer!("Content-Length: 3\r\n", "abcdef"), false, Passed(200, "abc")),
    (
        "a second answer",
        concat!(answer!("Content-Length: 1\r\n", "a"), answer!("Content-Length: 8\r\n", "smuggled")),
        false,
        Passed(200, "a"),
    ),
    ("a body after 204", "HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nabc", false, Passed(204, "")),
    ("a body after 304", "HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\nabc", false, Passed(304, "")),
];
