//! What a service passes on from the request it got to the requests it makes.

use std::time::Duration;

use axum::http::HeaderMap;

/// Trace context in its usual forms, and the user on whose behalf the call is made.
const PASSED_ON: [&str; 12] = [
    "x-request-id",
    "traceparent",
    "tracestate",
    "baggage",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "x-ot-span-context",
    "end-user",
];

/// The headers of `request` that go with the calls made for it.
pub(crate) fn passed_on(request: &HeaderMap) -> HeaderMap {
    request
        .iter()
        .filter(|(name, _)| PASSED_ON.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// A client for calls between services. No call may take longer than `timeout`.
pub(crate) fn client(timeout: Duration) -> anyhow::Result<reqwest::Client> {
    // The client insists on a TLS provider even where every call is plain HTTP.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Ok(reqwest::Client::builder().timeout(timeout).no_proxy().build()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_trace_headers_and_the_user_are_passed_on() {
        let mut request = HeaderMap::new();
        for name in
            ["traceparent", "end-user", "x-request-id", "cookie", "authorization", "host", "content-length"]
        {
            request.insert(name, "1".parse().unwrap());
        }
        let mut names: Vec<_> = passed_on(&request).keys().map(ToString::to_string).collect();
        names.sort();
        assert_eq!(names, ["end-user", "traceparent", "x-request-id"]);
    }
}
