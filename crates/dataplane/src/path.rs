//! Paths of requests in one spelling, so that what matches them sees what an application will (RFC 3986, 6.2.2; the
//! order of the steps is that of Envoy's connection manager).

use std::borrow::Cow;

use crate::head::split_query;
use crate::listener::EscapedSlashes;

/// What is done to paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PathOptions {
    /// `normalize_path`: dots and backslashes are resolved, escapes of characters that need none undone.
    pub normalize: bool,
    /// `merge_slashes`: `//` becomes `/`.
    pub merge_slashes: bool,
    /// `path_with_escaped_slashes_action`.
    pub escaped_slashes: EscapedSlashes,
}

/// What became of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathOutcome {
    /// It stays as it is.
    Unchanged,
    /// It is this one.
    Changed(Vec<u8>),
    /// The client is sent to this one.
    Redirect(Vec<u8>),
    /// 400, and what is logged is this one.
    RejectAs(Vec<u8>),
    /// 400.
    Reject,
}

/// Normalises a path with its query, which stays as it is.
pub fn normalize(options: PathOptions, whole: &[u8]) -> PathOutcome {
    // A fragment is the client's own affair; servers disagree about what they make of one.
    if whole.contains(&b'#') {
        return PathOutcome::Reject;
    }
    let (original, query) = split_query(whole);
    let mut path = Cow::Borrowed(original);
    let mut redirect = false;
    if options.escaped_slashes != EscapedSlashes::Keep && has_escaped_slash(&path) {
        match options.escaped_slashes {
            EscapedSlashes::Reject => {
                return PathOutcome::RejectAs(with_query(unescape_slashes(&path), query));
            }
            EscapedSlashes::Redirect => redirect = true,
            EscapedSlashes::Forward | EscapedSlashes::Keep => {}
        }
        path = Cow::Owned(unescape_slashes(&path));
    }
    if options.normalize && !is_canonical(&path) {
        match canonical(&path) {
            Some(canonical) => path = Cow::Owned(canonical),
            None => return PathOutcome::Reject,
        }
    }
    if options.merge_slashes && path.windows(2).any(|pair| pair == b"//") {
        let mut merged = path.into_owned();
        merged.dedup_by(|next, previous| *next == b'/' && *previous == b'/');
        path = Cow::Owned(merged);
    }
    if !redirect && *path == *original {
        return PathOutcome::Unchanged;
    }
    let path = with_query(path.into_owned(), query);
    if redirect { PathOutcome::Redirect(path) } else { PathOutcome::Changed(path) }
}

fn with_query(mut path: Vec<u8>, query: Option<&[u8]>) -> Vec<u8> {
    if let Some(query) = query {
        path.push(b'?');
        path.extend_from_slice(query);
    }
    path
}

fn has_escaped_slash(path: &[u8]) -> bool {
    path.windows(3).any(|part| part.eq_ignore_ascii_case(b"%2f") || part.eq_ignore_ascii_case(b"%5c"))
}

fn unescape_slashes(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut at = 0;
    while at < path.len() {
        match path.get(at..at + 3) {
            Some(part) if part.eq_ignore_ascii_case(b"%2f") => {
                out.push(b'/');
                at += 3;
            }
            Some(part) if part.eq_ignore_ascii_case(b"%5c") => {
                out.push(b'\\');
                at += 3;
            }
            _ => {
                out.push(path[at]);
                at += 1;
            }
        }
    }
    out
}

/// Characters that are written as escapes in a path.
fn is_escaped(byte: u8) -> bool {
    byte <= b' ' || byte >= 127 || matches!(byte, b'"' | b'<' | b'>' | b'`' | b'{' | b'|' | b'}' | b'^')
}

/// Whether there is nothing to do: no escape, backslash, dot segment or character to escape.
fn is_canonical(path: &[u8]) -> bool {
    !path.iter().any(|byte| matches!(byte, b'%' | b'\\') || is_escaped(*byte))
        && !path.windows(2).any(|pair| pair == b"/.")
}

/// The canonical form; none where the path holds a NUL.
fn canonical(path: &[u8]) -> Option<Vec<u8>> {
    let decoded = unescape_unreserved(path)?;
    let mut out: Vec<u8> = Vec::with_capacity(decoded.len());
    let mut parts = decoded.split(|byte| matches!(byte, b'/' | b'\\')).skip(1).peekable();
    // Above the root is the root.
    let mut starts: Vec<usize> = Vec::new();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        match part {
            b"." | b".." => {
                if part == b".."
                    && let Some(start) = starts.pop()
                {
                    out.truncate(start);
                }
                if last {
                    out.push(b'/');
                }
            }
            other => {
                starts.push(out.len());
                out.push(b'/');
                for byte in other {
                    if is_escaped(*byte) {
                        out.extend_from_slice(format!("%{byte:02X}").as_bytes());
                    } else {
                        out.push(*byte);
                    }
                }
            }
        }
    }
    Some(out)
}

/// Decodes escapes of characters that need none; none for an escaped NUL.
fn unescape_unreserved(path: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(path.len());
    let mut at = 0;
    while at < path.len() {
        let escaped = path
            .get(at + 1..at + 3)
            .filter(|digits| path[at] == b'%' && digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match escaped {
            Some(0) => return None,
            Some(byte) if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') => {
                out.push(byte);
                at += 3;
            }
            _ => {
                out.push(path[at]);
                at += 1;
            }
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(normalize: bool, merge_slashes: bool, escaped_slashes: EscapedSlashes) -> PathOptions {
        PathOptions { normalize, merge_slashes, escaped_slashes }
    }

    /// Every row was compared with Envoy.
    #[test]
    fn paths() {
        use EscapedSlashes::{Forward, Keep, Redirect, Reject};
        let changed = |path: &str| PathOutcome::Changed(path.into());
        let redirect = |path: &str| PathOutcome::Redirect(path.into());
        let rejected = |path: &str| PathOutcome::RejectAs(path.as_bytes().to_vec());
        let normalize_only = options(true, false, Keep);
        let merge = options(false, true, Keep);
        for (name, options, path, expect) in [
            ("plain", normalize_only, "/a/b", PathOutcome::Unchanged),
            ("one dot", normalize_only, "/a/./b", changed("/a/b")),
            ("two dots", normalize_only, "/a/../b", changed("/b")),
            ("above the root", normalize_only, "/..", changed("/")),
            ("above the root, and on", normalize_only, "/../a", changed("/a")),
            ("dots at the end", normalize_only, "/a/..", changed("/")),
            ("a dot at the end", normalize_only, "/a/.", changed("/a/")),
            ("escaped dots", normalize_only, "/a/%2e%2e/b", changed("/b")),
            ("an escaped dot", normalize_only, "/%2E/a", changed("/a")),
            ("backslash", normalize_only, "/a\\b", changed("/a/b")),
            ("two slashes stay", normalize_only, "//a", PathOutcome::Unchanged),
            ("dots after an empty segment", normalize_only, "/a//..//b", changed("/a//b")),
            ("parameters", normalize_only, "/a;x/../b", changed("/b")),
            ("unreserved", normalize_only, "/%41%7e%2f", changed("/A~%2f")),
            ("no escape", normalize_only, "/%zz", PathOutcome::Unchanged),
            ("NUL", normalize_only, "/a%00b", PathOutcome::Reject),
            ("query", normalize_only, "/a?b=/../c", PathOutcome::Unchanged),
            ("an escaped backslash", normalize_only, "/a%5cb", PathOutcome::Unchanged),
            ("fragment", PathOptions::default(), "/a#b", PathOutcome::Reject),
            ("off", PathOptions::default(), "/a/../b", PathOutcome::Unchanged),
            ("slashes", merge, "//a///b//", changed("/a/b/")),
            ("slashes in the query", merge, "/a?b=//", PathOutcome::Unchanged),
            ("slashes but no dots", merge, "/a//../b", changed("/a/../b")),
            ("both", options(true, true, Keep), "//a//..//b", changed("/a/b")),
            ("rejected", options(false, false, Reject), "/a%2fb?c", rejected("/a/b?c")),
            ("rejected, backslash", options(false, false, Reject), "/a%5Cb", rejected("/a\\b")),
            ("not in the query", options(false, false, Reject), "/a?%2f", PathOutcome::Unchanged),
            ("redirected", options(true, true, Redirect), "/a%2Fb?c", redirect("/a/b?c")),
            ("redirected, all", options(true, true, Redirect), "/a%2f%2f..%5cb", redirect("/a/b")),
            ("nothing escaped", options(true, true, Redirect), "/a//b", changed("/a/b")),
            ("forwarded", options(true, false, Forward), "/a%2Fb?c", changed("/a/b?c")),
            ("forwarded, dots", options(true, false, Forward), "/a%2f..%5cb", changed("/b")),
        ] {
            assert_eq!(normalize(options, path.as_bytes()), expect, "{name}: {path}");
        }
    }
}
