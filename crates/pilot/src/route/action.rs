//! What is done with a request that matched.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use lateen_api::networking::{
    CorsPolicy, Destination, FaultAbort, FaultDelay, GRPC_STATUS_NAMES, HeaderOperations, HttpDirectResponse,
    HttpFaultInjection, HttpRedirect, HttpRetry, HttpRoute, LoadBalancerSettings, Percent,
    RedirectPortSelection, StringMatch, UnmatchedPreflights,
};

use super::matching;
use crate::proto::{self, core, ext, matcher, route, to_any};
use route::route_action::{ClusterSpecifier, HostRewriteSpecifier};

/// Name of the filter in whose name faults are given.
pub(crate) const FAULT: &str = "envoy.filters.http.fault";
/// Name of the filter in whose name cross-origin policies are given.
pub(crate) const CORS: &str = "envoy.filters.http.cors";

/// Istio's retries where nobody asks for others.
const DEFAULT_RETRIES: &str = "connect-failure,refused-stream,unavailable,cancelled,503";

/// Forwarding to one cluster, without a limit of time.
pub(super) fn to_cluster(cluster: String) -> route::RouteAction {
    route::RouteAction {
        timeout: Some(proto::duration(Duration::ZERO)),
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster)),
        ..Default::default()
    }
}

/// Forwarding as an HTTP route says. Header operations of a single destination go to `message`.
pub(super) fn forward(
    http: &HttpRoute,
    path: Option<&StringMatch>,
    default_retries: Option<&HttpRetry>,
    cluster: &impl Fn(&Destination) -> String,
    hashes: &BTreeMap<String, LoadBalancerSettings>,
    message: &mut route::Route,
) -> route::RouteAction {
    let mut action = to_cluster(String::new());
    let hashed = http.route.iter().filter_map(|route| hashes.get(&cluster(&route.destination)));
    for policy in hashed.filter_map(|hash| crate::cluster::hash_policy(Some(hash))) {
        if !action.hash_policy.contains(&policy) {
            action.hash_policy.push(policy);
        }
    }
    let weighted: Vec<_> = match &http.route[..] {
        [only] => vec![only],
        several => several.iter().filter(|route| route.weight > 0).collect(),
    };
    if let [only] = weighted[..] {
        action.cluster_specifier = Some(ClusterSpecifier::Cluster(cluster(&only.destination)));
        if let Some(headers) = &only.headers {
            request_headers(headers.request.as_ref(), message, Some(&mut action));
            response_headers(headers.response.as_ref(), message);
        }
    } else {
        let clusters = weighted.iter().map(|route| {
            let mut part = route::weighted_cluster::ClusterWeight {
                name: cluster(&route.destination),
                weight: Some(route.weight as u32),
                ..Default::default()
            };
            if let Some(headers) = &route.headers {
                part.request_headers_to_add = added(headers.request.as_ref());
                part.request_headers_to_remove = removed(headers.request.as_ref());
                part.response_headers_to_add = added(headers.response.as_ref());
                part.response_headers_to_remove = removed(headers.response.as_ref());
                part.host_rewrite_specifier = host_set(headers.request.as_ref())
                    .map(route::weighted_cluster::cluster_weight::HostRewriteSpecifier::HostRewriteLiteral);
            }
            part
        });
        action.cluster_specifier = Some(ClusterSpecifier::WeightedClusters(route::WeightedCluster {
            clusters: clusters.collect(),
            ..Default::default()
        }));
    }
    if let Some(headers) = &http.headers {
        request_headers(headers.request.as_ref(), message, Some(&mut action));
        response_headers(headers.response.as_ref(), message);
    }
    if let Some(timeout) = http.timeout {
        action.timeout = Some(proto::duration(timeout.get()));
    }
    action.retry_policy = retries(http.retries.as_ref(), default_retries);
    rewrite(http, path, &mut action);
    mirrors(http, cluster, &mut action);
    action
}

/// Retries as the route, else the mesh, else Istio's default has them; `None` where there are to be none.
pub(super) fn retries(asked: Option<&HttpRetry>, default: Option<&HttpRetry>) -> Option<route::RetryPolicy> {
    let fallback = HttpRetry { attempts: 2, ..HttpRetry::default() };
    let policy = asked.or(default).unwrap_or(&fallback);
    if policy.attempts <= 0 {
        return None;
    }
    let asked_on = if policy.retry_on.is_empty() { DEFAULT_RETRIES } else { &policy.retry_on };
    let (mut conditions, mut codes) = (Vec::new(), Vec::new());
    for condition in asked_on.split(',').map(str::trim).filter(|condition| !condition.is_empty()) {
        match condition.parse::<u32>() {
            Ok(code) => codes.push(code),
            Err(_) => conditions.push(condition),
        }
    }
    if !codes.is_empty() && !conditions.contains(&"retriable-status-codes") {
        conditions.push("retriable-status-codes");
    }
    let avoid_previous = policy.retry_ignore_previous_hosts.unwrap_or(true);
    Some(route::RetryPolicy {
        retry_on: conditions.join(","),
        num_retries: Some(policy.attempts as u32),
        per_try_timeout: policy.per_try_timeout.map(|timeout| proto::duration(timeout.get())),
        retry_host_predicate: if avoid_previous { vec![previous_hosts()] } else { Vec::new() },
        retry_priority: (policy.retry_remote_localities == Some(true)).then(previous_priorities),
        host_selection_retry_max_attempts: if avoid_previous { 5 } else { 0 },
        retriable_status_codes: codes,
        retry_back_off: policy.backoff.map(|interval| route::retry_policy::RetryBackOff {
            base_interval: Some(proto::duration(interval.get())),
            ..Default::default()
        }),
        ..Default::default()
    })
}

fn previous_hosts() -> route::retry_policy::RetryHostPredicate {
    route::retry_policy::RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
        config_type: Some(route::retry_policy::retry_host_predicate::ConfigType::TypedConfig(to_any(
            &ext::retry::host::previous_hosts::v3::PreviousHostsPredicate::default(),
        ))),
    }
}

/// Localities that failed are left for others. Two tries in each, as Istio has it.
fn previous_priorities() -> route::retry_policy::RetryPriority {
    let config =
        ext::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig { update_frequency: 2 };
    route::retry_policy::RetryPriority {
        name: "envoy.retry_priorities.previous_priorities".to_owned(),
        config_type: Some(route::retry_policy::retry_priority::ConfigType::TypedConfig(to_any(&config))),
    }
}

fn rewrite(http: &HttpRoute, path: Option<&StringMatch>, action: &mut route::RouteAction) {
    let Some(rewrite) = &http.rewrite else { return };
    if !rewrite.authority.is_empty() {
        action.host_rewrite_specifier =
            Some(HostRewriteSpecifier::HostRewriteLiteral(rewrite.authority.clone()));
    }
    let replace = |pattern: &str, substitution: &str| matcher::RegexMatchAndSubstitute {
        pattern: Some(matching::regex(pattern)),
        substitution: substitution.to_owned(),
    };
    if let Some(regex) = &rewrite.uri_regex_rewrite {
        action.regex_rewrite = Some(replace(&regex.r#match, &regex.rewrite));
    } else if !rewrite.uri.is_empty() {
        // A regular expression has no prefix to take away: what it matched is replaced.
        match path.and_then(|path| path.regex.as_ref()) {
            Some(regex) => action.regex_rewrite = Some(replace(regex, &rewrite.uri)),
            None => action.prefix_rewrite.clone_from(&rewrite.uri),
        }
    }
}

fn mirrors(http: &HttpRoute, cluster: &impl Fn(&Destination) -> String, action: &mut route::RouteAction) {
    let mut add = |destination: &Destination, percentage: f64| {
        if percentage > 0.0 {
            action.request_mirror_policies.push(route::route_action::RequestMirrorPolicy {
                cluster: cluster(destination),
                runtime_fraction: Some(core::RuntimeFractionalPercent {
                    default_value: Some(proto::percent(percentage)),
                    ..Default::default()
                }),
                ..Default::default()
            });
        }
    };
    if let Some(mirror) = &http.mirror {
        let whole = http.mirror_percent.map(f64::from);
        add(
            mirror,
            http.mirror_percentage.as_ref().map(|percent| percent.value.0).or(whole).unwrap_or(100.0),
        );
    }
    for mirror in &http.mirrors {
        add(&mirror.destination, mirror.percentage.as_ref().map_or(100.0, |percent| percent.value.0));
    }
}

// === headers ===

fn is_host(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority")
}

fn host_set(operations: Option<&HeaderOperations>) -> Option<String> {
    operations?.set.iter().find(|(name, _)| is_host(name)).map(|(_, value)| value.clone())
}

fn added(operations: Option<&HeaderOperations>) -> Vec<core::HeaderValueOption> {
    use core::header_value_option::HeaderAppendAction;
    let Some(operations) = operations else { return Vec::new() };
    let option = |(name, value): (&String, &String), action: HeaderAppendAction| core::HeaderValueOption {
        header: Some(core::HeaderValue { key: name.clone(), value: value.clone(), ..Default::default() }),
        append_action: action as i32,
        ..Default::default()
    };
    let set = operations.set.iter().filter(|(name, _)| !is_host(name));
    let set = set.map(|header| option(header, HeaderAppendAction::OverwriteIfExistsOrAdd));
    let add = operations.add.iter().filter(|(name, _)| !is_host(name));
    set.chain(add.map(|header| option(header, HeaderAppendAction::AppendIfExistsOrAdd))).collect()
}

fn removed(operations: Option<&HeaderOperations>) -> Vec<String> {
    operations.map(|operations| operations.remove.clone()).unwrap_or_default()
}

fn request_headers(
    operations: Option<&HeaderOperations>,
    message: &mut route::Route,
    action: Option<&mut route::RouteAction>,
) {
    message.request_headers_to_add.extend(added(operations));
    message.request_headers_to_remove.extend(removed(operations));
    if let (Some(host), Some(action)) = (host_set(operations), action) {
        action.host_rewrite_specifier = Some(HostRewriteSpecifier::HostRewriteLiteral(host));
    }
}

fn response_headers(operations: Option<&HeaderOperations>, message: &mut route::Route) {
    message.response_headers_to_add.extend(added(operations));
    message.response_headers_to_remove.extend(removed(operations));
}

// === other actions ===

pub(super) fn redirect(redirect: &HttpRedirect, port: u16) -> route::RedirectAction {
    use route::redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier};
    let code = match redirect.redirect_code {
        302 => RedirectResponseCode::Found,
        303 => RedirectResponseCode::SeeOther,
        307 => RedirectResponseCode::TemporaryRedirect,
        308 => RedirectResponseCode::PermanentRedirect,
        _ => RedirectResponseCode::MovedPermanently,
    };
    let path = if !redirect.uri.is_empty() {
        Some(PathRewriteSpecifier::PathRedirect(redirect.uri.clone()))
    } else if !redirect.prefix_rewrite.is_empty() {
        Some(PathRewriteSpecifier::PrefixRewrite(redirect.prefix_rewrite.clone()))
    } else {
        None
    };
    let from_request = redirect.derive_port == Some(RedirectPortSelection::FromRequestPort);
    let derived = if from_request { Some(u32::from(port)) } else { None };
    route::RedirectAction {
        host_redirect: redirect.authority.clone(),
        port_redirect: redirect.port.or(derived).unwrap_or(0),
        response_code: code as i32,
        scheme_rewrite_specifier: (!redirect.scheme.is_empty())
            .then(|| SchemeRewriteSpecifier::SchemeRedirect(redirect.scheme.clone())),
        path_rewrite_specifier: path,
        ..Default::default()
    }
}

pub(super) fn direct_response(response: &HttpDirectResponse) -> route::DirectResponseAction {
    use core::data_source::Specifier;
    let body = response.body.as_ref().and_then(|body| match (&body.string, &body.bytes) {
        (Some(text), _) => Some(Specifier::InlineString(text.clone())),
        (None, Some(encoded)) => base64::engine::general_purpose::STANDARD
            .decode(encoded)
            .ok()
            .map(|bytes| Specifier::InlineBytes(bytes.into())),
        (None, None) => None,
    });
    route::DirectResponseAction {
        status: response.status,
        body: body.map(|specifier| core::DataSource { specifier: Some(specifier), ..Default::default() }),
        ..Default::default()
    }
}

// === filters' settings for a route ===

/// Faults and cross-origin policy: both are settings of filters, whatever the route does.
pub(super) fn filters(http: &HttpRoute, message: &mut route::Route) {
    if let Some(fault) = http.fault.as_ref().and_then(fault) {
        message.typed_per_filter_config.insert(FAULT.to_owned(), to_any(&fault));
    }
    if let Some(policy) = &http.cors_policy {
        message.typed_per_filter_config.insert(CORS.to_owned(), to_any(&cors(policy)));
    }
}

fn percentage(percent: Option<&Percent>, whole: i32) -> f64 {
    match percent {
        Some(percent) => percent.value.0,
        None if whole > 0 => f64::from(whole),
        None => 100.0,
    }
}

fn fault(fault: &HttpFaultInjection) -> Option<ext::filters::http::fault::v3::HttpFault> {
    let delay = fault.delay.as_ref().and_then(delay);
    let abort = fault.abort.as_ref().and_then(abort);
    (delay.is_some() || abort.is_some()).then(|| ext::filters::http::fault::v3::HttpFault {
        delay,
        abort,
        ..Default::default()
    })
}

fn delay(delay: &FaultDelay) -> Option<ext::filters::common::fault::v3::FaultDelay> {
    use ext::filters::common::fault::v3::fault_delay::FaultDelaySecifier;
    let fixed = delay.fixed_delay?;
    Some(ext::filters::common::fault::v3::FaultDelay {
        percentage: Some(proto::percent(percentage(delay.percentage.as_ref(), delay.percent))),
        fault_delay_secifier: Some(FaultDelaySecifier::FixedDelay(proto::duration(fixed.get()))),
    })
}

fn abort(abort: &FaultAbort) -> Option<ext::filters::http::fault::v3::FaultAbort> {
    use ext::filters::http::fault::v3::fault_abort::ErrorType;
    let error = match (&abort.http_status, &abort.grpc_status) {
        (Some(status), _) => ErrorType::HttpStatus(*status as u32),
        (None, Some(status)) => ErrorType::GrpcStatus(grpc_status(status)?),
        (None, None) => return None,
    };
    Some(ext::filters::http::fault::v3::FaultAbort {
        percentage: Some(proto::percent(percentage(abort.percentage.as_ref(), 0))),
        error_type: Some(error),
        ..Default::default()
    })
}

/// The number of a gRPC status name.
fn grpc_status(name: &str) -> Option<u32> {
    GRPC_STATUS_NAMES.iter().position(|known| *known == name).map(|index| index as u32)
}

fn cors(policy: &CorsPolicy) -> ext::filters::http::cors::v3::CorsPolicy {
    let exact = |origin: &String| matcher::StringMatcher {
        match_pattern: Some(matcher::string_matcher::MatchPattern::Exact(origin.clone())),
        ..Default::default()
    };
    let origins = policy.allow_origins.iter().map(matching::string_match);
    ext::filters::http::cors::v3::CorsPolicy {
        allow_origin_string_match: origins.chain(policy.allow_origin.iter().map(exact)).collect(),
        allow_methods: policy.allow_methods.join(","),
        allow_headers: policy.allow_headers.join(","),
        expose_headers: policy.expose_headers.join(","),
        max_age: policy.max_age.map(|age| age.get().as_secs().to_string()).unwrap_or_default(),
        allow_credentials: policy.allow_credentials,
        forward_not_matching_preflights: match policy.unmatched_preflights {
            UnmatchedPreflights::Unspecified => None,
            UnmatchedPreflights::Forward => Some(true),
            UnmatchedPreflights::Ignore => Some(false),
        },
        filter_enabled: Some(core::RuntimeFractionalPercent {
            default_value: Some(proto::percent(100.0)),
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_policies() {
        let of = |attempts, retry_on: &str| HttpRetry {
            attempts,
            retry_on: retry_on.into(),
            ..HttpRetry::default()
        };
        for (name, asked, expected) in [
            (
                "default",
                None,
                Some((
                    "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
                    2,
                    vec![503],
                )),
            ),
            ("none", Some(of(0, "")), None),
            ("own", Some(of(3, "5xx, gateway-error")), Some(("5xx,gateway-error", 3, vec![]))),
            ("codes", Some(of(1, "404,reset")), Some(("reset,retriable-status-codes", 1, vec![404]))),
        ] {
            let made = retries(asked.as_ref(), None);
            let seen = made.as_ref().map(|policy| {
                (
                    policy.retry_on.as_str(),
                    policy.num_retries.unwrap_or(0),
                    policy.retriable_status_codes.clone(),
                )
            });
            assert_eq!(seen, expected, "{name}");
        }
    }

    #[test]
    fn percentages_are_millionths() {
        assert_eq!(proto::percent(0.1).numerator, 1000);
        assert_eq!(proto::percent(100.0).numerator, 1_000_000);
    }
}
