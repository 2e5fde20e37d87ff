//! The differential runner: Envoy is the judge of what our proxy does.
//!
//! A [`case::Case`] says in YAML what of a bootstrap matters, what the upstreams answer and what a client does.
//! [`config`] completes the bootstrap, [`run`] starts first Envoy and then `lateen-proxy` on that same file and the same
//! ports, plays the steps against each, and writes down everything that could be seen from outside as a flat
//! [`observe::Observation`]: aspect by aspect, a text each. [`verdict`] compares the two, less what `normalise.yaml` calls
//! variable, and holds the result against `accepted.yaml` and `pending.yaml`.
//!
//! `README.md` beside this crate says how a case is written.

pub mod case;
pub mod client;
pub mod config;
pub mod http1;
pub mod http2;
pub mod normalise;
pub mod observe;
pub mod process;
pub mod run;
pub mod short_names;
pub mod tls;
pub mod upstream;
pub mod verdict;

/// Reads YAML in which `n` and `off` are words.
pub fn yaml<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, serde_saphyr::Error> {
    serde_saphyr::from_str_with_options(text, serde_saphyr::options! { strict_booleans: true })
}
