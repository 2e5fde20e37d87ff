//! Redirects that are followed here in place of the client (`envoy.config.route.v3.InternalRedirectPolicy`).

use std::sync::Arc;

use crate::head::{Headers, RequestHead, Scheme};

/// A compiled policy.
#[derive(Debug, Clone, Default)]
pub struct InternalRedirects {
    /// At most so many for a request.
    pub max: u32,
    /// Which statuses.
    pub statuses: Vec<u16>,
    /// Whether the scheme may change.
    pub cross_scheme: bool,
    /// Whether it may only become safer, though it may change.
    pub safe_cross_scheme: bool,
    /// Whether a route is taken only once.
    pub no_route_twice: bool,
    /// Routes that may be the target; none: all.
    pub allowed_routes: Option<Vec<Box<str>>>,
    /// Response headers for the next request.
    pub copy: Vec<Box<[u8]>>,
}

/// Why a redirect is passed on to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotFollowed {
    /// `location` is not an absolute URL of HTTP.
    BadLocation,
    /// The scheme would change.
    UnsafeScheme,
    /// There were as many as there may be.
    TooMany,
    /// There is no route for it.
    NoRoute,
    /// The route may not be the target.
    Predicate,
}

impl InternalRedirects {
    /// Whether a response with this status is one.
    pub fn is_for(&self, status: u16) -> bool {
        self.statuses.contains(&status)
    }

    /// The head of the next request, before its route is known. `done`: redirects followed so far.
    pub fn next(
        &self,
        head: &RequestHead,
        status: u16,
        response: &Headers,
        done: u32,
    ) -> Result<RequestHead, NotFollowed> {
        let location = response.get("location").unwrap_or_default();
        let (scheme, authority, path) = absolute(location).ok_or(NotFollowed::BadLocation)?;
        if scheme != head.scheme && !self.cross_scheme {
            return Err(NotFollowed::UnsafeScheme);
        }
        if done >= self.max {
            return Err(NotFollowed::TooMany);
        }
        let mut next = head.clone();
        let original = [head.scheme.as_str().as_bytes(), b"://", head.authority(), head.path()].concat();
        next.scheme = scheme;
        next.set_authority(authority);
        next.set_path(path);
        for name in &self.copy {
            next.headers.remove(name);
            for value in response.get_all(name) {
                next.headers.append(name, value);
            }
        }
        next.headers.set("x-envoy-original-url", original);
        // RFC 9110, 15.4.4: the answer is somewhere else, to be asked for.
        if status == 303 && !matches!(head.method(), b"GET" | b"HEAD") {
            next.set_method("GET");
            for name in ["content-length", "transfer-encoding"] {
                next.headers.remove(name);
            }
        }
        Ok(next)
    }

    /// Whether a route may be the target. `before`: names of the routes taken so far; `from`: the scheme so far.
    pub fn accepts(&self, route: &Arc<str>, before: &[Arc<str>], from: Scheme, to: Scheme) -> bool {
        !(self.no_route_twice && before.contains(route))
            && self.allowed_routes.as_ref().is_none_or(|names| names.iter().any(|name| **name == **route))
            && !(self.safe_cross_scheme && from == Scheme::Http && to == Scheme::Https)
    }
}

/// Scheme, authority, path with query; a fragment is for the client alone.
fn absolute(url: &[u8]) -> Option<(Scheme, Vec<u8>, Vec<u8>)> {
    let (scheme, rest) = match url {
        [b'h', b't', b't', b'p', b':', b'/', b'/', rest @ ..] => (Scheme::Http, rest),
        [b'h', b't', b't', b'p', b's', b':', b'/', b'/', rest @ ..] => (Scheme::Https, rest),
        _ => return None,
    };
    let rest = rest.split(|byte| *byte == b'#').next()?;
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let path = match path.first() {
        Some(b'/') => path.to_vec(),
        _ => [b"/", path].concat(),
    };
    (!authority.is_empty()).then(|| (scheme, authority.to_vec(), path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations() {
        for (url, expect) in [
            ("http://shop/b/x?y", Some(("http", "shop", "/b/x?y"))),
            ("https://shop:8443", Some(("https", "shop:8443", "/"))),
            ("http://shop/b#frag", Some(("http", "shop", "/b"))),
            ("http://shop?q", Some(("http", "shop", "/?q"))),
            ("/b/rel", None),
            ("", None),
            ("http:///x", None),
        ] {
            let found = absolute(url.as_bytes());
            let found = found.as_ref().map(|(scheme, authority, path)| {
                let text = |bytes| std::str::from_utf8(bytes).unwrap();
                (scheme.as_str(), text(authority), text(path))
            });
            assert_eq!(found, expect, "{url}");
        }
    }

    #[test]
    fn a_303_asks_for_what_is_elsewhere() {
        let policy = InternalRedirects { max: 1, statuses: vec![303], ..InternalRedirects::default() };
        let mut head = RequestHead::new("POST", "shop", "/a?b");
        head.headers.append("content-length", "3");
        let response: Headers = [("location", "http://other/c")].into_iter().collect();
        let next = policy.next(&head, 303, &response, 0).unwrap();
        assert_eq!((next.method(), next.authority(), next.path()), (&b"GET"[..], &b"other"[..], &b"/c"[..]));
        assert_eq!(next.headers, [("x-envoy-original-url", "http://shop/a?b")].into_iter().collect());
        assert_eq!(policy.next(&head, 303, &response, 1), Err(NotFollowed::TooMany));
        let response: Headers = [("location", "https://other/c")].into_iter().collect();
        assert_eq!(policy.next(&head, 303, &response, 0), Err(NotFollowed::UnsafeScheme));
    }
}
