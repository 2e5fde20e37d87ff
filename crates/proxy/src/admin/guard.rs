//! Who may ask the admin listener for what.
//!
//! The listener has no password. What protects it is that it listens on the loopback interface; so the one who must be
//! kept out is a web page in a browser on this machine. Such a page can send requests here, and with a name of its own
//! that resolves to 127.0.0.1 it could even read the answers (DNS rebinding). Browsers say on whose behalf they ask.

use std::net::IpAddr;

use http::{Method, Request, StatusCode};
use lateen_base::admin::{Reply, text};

use super::{Options, Page};

/// The answer to a request that is not to be served.
pub(super) fn refuse<B>(request: &Request<B>, page: Option<&Page>, options: &Options) -> Option<Reply> {
    let path = request.uri().path();
    if !options.allow_paths.is_empty()
        && !options.allow_paths.iter().any(|allowed| allowed.matches(path.as_bytes()))
    {
        return Some(text(StatusCode::FORBIDDEN, format!("request to path {path} not allowed")));
    }
    if let Some(reason) = foreign(request) {
        return Some(text(StatusCode::FORBIDDEN, format!("{reason}\n")));
    }
    if page.is_some_and(|page| page.changes) && request.method() != Method::POST {
        let method = request.method();
        let message = format!("Method {method} not allowed, POST required.");
        return Some(text(StatusCode::METHOD_NOT_ALLOWED, message));
    }
    None
}

/// Why a request comes from a web page of another site.
fn foreign<B>(request: &Request<B>) -> Option<&'static str> {
    let header = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = header("host").or_else(|| request.uri().authority().map(|authority| authority.as_str()));
    if let Some(origin) = header("origin") {
        let same = origin.split_once("://").is_some_and(|(_, authority)| Some(authority) == host);
        if !same {
            return Some("requests of web pages of other sites are refused (Origin)");
        }
    }
    // `none` is a person who typed the address, `same-origin` our own page.
    if header("sec-fetch-site").is_some_and(|site| !matches!(site, "same-origin" | "none")) {
        return Some("requests of web pages of other sites are refused (Sec-Fetch-Site)");
    }
    // Only browsers send `sec-fetch-*`, `origin` or a `referer`; for them the name has to be one that no site can
    // claim. Other clients may reach the listener by whatever name they have for it.
    let browser = ["origin", "sec-fetch-site", "sec-fetch-mode", "referer"];
    let is_browser = browser.iter().any(|name| request.headers().contains_key(*name))
        || header("user-agent").is_some_and(|agent| agent.starts_with("Mozilla/"));
    if is_browser && !host.is_some_and(is_local_name) {
        return Some("browsers may reach the admin listener by its IP address or as localhost only (Host)");
    }
    None
}

/// A host that nobody can point here by DNS: an IP address or `localhost`.
fn is_local_name(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::super::PAGES;
    use super::*;

    #[test]
    fn who_may_do_what() {
        let local = ("host", "127.0.0.1:15000");
        for (name, method, path, headers, expect) in [
            ("curl reads", "GET", "/stats", &[local][..], None),
            ("curl by name", "GET", "/stats", &[("host", "pod.example:15000")], None),
            ("curl changes", "POST", "/quitquitquit", &[local], None),
            ("a GET changes nothing", "GET", "/quitquitquit", &[local], Some(405)),
            ("nor does a HEAD", "HEAD", "/reset_counters", &[local], Some(405)),
            ("a POST reads", "POST", "/stats", &[local], None),
            (
                "our own page",
                "POST",
                "/logging",
                &[local, ("origin", "http://127.0.0.1:15000"), ("sec-fetch-site", "same-origin")],
                None,
            ),
            ("typed by a person", "GET", "/", &[local, ("sec-fetch-site", "none")], None),
            ("another site", "POST", "/quitquitquit", &[local, ("origin", "http://evil.example")], Some(403)),
            (
                "another port of this machine",
                "POST",
                "/quitquitquit",
                &[local, ("origin", "http://127.0.0.1:80")],
                Some(403),
            ),
            ("an opaque origin", "POST", "/quitquitquit", &[local, ("origin", "null")], Some(403)),
            (
                "another site, by fetch metadata",
                "POST",
                "/quitquitquit",
                &[local, ("sec-fetch-site", "cross-site")],
                Some(403),
            ),
            (
                "another site reads",
                "GET",
                "/config_dump",
                &[local, ("sec-fetch-site", "same-site")],
                Some(403),
            ),
            (
                "a name that was made to point here",
                "POST",
                "/quitquitquit",
                &[
                    ("host", "evil.example:15000"),
                    ("origin", "http://evil.example:15000"),
                    ("sec-fetch-site", "same-origin"),
                ],
                Some(403),
            ),
            (
                "the same, by an old browser",
                "GET",
                "/config_dump",
                &[("host", "evil.example:15000"), ("user-agent", "Mozilla/5.0")],
                Some(403),
            ),
            (
                "a browser on this machine",
                "GET",
                "/",
                &[("host", "localhost:15000"), ("user-agent", "Mozilla/5.0")],
                None,
            ),
            ("by IPv6", "GET", "/", &[("host", "[::1]:15000"), ("user-agent", "Mozilla/5.0")], None),
        ] {
            let mut request = Request::builder().method(method).uri(path);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let request = request.body(()).unwrap();
            let page = PAGES.iter().find(|page| page.path == path);
            let refused = refuse(&request, page, &Options::default()).map(|reply| reply.status().as_u16());
            assert_eq!(refused, expect, "{name}");
        }
    }
}
