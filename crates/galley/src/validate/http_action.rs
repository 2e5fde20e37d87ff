//! What a VirtualService's HTTP rule does with a request that matched.

use lateen_api::networking::{
    CorsPolicy, FaultAbort, FaultDelay, GRPC_STATUS_NAMES, HeaderOperations, Headers, HttpDirectResponse,
    HttpRedirect, HttpRetry, HttpRewrite, HttpRoute, Percent,
};

use super::names;
use super::virtual_service::{destination, string_match};
use crate::Verdict;
use crate::check::join;

pub(crate) fn headers(path: &str, headers: Option<&Headers>, verdict: &mut Verdict) {
    let Some(headers) = headers else { return };
    for (name, operations) in [("request", &headers.request), ("response", &headers.response)] {
        let Some(HeaderOperations { set, add, remove }) = operations else { continue };
        for (field, map) in [("set", set), ("add", add)] {
            for (header, value) in map {
                let place = join(&format!("{path}.{name}.{field}"), header);
                names::writable_header(&place, header, name == "request", verdict);
                if let Some(rest) = stray_percent(value) {
                    verdict.error(
                        &place,
                        format!("the % before {rest:?} begins no command"),
                        "write %% for a percent sign",
                    );
                }
                if value.chars().any(|c| c.is_ascii_control() && c != '\t') {
                    verdict.error(place, "the value has a control character", "write it on one line");
                }
            }
        }
        for (index, header) in remove.iter().enumerate() {
            names::writable_header(&format!("{path}.{name}.remove[{index}]"), header, false, verdict);
        }
    }
}

/// What follows a `%` that neither begins a command such as `%REQ(x)%` nor is doubled (Envoy's custom headers).
fn stray_percent(value: &str) -> Option<&str> {
    let mut rest = value;
    while let Some(position) = rest.find('%') {
        let after = &rest[position + 1..];
        if let Some(doubled) = after.strip_prefix('%') {
            rest = doubled;
            continue;
        }
        let name = after
            .bytes()
            .take_while(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_')
            .count();
        let end = match after.as_bytes().get(name) {
            Some(b'(') => after.find(")%").map(|end| end + 2).or_else(|| after.find('%').map(|end| end + 1)),
            Some(b'%') => Some(name + 1),
            _ => None,
        };
        match end {
            Some(end) if name > 0 => rest = &after[end..],
            _ => return Some(after),
        }
    }
    None
}

pub(crate) fn http_redirect(path: &str, redirect: &HttpRedirect, verdict: &mut Verdict) {
    if redirect.uri.is_empty()
        && redirect.prefix_rewrite.is_empty()
        && redirect.authority.is_empty()
        && redirect.scheme.is_empty()
        && redirect.port.is_none()
        && redirect.derive_port.is_none()
    {
        verdict.error(path, "leads to where the request was", "set uri, authority, port or scheme");
    }
    if !redirect.uri.is_empty() && !redirect.prefix_rewrite.is_empty() {
        verdict.error(path, "uri and prefixRewrite are set together", "leave one of them out");
    }
    if redirect.redirect_code != 0 && !(300..=399).contains(&redirect.redirect_code) {
        verdict.error(
            format!("{path}.redirectCode"),
            format!("{} is no redirect", redirect.redirect_code),
            "301, 302, 303, 307 or 308",
        );
    }
    if !redirect.scheme.is_empty() && redirect.scheme != "http" && redirect.scheme != "https" {
        verdict.error(
            format!("{path}.scheme"),
            format!("{:?} is not known", redirect.scheme),
            "http or https",
        );
    }
    if let Some(port) = redirect.port {
        names::port(&format!("{path}.port"), port, verdict);
    }
}

pub(crate) fn direct_response(path: &str, response: &HttpDirectResponse, verdict: &mut Verdict) {
    if !(200..=599).contains(&response.status) {
        verdict.error(
            format!("{path}.status"),
            format!("{} is not a status", response.status),
            "from 200 to 599",
        );
    }
    let length = response.body.as_ref().map_or(0, |body| {
        body.string.as_ref().map_or(0, String::len)
            + body.bytes.as_ref().map_or(0, |bytes| bytes.len() / 4 * 3)
    });
    if length > 1024 * 1024 {
        verdict.error(format!("{path}.body"), format!("has {length} bytes"), "at most 1 MiB");
    } else if length > 100 * 1024 {
        verdict.warn(format!("{path}.body"), "is large and goes to every proxy", "serve it from a workload");
    }
}

pub(crate) fn http_rewrite(path: &str, rewrite: &HttpRewrite, verdict: &mut Verdict) {
    match &rewrite.uri_regex_rewrite {
        Some(regex) => {
            if !rewrite.uri.is_empty() {
                verdict.error(path, "uri and uriRegexRewrite are set together", "leave one of them out");
            }
            let path = format!("{path}.uriRegexRewrite");
            if regex.r#match.is_empty() || regex.rewrite.is_empty() {
                verdict.error(&path, "is not complete", "set match and rewrite");
            }
            names::regular_expression(&format!("{path}.match"), &regex.r#match, verdict);
        }
        None if rewrite.uri.is_empty() && rewrite.authority.is_empty() => {
            verdict.error(path, "changes nothing", "set uri, uriRegexRewrite or authority");
        }
        None => {}
    }
}

pub(crate) fn http_retry(path: &str, retry: &HttpRetry, verdict: &mut Verdict) {
    if retry.attempts < 0 {
        verdict.error(
            format!("{path}.attempts"),
            format!("{} is negative", retry.attempts),
            "write 0 or more",
        );
    }
    if retry.attempts == 0
        && (retry.per_try_timeout.is_some()
            || !retry.retry_on.is_empty()
            || retry.retry_remote_localities.is_some())
    {
        verdict.error(
            format!("{path}.attempts"),
            "is 0, which turns retries off",
            "set attempts, or leave the other fields out",
        );
    }
    names::positive(
        &format!("{path}.perTryTimeout"),
        retry.per_try_timeout.filter(|time| !time.is_zero()),
        verdict,
    );
    names::positive(&format!("{path}.backoff"), retry.backoff, verdict);
    if retry.retry_on.is_empty() {
        return;
    }
    for condition in retry.retry_on.split(',').map(str::trim) {
        let status = condition.parse::<u32>().is_ok_and(|status| (200..=599).contains(&status));
        if !status && !RETRY_CONDITIONS.contains(&condition) {
            verdict.error(
                format!("{path}.retryOn"),
                format!("{condition:?} is not a condition"),
                "such as 5xx, gateway-error, connect-failure, reset or a status code",
            );
        }
    }
}

/// Envoy's `x-envoy-retry-on` and `x-envoy-retry-grpc-on`.
const RETRY_CONDITIONS: &[&str] = &[
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "envoy-ratelimited",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

/// Checks a share of any fineness.
fn share(path: &str, percent: Option<&Percent>, verdict: &mut Verdict) {
    let Some(percent) = percent else { return };
    let value = percent.value.0;
    if !(0.0..=100.0).contains(&value) {
        verdict.error(format!("{path}.value"), format!("{value} is not a percentage"), "from 0 to 100");
    }
}

pub(crate) fn percent(path: &str, percent: Option<&Percent>, verdict: &mut Verdict) {
    share(path, percent, verdict);
    let Some(percent) = percent else { return };
    let value = percent.value.0;
    if value > 0.0 && value < 0.0001 {
        verdict.error(format!("{path}.value"), format!("{value} is too small"), "at least 0.0001");
    }
}

pub(crate) fn fault_delay(path: &str, delay: &FaultDelay, verdict: &mut Verdict) {
    if !(0..=100).contains(&delay.percent) {
        verdict.error(
            format!("{path}.percent"),
            format!("{} is not a percentage", delay.percent),
            "from 0 to 100",
        );
    }
    percent(&format!("{path}.percentage"), delay.percentage.as_ref(), verdict);
    match delay.fixed_delay {
        Some(_) => names::positive(&format!("{path}.fixedDelay"), delay.fixed_delay, verdict),
        None if delay.exponential_delay.is_some() => {
            verdict.error(format!("{path}.exponentialDelay"), "is not implemented", "use fixedDelay");
        }
        None => verdict.warn(format!("{path}.fixedDelay"), "is missing", "such as 7s"),
    }
}

pub(crate) fn fault_abort(path: &str, abort: &FaultAbort, verdict: &mut Verdict) {
    percent(&format!("{path}.percentage"), abort.percentage.as_ref(), verdict);
    match (&abort.http_status, &abort.grpc_status, &abort.http2_error) {
        (Some(status), _, _) => {
            if !(200..=599).contains(status) {
                verdict.error(
                    format!("{path}.httpStatus"),
                    format!("{status} is not a status"),
                    "from 200 to 599",
                );
            }
        }
        (None, Some(status), _) => {
            if !GRPC_STATUS_NAMES.contains(&status.as_str()) {
                verdict.error(
                    format!("{path}.grpcStatus"),
                    format!("{status:?} is not a gRPC status"),
                    "such as UNAVAILABLE",
                );
            }
        }
        (None, None, Some(_)) => {
            verdict.error(format!("{path}.http2Error"), "is not implemented", "use httpStatus")
        }
        (None, None, None) => {
            verdict.warn(path, "has no error to answer with", "set httpStatus or grpcStatus")
        }
    }
}

pub(crate) fn mirrors(path: &str, route: &HttpRoute, verdict: &mut Verdict) {
    if let Some(mirror) = &route.mirror {
        destination(&format!("{path}.mirror"), mirror, verdict);
        if !route.mirrors.is_empty() {
            verdict.error(path, "mirror and mirrors are set together", "put all into mirrors");
        }
    }
    if let Some(share) = route.mirror_percent {
        if share > 100 {
            verdict.error(format!("{path}.mirrorPercent"), "is not a percentage", "from 0 to 100");
        }
        verdict.warn(
            format!("{path}.mirrorPercent"),
            "using deprecated setting \"mirrorPercent\"",
            "use \"mirrorPercentage\" instead",
        );
    }
    share(&format!("{path}.mirrorPercentage"), route.mirror_percentage.as_ref(), verdict);
    for (index, mirror) in route.mirrors.iter().enumerate() {
        destination(&format!("{path}.mirrors[{index}].destination"), &mirror.destination, verdict);
        share(&format!("{path}.mirrors[{index}].percentage"), mirror.percentage.as_ref(), verdict);
    }
}

pub(crate) fn cors(path: &str, policy: &CorsPolicy, verdict: &mut Verdict) {
    for (index, origin) in policy.allow_origins.iter().enumerate() {
        let path = format!("{path}.allowOrigins[{index}]");
        let given = [&origin.exact, &origin.prefix, &origin.regex];
        if given.into_iter().flatten().all(String::is_empty) {
            verdict.error(&path, "is empty", "write an origin such as https://example.com");
        }
        string_match(&path, origin, verdict);
    }
    for (index, method) in policy.allow_methods.iter().enumerate() {
        const METHODS: &[&str] =
            &["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "*"];
        if !METHODS.contains(&method.as_str()) {
            verdict.error(
                format!("{path}.allowMethods[{index}]"),
                format!("{method:?} is not a method"),
                "in capital letters, such as GET",
            );
        }
    }
    for (name, headers) in
        [("allowHeaders", &policy.allow_headers), ("exposeHeaders", &policy.expose_headers)]
    {
        for (index, header) in headers.iter().enumerate().filter(|(_, header)| *header != "*") {
            names::plain_header_name(&format!("{path}.{name}[{index}]"), header, verdict);
        }
    }
    if let Some(age) = policy.max_age {
        names::positive(&format!("{path}.maxAge"), Some(age), verdict);
        if !age.get().as_nanos().is_multiple_of(1_000_000_000) {
            verdict.error(
                format!("{path}.maxAge"),
                format!("{age} is finer than a second"),
                "write whole seconds",
            );
        }
    }
}
