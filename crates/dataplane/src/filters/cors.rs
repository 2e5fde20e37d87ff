//! Cross-origin requests (`envoy.extensions.filters.http.cors.v3.CorsPolicy`).

use crate::head::{RequestHead, ResponseHead};
use crate::matcher::StringMatcher;
use crate::route::Fraction;

/// A policy. What a level leaves out is taken from the next one.
#[derive(Debug, Clone, Default)]
pub struct Cors {
    /// Allowed origins.
    pub origins: Vec<StringMatcher>,
    /// `access-control-allow-methods`.
    pub methods: Option<Box<str>>,
    /// `access-control-allow-headers`.
    pub headers: Option<Box<str>>,
    /// `access-control-expose-headers`.
    pub expose: Option<Box<str>>,
    /// `access-control-max-age`.
    pub max_age: Option<Box<str>>,
    /// `access-control-allow-credentials`.
    pub credentials: Option<bool>,
    /// Whether a page of a public network may ask a private one.
    pub private_network: Option<bool>,
    /// Whether preflights of other origins go upstream; they do unless this says no.
    pub forward_not_matching_preflights: Option<bool>,
    /// The share of requests for which it is on.
    pub enabled: Option<Fraction>,
    /// The share of requests for which origins are only counted.
    pub shadow: Option<Fraction>,
}

impl Cors {
    /// This policy with what it leaves out taken from a farther level.
    #[must_use]
    pub fn over(&self, far: &Self) -> Self {
        let near = self.clone();
        Self {
            origins: if near.origins.is_empty() { far.origins.clone() } else { near.origins },
            methods: near.methods.or_else(|| far.methods.clone()),
            headers: near.headers.or_else(|| far.headers.clone()),
            expose: near.expose.or_else(|| far.expose.clone()),
            max_age: near.max_age.or_else(|| far.max_age.clone()),
            credentials: near.credentials.or(far.credentials),
            private_network: near.private_network.or(far.private_network),
            forward_not_matching_preflights: near
                .forward_not_matching_preflights
                .or(far.forward_not_matching_preflights),
            enabled: near.enabled,
            shadow: near.shadow,
        }
    }

    /// Whether the policy acts on a request with this random number.
    pub fn is_enabled(&self, random: u64) -> bool {
        self.enabled.is_none_or(|share| share.contains(random))
    }

    /// Whether it only counts.
    pub fn is_shadow(&self, random: u64) -> bool {
        self.shadow.is_some_and(|share| share.contains(random))
    }

    /// Whether an origin is allowed; a matcher that takes `*` takes every origin.
    pub fn allows(&self, origin: &[u8]) -> bool {
        self.origins.iter().any(|matcher| matcher.matches(b"*") || matcher.matches(origin))
    }

    /// Whether this asks for permission rather than for a resource.
    pub fn is_preflight(head: &RequestHead) -> bool {
        head.method() == b"OPTIONS"
            && head.headers.get("access-control-request-method").is_some_and(|method| !method.is_empty())
    }

    /// The answer to a preflight; without an origin, to one whose origin is not allowed.
    pub fn preflight_response(&self, origin: Option<&[u8]>, request: &RequestHead) -> ResponseHead {
        let mut response = ResponseHead::new(200);
        let headers = &mut response.headers;
        if let Some(origin) = origin {
            headers.append("access-control-allow-origin", origin);
        }
        if self.credentials == Some(true) {
            headers.append("access-control-allow-credentials", "true");
        }
        for (name, value) in [
            ("access-control-allow-methods", &self.methods),
            ("access-control-allow-headers", &self.headers),
            ("access-control-max-age", &self.max_age),
        ] {
            if let Some(value) = value {
                headers.append(name, value.as_bytes());
            }
        }
        if self.private_network == Some(true)
            && request.headers.get("access-control-request-private-network") == Some(b"true")
        {
            headers.append("access-control-allow-private-network", "true");
        }
        response
    }

    /// Adds what a response to an allowed origin must carry.
    pub fn decorate(&self, origin: &[u8], response: &mut ResponseHead) {
        response.headers.set("access-control-allow-origin", origin);
        if self.credentials == Some(true) {
            response.headers.set("access-control-allow-credentials", "true");
        }
        if let Some(expose) = &self.expose {
            response.headers.set("access-control-expose-headers", expose.as_bytes());
        }
    }
}
