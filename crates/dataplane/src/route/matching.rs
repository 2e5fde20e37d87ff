//! Whether a route applies to a request (`envoy.config.route.v3.RouteMatch`).

use regex::bytes::Regex;

use super::Facts;
use crate::head::{RequestHead, split_query};
use crate::matcher::{CookieMatcher, HeaderMatcher, QueryMatcher, StringMatcher};
use crate::value_matcher::MetadataMatcher;

/// How the path must look.
#[derive(Debug, Clone)]
pub enum PathMatcher {
    /// Begins with; in lower case if case does not count.
    Prefix(Box<[u8]>),
    /// Equals, without the query.
    Exact(Box<[u8]>),
    /// Equals or goes on with a slash.
    SeparatedPrefix(Box<[u8]>),
    /// The whole path without the query matches.
    Regex(Regex),
    /// A CONNECT request.
    Connect,
}

/// A share of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fraction {
    /// Of `denominator`.
    pub numerator: u32,
    /// 100, 10,000 or 1,000,000.
    pub denominator: u32,
}

impl Fraction {
    /// All.
    pub const ALL: Self = Self { numerator: 100, denominator: 100 };

    /// Whether a request with this random number is in the share.
    pub fn contains(self, random: u64) -> bool {
        random % u64::from(self.denominator) < u64::from(self.numerator)
    }
}

/// All conditions of a route.
#[derive(Debug, Clone)]
pub struct RouteMatch {
    /// The path.
    pub path: PathMatcher,
    /// Whether case counts (not for regexes).
    pub case_sensitive: bool,
    /// All must match.
    pub headers: Vec<HeaderMatcher>,
    /// All must match.
    pub query: Vec<QueryMatcher>,
    /// All must match.
    pub cookies: Vec<CookieMatcher>,
    /// Only gRPC.
    pub grpc: bool,
    /// Only requests over TLS (true) or without (false), by their scheme.
    pub tls: Option<bool>,
    /// A share of the requests.
    pub fraction: Option<Fraction>,
    /// All must match (`dynamic_metadata`).
    pub metadata: Vec<MetadataMatcher>,
    /// All must match (`filter_state`).
    pub filter_state: Vec<StateMatcher>,
}

/// A value that a filter has set, and what it has to be (`envoy.type.matcher.v3.FilterStateMatcher`).
#[derive(Debug, Clone)]
pub struct StateMatcher {
    /// Its name.
    pub key: Box<str>,
    /// What it has to be.
    pub value: StringMatcher,
}

impl RouteMatch {
    /// Whether a request matches.
    pub fn matches(&self, head: &RequestHead, random: u64) -> bool {
        self.matches_with(head, random, Facts::default())
    }

    /// The same, with what is known besides the head.
    pub fn matches_with(&self, head: &RequestHead, random: u64, facts: Facts<'_>) -> bool {
        self.path_matches(head)
            && self.fraction.is_none_or(|fraction| fraction.contains(random))
            && (!self.grpc || head.is_grpc())
            && self.tls.is_none_or(|tls| tls == (head.scheme == crate::head::Scheme::Https))
            && self.headers.iter().all(|matcher| matcher.matches(head))
            && self.query.iter().all(|matcher| matcher.matches(head.path()))
            && self.cookies.iter().all(|matcher| matcher.matches(&head.headers))
            && self.metadata.iter().all(|matcher| {
                let matched = facts.metadata.and_then(|metadata| matcher.matches(metadata));
                // A value that is not there is none of those that are wanted.
                matched.unwrap_or(matcher.invert)
            })
            && self.filter_state.iter().all(|matcher| {
                let value = facts.filter_state.and_then(|state| state.get(&matcher.key));
                value.is_some_and(|value| matcher.value.matches(value.as_bytes()))
            })
    }

    fn path_matches(&self, head: &RequestHead) -> bool {
        let path = head.path();
        // A CONNECT to a host has no path, and is only for those who say that they mean it.
        if path.is_empty() {
            return matches!(self.path, PathMatcher::Connect) && head.method() == b"CONNECT";
        }
        let bare = split_query(path).0;
        let equal = |left: &[u8], right: &[u8]| {
            if self.case_sensitive { left == right } else { left.eq_ignore_ascii_case(right) }
        };
        match &self.path {
            PathMatcher::Prefix(prefix) => bare.get(..prefix.len()).is_some_and(|start| equal(start, prefix)),
            PathMatcher::Exact(exact) => equal(bare, exact),
            PathMatcher::SeparatedPrefix(prefix) => {
                bare.get(..prefix.len()).is_some_and(|start| equal(start, prefix))
                    && (bare.len() == prefix.len() || bare[prefix.len()] == b'/')
            }
            PathMatcher::Regex(regex) => regex.is_match(bare),
            PathMatcher::Connect => head.method() == b"CONNECT",
        }
    }

    /// The length of the part of the path that a `prefix_rewrite` replaces.
    pub fn matched_length(&self, path: &[u8]) -> usize {
        match &self.path {
            PathMatcher::Prefix(prefix) | PathMatcher::SeparatedPrefix(prefix) => prefix.len(),
            _ => split_query(path).0.len(),
        }
    }
}
