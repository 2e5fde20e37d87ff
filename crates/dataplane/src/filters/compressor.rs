//! `envoy.extensions.filters.http.compressor.v3.Compressor`: when a body is compressed, and what for.

use smallvec::SmallVec;

use crate::head::{Headers, RequestHead, ResponseHead};
use crate::matcher::StringMatcher;

/// Bodies are compressed from so many bytes on, unless the configuration says otherwise.
pub const MIN_CONTENT_LENGTH: u64 = 30;

/// Types whose bodies are compressed, unless the configuration names others.
pub const CONTENT_TYPES: [&str; 8] = [
    "application/javascript",
    "application/json",
    "application/xhtml+xml",
    "image/svg+xml",
    "text/css",
    "text/html",
    "text/plain",
    "text/xml",
];

/// A compressor of a chain.
#[derive(Debug, Clone)]
pub struct Compressor {
    /// How it compresses.
    pub library: Library,
    /// `compressor.NAME.LIBRARY.`: what its statistics are called below the connection manager's prefix.
    pub stat_prefix: Box<str>,
    /// Whether statistics of responses are below `response.`.
    pub response_statistics_apart: bool,
    /// For requests: off where absent.
    pub request: Option<Direction>,
    /// For responses.
    pub response: Direction,
    /// `disable_on_etag_header`.
    pub disable_on_etag: bool,
    /// `weaken_etag_on_compress`.
    pub weaken_etag: bool,
    /// `remove_accept_encoding_header`.
    pub remove_accept_encoding: bool,
    /// `uncompressible_response_codes`, sorted.
    pub uncompressible_codes: Box<[u16]>,
    /// `choose_first`.
    pub choose_first: bool,
}

/// What a route says of a compressor.
#[derive(Debug, Clone, Default)]
pub struct CompressorOverride {
    /// Nothing is compressed.
    pub disabled: bool,
    /// `response_direction_config`: responses are compressed even where the chain has that off.
    pub respond: bool,
    /// `remove_accept_encoding_header`.
    pub remove_accept_encoding: Option<bool>,
    /// Another library.
    pub library: Option<Library>,
}

/// `CommonDirectionConfig`.
#[derive(Debug, Clone)]
pub struct Direction {
    /// Whether it is on.
    pub enabled: bool,
    /// Bytes.
    pub min_content_length: u64,
    /// Types of content; empty: any.
    pub content_types: Box<[StringMatcher]>,
}

/// How to compress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Library {
    /// RFC 1952.
    Gzip {
        /// 1 (fast) to 9 (small).
        level: u32,
        /// 9 to 15: the logarithm of the window's bytes.
        window_bits: u8,
    },
    /// RFC 7932.
    Brotli {
        /// 0 (fast) to 11 (small).
        quality: u32,
        /// 10 to 24: the logarithm of the window's bytes.
        window_bits: u8,
        /// 16 to 24: the logarithm of a block's bytes.
        block_bits: u8,
        /// What the content is taken for.
        mode: BrotliMode,
        /// `disable_literal_context_modeling`.
        plain_literals: bool,
    },
    /// RFC 8878.
    Zstd {
        /// The library's level; 0 is its default.
        level: i32,
        /// Whether frames end with a checksum.
        checksum: bool,
        /// 1 (fast) to 9 (small); 0: by level.
        strategy: u32,
    },
}

/// `Brotli.EncoderMode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrotliMode {
    /// No assumption.
    Generic,
    /// UTF-8 text.
    Text,
    /// WOFF 2.0.
    Font,
}

impl Library {
    /// The coding's name in `content-encoding` (RFC 9110 section 8.4.1).
    pub fn content_encoding(&self) -> &'static str {
        match self {
            Self::Gzip { .. } => "gzip",
            Self::Brotli { .. } => "br",
            Self::Zstd { .. } => "zstd",
        }
    }
}

/// Why a response goes out in which coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// A compressor of the chain was named by the client: its coding.
    Named(&'static str),
    /// The client takes anything: the coding of the first compressor.
    Wildcard(&'static str),
    /// The client prefers what is not compressed.
    Identity,
    /// Nothing that the client named is here.
    Invalid,
}

impl Accepted {
    /// The coding, if one was chosen.
    pub fn encoding(self) -> Option<&'static str> {
        match self {
            Self::Named(encoding) | Self::Wildcard(encoding) => Some(encoding),
            Self::Identity | Self::Invalid => None,
        }
    }

    /// Chooses among the compressors of a chain, in their order, by the client's `accept-encoding` (RFC 9110 section
    /// 12.5.3). Of several with the same quality one that is to be chosen first has precedence, the last of them; else
    /// what the client named first.
    pub fn choose<'a>(
        accept_encoding: &[u8],
        content_type: Option<&[u8]>,
        compressors: impl Iterator<Item = &'a Compressor>,
    ) -> Self {
        let offers: SmallVec<[(&'static str, bool); 4]> = compressors
            .filter(|one| one.response.takes_type(content_type))
            .map(|one| (one.library.content_encoding(), one.choose_first))
            .collect();
        let mut best: Option<((f32, usize), Self)> = None;
        for (name, quality) in accept_encoding.split(|byte| *byte == b',').filter_map(element) {
            let offer = offers.iter().position(|(offer, _)| name == offer.as_bytes());
            let (precedence, choice) = match (offer, name) {
                (Some(at), _) => (if offers[at].1 { at + 1 } else { 0 }, Self::Named(offers[at].0)),
                (None, b"*") if !offers.is_empty() => (0, Self::Wildcard(offers[0].0)),
                (None, b"identity") => (0, Self::Identity),
                _ => continue,
            };
            let rank = (quality, precedence);
            if quality > 0.0 && best.is_none_or(|(other, _)| rank > other) {
                best = Some((rank, choice));
            }
        }
        best.map_or(Self::Invalid, |(_, choice)| choice)
    }
}

/// A coding and its quality; none where the quality is no number.
fn element(text: &[u8]) -> Option<(&[u8], f32)> {
    let mut parts = text.split(|byte| *byte == b';');
    let name = parts.next()?.trim_ascii();
    let mut quality = 1.0;
    if let Some(parameter) = parts.next() {
        let mut halves = parameter.splitn(2, |byte| *byte == b'=');
        let key = halves.next()?.trim_ascii();
        if let Some(value) = halves.next()
            && key.eq_ignore_ascii_case(b"q")
        {
            quality = std::str::from_utf8(value.trim_ascii()).ok()?.parse().ok()?;
        }
    }
    Some((name, quality))
}

impl Direction {
    fn takes_type(&self, content_type: Option<&[u8]>) -> bool {
        let Some(value) = content_type.filter(|_| !self.content_types.is_empty()) else { return true };
        let essence = value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        self.content_types.iter().any(|matcher| matcher.matches(essence))
    }

    /// Whether the body is known to be long enough, or of unknown length.
    pub fn takes_length(&self, headers: &Headers) -> bool {
        match headers.get("content-length") {
            Some(text) => std::str::from_utf8(text)
                .ok()
                .and_then(|text| text.parse::<u64>().ok())
                .is_some_and(|length| length >= self.min_content_length),
            None => true,
        }
    }
}

impl Compressor {
    /// Whether the request's body is to be compressed; its length has been looked at.
    pub fn takes_request(&self, direction: &Direction, head: &RequestHead) -> bool {
        direction.takes_type(head.headers.get("content-type"))
            && !head.headers.contains("content-encoding")
            && transfer_coding_allows(&head.headers)
    }

    /// Whether the response could be compressed, for whoever accepts that; its length has been looked at.
    pub fn could_take_response(&self, head: &ResponseHead) -> bool {
        let etag_allows = self.weaken_etag || !self.disable_on_etag || !head.headers.contains("etag");
        self.response.takes_type(head.headers.get("content-type"))
            && !head.headers.has_token("cache-control", "no-transform")
            && etag_allows
            && !head.headers.contains("content-encoding")
            && self.uncompressible_codes.binary_search(&head.status).is_err()
            && !head.headers.has_token("connection", "upgrade")
    }

    /// Changes the head of a response whose body is about to be compressed by `library`.
    pub fn announce(&self, library: &Library, headers: &mut Headers) {
        if let Some(etag) = headers.get("etag").filter(|etag| !etag.starts_with(b"W/")) {
            if self.weaken_etag {
                let weak = [b"W/", etag].concat();
                headers.set("etag", weak);
            } else {
                headers.remove("etag");
            }
        }
        headers.remove("content-length");
        headers.set("content-encoding", library.content_encoding());
    }
}

/// Whether no transfer coding compresses already.
pub fn transfer_coding_allows(headers: &Headers) -> bool {
    !["gzip", "deflate", "br", "zstd"].iter().any(|coding| headers.has_token("transfer-encoding", coding))
}

/// Tells caches that the response depends on `accept-encoding` (RFC 9110 section 12.5.5).
pub fn vary(headers: &mut Headers) {
    match headers.get("vary") {
        None => headers.append("vary", "Accept-Encoding"),
        Some(value) => {
            // Envoy looks for its own spelling alone.
            if !value.split(|byte| *byte == b',').any(|token| token.trim_ascii() == b"Accept-Encoding") {
                let value = [value, b", Accept-Encoding"].concat();
                headers.set("vary", value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matcher::StringPattern;

    fn compressor(library: Library, choose_first: bool, types: &[&str]) -> Compressor {
        let content_types = types.iter().map(|name| StringMatcher {
            pattern: StringPattern::Exact(name.as_bytes().into()),
            ignore_case: true,
        });
        Compressor {
            library,
            stat_prefix: "".into(),
            response_statistics_apart: true,
            request: None,
            response: Direction {
                enabled: true,
                min_content_length: MIN_CONTENT_LENGTH,
                content_types: content_types.collect(),
            },
            disable_on_etag: false,
            weaken_etag: false,
            remove_accept_encoding: false,
            uncompressible_codes: [206].into(),
            choose_first,
        }
    }

    const GZIP: Library = Library::Gzip { level: 6, window_bits: 12 };
    const ZSTD: Library = Library::Zstd { level: 3, checksum: false, strategy: 0 };

    #[test]
    fn the_client_has_a_say_by_its_qualities() {
        let both =
            [compressor(GZIP, false, &["text/plain"]), compressor(ZSTD, false, &["text/plain", "x/y"])];
        let later_first = [compressor(GZIP, false, &[]), compressor(ZSTD, true, &[])];
        type Row<'a> = (&'a str, &'a str, Option<&'a str>, &'a [Compressor], Accepted);
        let rows: [Row<'_>; 16] = [
            ("named", "gzip", None, &both, Accepted::Named("gzip")),
            ("the first that is named", "zstd, gzip", None, &both, Accepted::Named("zstd")),
            ("unless one is to be first", "gzip, zstd", None, &later_first, Accepted::Named("zstd")),
            ("quality", "gzip;q=0.5, zstd;q=0.6", None, &both, Accepted::Named("zstd")),
            ("quality before the order", "gzip;q=0.5, zstd", None, &both, Accepted::Named("zstd")),
            ("type of the second alone", "gzip, zstd;q=0.1", Some("x/y"), &both, Accepted::Named("zstd")),
            ("parameters of the type", "gzip", Some("Text/Plain; charset=x"), &both, Accepted::Named("gzip")),
            ("anything", "*", None, &both, Accepted::Wildcard("gzip")),
            ("identity", "identity", None, &both, Accepted::Identity),
            ("any, of a chain with one to be first", "*", None, &later_first, Accepted::Wildcard("gzip")),
            ("identity is first", "identity, gzip", None, &both, Accepted::Identity),
            ("identity is better", "identity, gzip;q=0.9", None, &both, Accepted::Identity),
            ("none of ours", "compress", None, &both, Accepted::Invalid),
            ("forbidden", "gzip;q=0", None, &both, Accepted::Invalid),
            ("no number", "gzip;q=x", None, &both, Accepted::Invalid),
            ("none at all", "", None, &both, Accepted::Invalid),
        ];
        for (name, accept, content_type, compressors, expected) in rows {
            let chosen =
                Accepted::choose(accept.as_bytes(), content_type.map(str::as_bytes), compressors.iter());
            assert_eq!(chosen, expected, "{name}");
        }
    }

    #[test]
    fn some_responses_are_left_alone() {
        let one = compressor(GZIP, false, &["text/plain"]);
        let rows = [
            ("text", 200, "content-type", "text/plain", true),
            ("another type", 200, "content-type", "image/png", false),
            ("no type", 200, "x", "y", true),
            ("a part", 206, "content-type", "text/plain", false),
            ("compressed already", 200, "content-encoding", "br", false),
            ("as it is", 200, "cache-control", "public, no-transform", false),
        ];
        for (name, status, field, value, expected) in rows {
            let mut head = ResponseHead::new(status);
            head.headers.append(field, value);
            assert_eq!(one.could_take_response(&head), expected, "{name}");
        }
    }

    #[test]
    fn the_head_says_what_was_done() {
        let rows =
            [("\"a\"", false, None), ("W/\"a\"", false, Some("W/\"a\"")), ("\"a\"", true, Some("W/\"a\""))];
        for (etag, weaken, expected) in rows {
            let mut one = compressor(GZIP, false, &[]);
            one.weaken_etag = weaken;
            let mut headers = Headers::new();
            headers.append("etag", etag);
            headers.append("content-length", "100");
            headers.append("vary", "Origin");
            one.announce(&GZIP, &mut headers);
            vary(&mut headers);
            vary(&mut headers);
            assert_eq!(headers.get_str("etag"), expected, "{etag}");
            assert_eq!(headers.get_str("content-encoding"), Some("gzip"));
            assert_eq!(headers.get_str("vary"), Some("Origin, Accept-Encoding"));
            assert!(!headers.contains("content-length"));
        }
    }
}
