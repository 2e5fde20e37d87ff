//! Heads of HTTP messages as the matchers, the filters and the codecs see them.
//!
//! A head keeps all its bytes in one arena and only offsets beside it, so that reading a message costs one copy and
//! one that is used again costs no allocation. Names are kept in lower case, whatever the peer sent.

use std::fmt;

/// Offsets of a name or value in the arena.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Span {
    start: u32,
    length: u32,
}

impl Span {
    fn of(self, arena: &[u8]) -> &[u8] {
        &arena[self.start as usize..(self.start + self.length) as usize]
    }
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    name: Span,
    value: Span,
}

/// Header fields in the order in which they came.
#[derive(Clone, Default)]
pub struct Headers {
    arena: Vec<u8>,
    entries: Vec<Entry>,
    /// Names that were not in lower case, as the peer wrote them; only where they are to be written so again.
    spelled: Vec<Box<[u8]>>,
}

impl Headers {
    /// No fields.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets all fields, keeps the memory.
    pub fn clear(&mut self) {
        self.arena.clear();
        self.entries.clear();
        self.spelled.clear();
    }

    /// Remembers how a name was written, for [`as_sent`](Self::as_sent).
    pub fn remember_case(&mut self, name: impl AsRef<[u8]>) {
        let name = name.as_ref();
        if name.iter().any(u8::is_ascii_uppercase) {
            self.spelled.push(name.into());
        }
    }

    /// How the peer wrote a name, where that was remembered and is not lower case.
    pub fn as_sent(&self, name: &[u8]) -> Option<&[u8]> {
        self.spelled.iter().find(|sent| sent.eq_ignore_ascii_case(name)).map(|sent| &**sent)
    }

    /// Makes place for so many more bytes and fields, so that adding them allocates once.
    pub fn reserve(&mut self, bytes: usize, fields: usize) {
        self.arena.reserve(bytes);
        self.entries.reserve(fields);
    }

    /// About how many bytes the fields take when they are written: never fewer than they do.
    pub fn written_size(&self) -> usize {
        self.arena.len() + 4 * self.entries.len()
    }

    /// The number of fields.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no field.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The bytes of all names and values.
    pub fn byte_size(&self) -> usize {
        self.entries.iter().map(|entry| (entry.name.length + entry.value.length) as usize).sum()
    }

    fn store(&mut self, bytes: &[u8]) -> Span {
        let start = self.arena.len() as u32;
        self.arena.extend_from_slice(bytes);
        Span { start, length: bytes.len() as u32 }
    }

    /// Adds a field; the name is lowered.
    pub fn append(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        let name = self.store(name.as_ref());
        self.arena[name.start as usize..].make_ascii_lowercase();
        let value = self.store(value.as_ref());
        self.entries.push(Entry { name, value });
    }

    /// Replaces all fields of that name by one.
    pub fn set(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        let name = name.as_ref();
        let mut place = None;
        let mut index = 0;
        while index < self.entries.len() {
            if self.entries[index].name.of(&self.arena) == name {
                if place.is_none() {
                    place = Some(index);
                } else {
                    self.entries.remove(index);
                    continue;
                }
            }
            index += 1;
        }
        match place {
            Some(index) => {
                let value = self.store(value.as_ref());
                self.entries[index].value = value;
            }
            None => self.append(name, value),
        }
    }

    /// The first value of a name (in lower case).
    pub fn get(&self, name: impl AsRef<[u8]>) -> Option<&[u8]> {
        let name = name.as_ref();
        self.entries
            .iter()
            .find(|entry| entry.name.length as usize == name.len() && entry.name.of(&self.arena) == name)
            .map(|entry| entry.value.of(&self.arena))
    }

    /// The first value of a name, where it is UTF-8.
    pub fn get_str(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// All values of a name.
    pub fn get_all<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> + 'a {
        self.iter().filter(move |(candidate, _)| *candidate == name).map(|(_, value)| value)
    }

    /// Whether there is a field of that name.
    pub fn contains(&self, name: impl AsRef<[u8]>) -> bool {
        self.get(name).is_some()
    }

    /// Removes all fields of a name, and says whether there were any.
    pub fn remove(&mut self, name: impl AsRef<[u8]>) -> bool {
        let name = name.as_ref();
        self.retain(|candidate, _| candidate != name)
    }

    /// Keeps the fields for which `keep` holds; says whether any was removed.
    pub fn retain(&mut self, mut keep: impl FnMut(&[u8], &[u8]) -> bool) -> bool {
        let before = self.entries.len();
        let arena = &self.arena;
        self.entries.retain(|entry| keep(entry.name.of(arena), entry.value.of(arena)));
        self.entries.len() != before
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.entries.iter().map(|entry| (entry.name.of(&self.arena), entry.value.of(&self.arena)))
    }

    /// Whether a comma-separated list header holds `token` (case does not count), as `connection: close`.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.get_all(name.as_bytes())
            .flat_map(|value| value.split(|byte| *byte == b','))
            .any(|candidate| candidate.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_map()
            .entries(
                self.iter()
                    .map(|(name, value)| (String::from_utf8_lossy(name), String::from_utf8_lossy(value))),
            )
            .finish()
    }
}

impl PartialEq for Headers {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(fields: I) -> Self {
        let mut headers = Self::new();
        for (name, value) in fields {
            headers.append(name, value);
        }
        headers
    }
}

/// The scheme of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scheme {
    /// Plain text.
    #[default]
    Http,
    /// TLS.
    Https,
}

impl Scheme {
    /// As in `:scheme`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// The head of a request.
#[derive(Clone, Default, PartialEq)]
pub struct RequestHead {
    method: Span,
    path: Span,
    /// None where the request came without; an empty one was sent so.
    authority: Option<Span>,
    /// `:scheme`.
    pub scheme: Scheme,
    /// The fields without `host`.
    pub headers: Headers,
}

impl RequestHead {
    /// A head without fields.
    pub fn new(method: impl AsRef<[u8]>, authority: impl AsRef<[u8]>, path: impl AsRef<[u8]>) -> Self {
        let mut head = Self::default();
        head.set_method(method);
        head.set_authority(authority);
        head.set_path(path);
        head
    }

    /// Forgets everything, keeps the memory.
    pub fn clear(&mut self) {
        self.headers.clear();
        self.method = Span::default();
        self.path = Span::default();
        self.authority = None;
        self.scheme = Scheme::Http;
    }

    /// `:method`.
    pub fn method(&self) -> &[u8] {
        self.method.of(&self.headers.arena)
    }

    /// Replaces the method.
    pub fn set_method(&mut self, method: impl AsRef<[u8]>) {
        self.method = self.headers.store(method.as_ref());
    }

    /// `:path`: path and query.
    pub fn path(&self) -> &[u8] {
        self.path.of(&self.headers.arena)
    }

    /// Replaces path and query.
    pub fn set_path(&mut self, path: impl AsRef<[u8]>) {
        self.path = self.headers.store(path.as_ref());
    }

    /// The path without query.
    pub fn path_only(&self) -> &[u8] {
        split_query(self.path()).0
    }

    /// `:authority`, or `host`.
    pub fn authority(&self) -> &[u8] {
        self.authority.map_or(&[], |authority| authority.of(&self.headers.arena))
    }

    /// Replaces the authority.
    pub fn set_authority(&mut self, authority: impl AsRef<[u8]>) {
        self.authority = Some(self.headers.store(authority.as_ref()));
    }

    /// The value of a field or of a pseudo header, whose names begin with a colon; `host` is the authority. None where
    /// there is none, as of a path with CONNECT, or of anything where a request was refused before it was understood.
    pub fn field(&self, name: &[u8]) -> Option<&[u8]> {
        match name {
            b":path" => not_empty(self.path()),
            b":method" => not_empty(self.method()),
            b":authority" | b"host" => self.authority.map(|authority| authority.of(&self.headers.arena)),
            b":scheme" => Some(self.scheme.as_str().as_bytes()),
            _ => self.headers.get(name),
        }
    }

    /// Whether this is gRPC: `content-type` is `application/grpc` or begins with `application/grpc+`.
    pub fn is_grpc(&self) -> bool {
        self.headers.get("content-type").is_some_and(|value| {
            value.strip_prefix(b"application/grpc").is_some_and(|rest| rest.is_empty() || rest[0] == b'+')
        })
    }
}

fn not_empty(text: &[u8]) -> Option<&[u8]> {
    (!text.is_empty()).then_some(text)
}

impl fmt::Debug for RequestHead {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} {}://{}{} {:?}",
            String::from_utf8_lossy(self.method()),
            self.scheme.as_str(),
            String::from_utf8_lossy(self.authority()),
            String::from_utf8_lossy(self.path()),
            self.headers
        )
    }
}

/// The head of a response.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ResponseHead {
    /// 100 to 999.
    pub status: u16,
    /// The fields.
    pub headers: Headers,
}

impl ResponseHead {
    /// A head without fields.
    pub fn new(status: u16) -> Self {
        Self { status, headers: Headers::new() }
    }
}

/// Splits path and query; the query is without its question mark.
pub fn split_query(path: &[u8]) -> (&[u8], Option<&[u8]>) {
    match path.iter().position(|byte| *byte == b'?') {
        Some(at) => (&path[..at], Some(&path[at + 1..])),
        None => (path, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_their_order_and_lose_their_case() {
        let mut headers: Headers = [("A", "1"), ("b", "2"), ("a", "3")].into_iter().collect();
        assert_eq!(headers.get("a"), Some(&b"1"[..]));
        assert_eq!(headers.get_all(b"a").collect::<Vec<_>>(), [b"1", b"3"]);
        headers.set("a", "9");
        assert_eq!(headers, [("a", "9"), ("b", "2")].into_iter().collect());
        assert!(headers.remove("a") && !headers.remove("a"));
        assert_eq!(headers.len(), 1);
    }

    #[test]
    fn pseudo_headers_are_fields() {
        let mut head = RequestHead::new("GET", "reviews:9080", "/a?b=c");
        head.headers.append("content-type", "application/grpc+proto");
        assert_eq!(head.field(b":path"), Some(&b"/a?b=c"[..]));
        assert_eq!(head.field(b"host"), Some(&b"reviews:9080"[..]));
        assert_eq!(head.path_only(), b"/a");
        assert!(head.is_grpc());
        head.set_path("/x");
        assert_eq!(head.path(), b"/x");
        head.clear();
        assert_eq!((head.field(b":path"), head.field(b":method"), head.field(b"host")), (None, None, None));
        head.set_authority("");
        assert_eq!(head.field(b":authority"), Some(&b""[..]));
    }
}
