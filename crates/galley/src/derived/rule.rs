//! One rule of an HTTPRoute as routes of a VirtualService: one for each of its conditions, since precedence orders
//! conditions, not rules.

use std::cmp::Reverse;

use lateen_api::gateway_api::{
    HTTPBackendRef, HTTPCORSFilter, HTTPHeaderFilter, HTTPPathModifier, HTTPRequestMirrorFilter,
    HTTPRequestRedirectFilter, HTTPRouteFilter, HTTPRouteMatch, HTTPRouteRule, HTTPURLRewriteFilter,
    HTTPValueMatch,
};
use lateen_api::networking::{
    CorsPolicy, Destination, HeaderOperations, Headers, HttpDirectResponse, HttpMatchRequest,
    HttpMirrorPolicy, HttpRedirect, HttpRetry, HttpRewrite, HttpRoute, HttpRouteDestination, Percent,
    PortSelector, RedirectPortSelection, RegexRewrite, StringMatch,
};
use lateen_api::{Double, Duration};
use lateen_model::{Hostname, Namespace, Snapshot};

/// Where references to backends are looked up.
pub(super) struct Backends<'a> {
    pub(super) snapshot: &'a Snapshot,
    /// The namespace of the route.
    pub(super) namespace: &'a Namespace,
}

/// A backend that cannot be used.
struct Unusable;

/// The routes of a rule, one for each condition.
pub(super) fn routes(rule: &HTTPRouteRule, backends: &Backends<'_>) -> Vec<HttpRoute> {
    if rule.matches.is_empty() {
        return vec![route(rule, None, backends)];
    }
    rule.matches.iter().map(|condition| route(rule, Some(condition), backends)).collect()
}

fn route(rule: &HTTPRouteRule, condition: Option<&HTTPRouteMatch>, backends: &Backends<'_>) -> HttpRoute {
    let mut made = HttpRoute { name: rule.name.clone().unwrap_or_default(), ..Default::default() };
    if let Some(condition) = condition {
        made.r#match.push(request(condition));
    }
    let prefix =
        condition.and_then(|condition| condition.path.as_ref()).and_then(|path| path.value.as_deref());
    let mut usable = true;
    for filter in &rule.filters {
        usable &= apply(filter, prefix.unwrap_or("/"), backends, &mut made).is_ok();
    }
    made.timeout = rule.timeouts.as_ref().and_then(|timeouts| timeouts.request);
    made.retries = retries(rule);
    if let (None, Some(timeouts)) = (&rule.retry, &rule.timeouts)
        && let Some(per_try) = timeouts.backend_request
    {
        // Without retries there is one try.
        made.timeout =
            Some(made.timeout.filter(|whole| !whole.is_zero() && *whole < per_try).unwrap_or(per_try));
    }
    if !usable {
        refuse(&mut made);
    } else if made.redirect.is_none() {
        destinations(&rule.backend_refs, backends, &mut made);
    }
    made
}

/// Answers 500: the rule matches, and what it asks for cannot be done.
fn refuse(made: &mut HttpRoute) {
    made.route.clear();
    made.redirect = None;
    made.rewrite = None;
    made.mirrors.clear();
    made.direct_response = Some(HttpDirectResponse { status: 500, body: None });
}

fn destinations(references: &[HTTPBackendRef], backends: &Backends<'_>, made: &mut HttpRoute) {
    let mut any = false;
    for reference in references {
        let weight = reference.weight.unwrap_or(1);
        if weight <= 0 {
            continue;
        }
        let port = reference.port;
        let found = backends.destination(
            (reference.group.as_deref(), reference.kind.as_deref()),
            reference.namespace.as_deref(),
            &reference.name,
            port,
        );
        any |= found.is_ok();
        // The share of one that is not there is answered by the lack of its cluster.
        let destination = found.unwrap_or_else(|_| missing(&reference.name, backends.namespace, port));
        let mut headers = Headers::default();
        for filter in &reference.filters {
            header_filters(filter, &mut headers);
        }
        let headers = (headers != Headers::default()).then_some(headers);
        made.route.push(HttpRouteDestination { destination, weight, headers });
    }
    if !any {
        refuse(made);
    } else if let [only] = &mut made.route[..] {
        only.weight = 0;
    }
}

fn missing(name: &str, namespace: &Namespace, port: Option<u16>) -> Destination {
    Destination {
        host: format!("{name}.{namespace}.svc.cluster.local"),
        port: Some(PortSelector { number: u32::from(port.unwrap_or(1)) }),
        ..Default::default()
    }
}

impl Backends<'_> {
    fn destination(
        &self,
        (group, kind): (Option<&str>, Option<&str>),
        namespace: Option<&str>,
        name: &str,
        port: Option<u16>,
    ) -> Result<Destination, Unusable> {
        let to = |host: String, port: u16| Destination {
            host,
            port: Some(PortSelector { number: u32::from(port) }),
            ..Default::default()
        };
        match (group.unwrap_or_default(), kind.unwrap_or("Service")) {
            ("" | "core", "Service") => {
                let namespace = namespace.map_or_else(|| self.namespace.clone(), Namespace::from);
                let host = Hostname::from(format!("{name}.{namespace}.svc.cluster.local"));
                // Another namespace's service would need that namespace's leave, which nothing gives yet.
                let known = self.snapshot.services_named(&host).next().is_some();
                match port {
                    Some(port) if known && namespace == *self.namespace => Ok(to(host.to_string(), port)),
                    _ => Err(Unusable),
                }
            }
            ("networking.istio.io", "Hostname") => port.map(|port| to(name.to_owned(), port)).ok_or(Unusable),
            _ => Err(Unusable),
        }
    }
}

// === conditions ===

fn request(condition: &HTTPRouteMatch) -> HttpMatchRequest {
    let mut made = HttpMatchRequest::default();
    if let Some(path) = &condition.path {
        let value = path.value.clone().unwrap_or_else(|| "/".to_owned());
        made.uri = Some(match path.kind.as_deref() {
            Some("Exact") => exact(value),
            Some("RegularExpression") => regex(value),
            _ => StringMatch { prefix: Some(value), ..Default::default() },
        });
    }
    // Of several conditions on one name the first counts.
    for header in &condition.headers {
        made.headers.entry(header.name.to_ascii_lowercase()).or_insert_with(|| value(header));
    }
    for parameter in &condition.query_params {
        made.query_params.entry(parameter.name.clone()).or_insert_with(|| value(parameter));
    }
    made.method = condition.method.clone().map(exact);
    made
}

fn exact(value: String) -> StringMatch {
    StringMatch { exact: Some(value), ..Default::default() }
}

fn regex(value: String) -> StringMatch {
    StringMatch { regex: Some(value), ..Default::default() }
}

fn value(condition: &HTTPValueMatch) -> StringMatch {
    match condition.kind.as_deref() {
        Some("RegularExpression") => regex(condition.value.clone()),
        _ => exact(condition.value.clone()),
    }
}

/// What decides which of several routes takes a request.
pub(super) type Precedence = (bool, Reverse<u8>, Reverse<usize>, bool, Reverse<usize>, Reverse<usize>);

/// The Gateway API's order (its reference, "HTTPRouteRule.matches"): exact paths, then the longest prefix, then a method,
/// then the most headers, then the most query parameters. Expressions come last, as the API leaves to us. Routes of
/// equal rank stay in the order of their age.
pub(super) fn precedence(route: &HttpRoute) -> Precedence {
    let Some(request) = route.r#match.first() else {
        return (true, Reverse(0), Reverse(0), true, Reverse(0), Reverse(0));
    };
    let uri = request.uri.as_ref();
    let (rank, length) = match uri.map(|uri| (&uri.exact, &uri.prefix, &uri.regex)) {
        Some((Some(exact), _, _)) => (3, exact.len()),
        Some((_, Some(prefix), _)) => (2, prefix.len()),
        Some((_, _, Some(regex))) => (1, regex.len()),
        // No condition is the prefix that all paths have.
        _ => (2, 1),
    };
    (
        false,
        Reverse(rank),
        Reverse(length),
        request.method.is_none(),
        Reverse(request.headers.len()),
        Reverse(request.query_params.len()),
    )
}

// === filters ===

fn apply(
    filter: &HTTPRouteFilter,
    prefix: &str,
    backends: &Backends<'_>,
    made: &mut HttpRoute,
) -> Result<(), Unusable> {
    match filter.kind.as_str() {
        "RequestHeaderModifier" | "ResponseHeaderModifier" => {
            header_filters(filter, made.headers.get_or_insert_default());
        }
        "RequestRedirect" => {
            made.redirect = filter.request_redirect.as_ref().map(redirect);
        }
        "URLRewrite" => {
            made.rewrite = filter.url_rewrite.as_ref().map(|filter| rewrite(filter, prefix));
        }
        "RequestMirror" => {
            let Some(mirror) = &filter.request_mirror else { return Err(Unusable) };
            // A copy that cannot be sent is no reason to refuse the request.
            made.mirrors.extend(self::mirror(mirror, backends).ok());
        }
        "CORS" => made.cors_policy = filter.cors.as_ref().map(cors),
        _ => return Err(Unusable),
    }
    Ok(())
}

fn header_filters(filter: &HTTPRouteFilter, headers: &mut Headers) {
    if let Some(changes) = &filter.request_header_modifier {
        headers.request = Some(operations(changes));
    }
    if let Some(changes) = &filter.response_header_modifier {
        headers.response = Some(operations(changes));
    }
}

fn operations(changes: &HTTPHeaderFilter) -> HeaderOperations {
    // Of several values for one name the first counts.
    let map = |headers: &[lateen_api::gateway_api::HTTPHeader]| {
        headers.iter().rev().map(|header| (header.name.clone(), header.value.clone())).collect()
    };
    HeaderOperations { set: map(&changes.set), add: map(&changes.add), remove: changes.remove.clone() }
}

fn redirect(filter: &HTTPRequestRedirectFilter) -> HttpRedirect {
    let mut made = HttpRedirect {
        scheme: filter.scheme.clone().unwrap_or_default(),
        authority: filter.hostname.clone().unwrap_or_default(),
        port: filter.port.map(u32::from),
        redirect_code: filter.status_code.unwrap_or(302),
        ..Default::default()
    };
    if made.port.is_none() {
        made.derive_port = Some(if made.scheme.is_empty() {
            RedirectPortSelection::FromRequestPort
        } else {
            RedirectPortSelection::FromProtocolDefault
        });
    }
    match filter.path.as_ref().map(replacement) {
        Some(Replacement::Whole(path)) => made.uri = path,
        Some(Replacement::Prefix(path)) => made.prefix_rewrite = path,
        None => {}
    }
    made
}

fn rewrite(filter: &HTTPURLRewriteFilter, prefix: &str) -> HttpRewrite {
    let mut made =
        HttpRewrite { authority: filter.hostname.clone().unwrap_or_default(), ..Default::default() };
    let by_expression =
        |expression: String, rewrite: String| Some(RegexRewrite { r#match: expression, rewrite });
    match filter.path.as_ref().map(replacement) {
        Some(Replacement::Whole(path)) => made.uri_regex_rewrite = by_expression("/.*".to_owned(), path),
        Some(Replacement::Prefix(path)) => {
            let (from, to) = (prefix.trim_end_matches('/'), path.trim_end_matches('/'));
            if from.is_empty() || to.is_empty() {
                // Slashes must neither double nor vanish where one of the two ends in nothing.
                let from = regex_escape(from);
                made.uri_regex_rewrite = by_expression(format!("^{from}/*"), format!("{to}/"));
            } else {
                made.uri = to.to_owned();
            }
        }
        None => {}
    }
    made
}

/// Puts a backslash before what an expression would take for more than itself.
fn regex_escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if r"\.+*?()|[]{}^$".contains(character) {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

enum Replacement {
    Whole(String),
    Prefix(String),
}

fn replacement(path: &HTTPPathModifier) -> Replacement {
    let full = path.replace_full_path.clone();
    match (path.kind.as_str(), full) {
        ("ReplaceFullPath", Some(full)) => Replacement::Whole(full),
        _ => Replacement::Prefix(path.replace_prefix_match.clone().unwrap_or_default()),
    }
}

fn mirror(filter: &HTTPRequestMirrorFilter, backends: &Backends<'_>) -> Result<HttpMirrorPolicy, Unusable> {
    let reference = &filter.backend_ref;
    let destination = backends.destination(
        (reference.group.as_deref(), reference.kind.as_deref()),
        reference.namespace.as_deref(),
        &reference.name,
        reference.port,
    )?;
    let share = match (&filter.fraction, filter.percent) {
        (Some(fraction), _) => {
            100.0 * f64::from(fraction.numerator) / f64::from(fraction.denominator.unwrap_or(100).max(1))
        }
        (None, Some(percent)) => f64::from(percent),
        (None, None) => 100.0,
    };
    Ok(HttpMirrorPolicy { destination, percentage: Some(Percent { value: Double(share) }) })
}

fn cors(filter: &HTTPCORSFilter) -> CorsPolicy {
    let origin = |origin: &String| {
        if origin == "*" {
            regex(".*".to_owned())
        } else if origin.contains('*') {
            regex(origin.split('*').map(regex_escape).collect::<Vec<_>>().join(".*"))
        } else {
            exact(origin.clone())
        }
    };
    CorsPolicy {
        allow_origins: filter.allow_origins.iter().map(origin).collect(),
        allow_methods: filter.allow_methods.clone(),
        allow_headers: filter.allow_headers.clone(),
        expose_headers: filter.expose_headers.clone(),
        max_age: Some(Duration::from_secs(filter.max_age.unwrap_or(5).max(0) as u64)),
        allow_credentials: filter.allow_credentials,
        ..Default::default()
    }
}

// === tries ===

fn retries(rule: &HTTPRouteRule) -> Option<HttpRetry> {
    let retry = rule.retry.as_ref()?;
    let mut conditions: Vec<String> = vec!["connect-failure".to_owned(), "refused-stream".to_owned()];
    conditions.extend(["unavailable", "cancelled"].map(str::to_owned));
    conditions.extend(retry.codes.iter().map(u32::to_string));
    Some(HttpRetry {
        attempts: retry.attempts.unwrap_or(1),
        per_try_timeout: rule.timeouts.as_ref().and_then(|timeouts| timeouts.backend_request),
        retry_on: conditions.join(","),
        backoff: retry.backoff,
        ..Default::default()
    })
}
