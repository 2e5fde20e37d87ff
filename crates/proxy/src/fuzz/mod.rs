//! Entry points for fuzzing: everything a stranger can send bytes to, as plain functions that panic where a promise is
//! broken.
//!
//! `tests/fuzz.rs` runs each for a moment with mutations of the kept corpus (`fuzz/corpus/TARGET`) as an ordinary test;
//! `fuzz/` builds the same functions for `cargo fuzz`, where a nightly toolchain is at hand.

mod config;
mod http1;
mod http2;
mod preamble;

/// One target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, and that of its folder in the corpus.
    pub name: &'static str,
    /// Takes any bytes.
    pub run: fn(&[u8]),
    /// Words that mutations put in: what the parser looks for.
    pub words: &'static [&'static [u8]],
}

/// All targets. A new one is added here, with at least one file below `fuzz/corpus/NAME`.
pub const TARGETS: &[Target] = &[
    Target { name: "http1_request", run: http1::request, words: http1::WORDS },
    Target { name: "http1_response", run: http1::response, words: http1::WORDS },
    Target { name: "http1_chunks", run: http1::chunks, words: http1::WORDS },
    Target { name: "http2_server", run: http2::server, words: http2::WORDS },
    Target { name: "tls_inspector", run: preamble::tls_inspector, words: preamble::TLS_WORDS },
    Target { name: "http_inspector", run: preamble::http_inspector, words: preamble::HTTP_WORDS },
    Target { name: "proxy_protocol", run: preamble::proxy_protocol, words: preamble::PROXY_WORDS },
    Target { name: "config_bootstrap", run: config::bootstrap, words: config::WORDS },
    Target { name: "config_resource", run: config::resource, words: config::WORDS },
];
