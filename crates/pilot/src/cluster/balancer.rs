//! Which endpoint is chosen, and when one is set aside: `loadBalancer` and `outlierDetection`.

use lateen_api::networking::{
    BackendUtilization, ConsistentHash, LoadBalancerSettings, OutlierDetection, SimpleLoadBalancer,
};

use super::draft::Draft;
use crate::preference::Preference;
use crate::proto::{self, cluster, core, ext, kind, route};
use cluster::cluster::{LbConfig, LbPolicy};

pub(super) fn apply(draft: &mut Draft, settings: Option<&LoadBalancerSettings>) {
    use SimpleLoadBalancer::{LeastConn, LeastRequest, Passthrough, Random, RoundRobin, Unspecified};
    draft.common_lb();
    let simple = settings.and_then(|settings| settings.simple).unwrap_or_default();
    let policy = match simple {
        RoundRobin => LbPolicy::RoundRobin,
        Random => LbPolicy::Random,
        Unspecified | LeastConn | LeastRequest | Passthrough => LbPolicy::LeastRequest,
    };
    draft.message.lb_policy = policy as i32;
    draft.message.lb_config = settings.and_then(slow_start).and_then(|slow_start| match policy {
        LbPolicy::RoundRobin => Some(LbConfig::RoundRobinLbConfig(cluster::cluster::RoundRobinLbConfig {
            slow_start_config: Some(slow_start),
        })),
        LbPolicy::LeastRequest => {
            Some(LbConfig::LeastRequestLbConfig(cluster::cluster::LeastRequestLbConfig {
                slow_start_config: Some(slow_start),
                ..Default::default()
            }))
        }
        _ => None,
    });
    if let Some(hash) = settings.and_then(|settings| settings.consistent_hash.as_ref()) {
        consistent_hash(draft, hash);
    }
    if let Some(reports) = settings.and_then(|settings| settings.backend_utilization.as_ref()) {
        by_utilization(draft, reports);
    }
}

fn slow_start(settings: &LoadBalancerSettings) -> Option<cluster::cluster::SlowStartConfig> {
    let window = |value: lateen_api::Duration| (!value.is_zero()).then(|| proto::duration(value.get()));
    let Some(warmup) = &settings.warmup else {
        return Some(cluster::cluster::SlowStartConfig {
            slow_start_window: Some(window(settings.warmup_duration_secs?)?),
            ..Default::default()
        });
    };
    // Istio's defaults, which are Envoy's: linear growth from a tenth on.
    let aggression = warmup.aggression.map_or(1.0, |value| value.0);
    let minimum = warmup.minimum_percent.map_or(10.0, |value| value.0);
    Some(cluster::cluster::SlowStartConfig {
        slow_start_window: Some(window(warmup.duration?)?),
        aggression: Some(core::RuntimeDouble {
            default_value: aggression,
            runtime_key: "aggression".to_owned(),
        }),
        min_weight_percent: Some(kind::Percent { value: minimum }),
    })
}

fn consistent_hash(draft: &mut Draft, hash: &ConsistentHash) {
    use cluster::cluster::{MaglevLbConfig, RingHashLbConfig};
    let ring = |size: u64| {
        LbConfig::RingHashLbConfig(RingHashLbConfig { minimum_ring_size: Some(size), ..Default::default() })
    };
    let (policy, config) = match (&hash.maglev, &hash.ring_hash) {
        (Some(maglev), _) => (
            LbPolicy::Maglev,
            (maglev.table_size > 0)
                .then_some(LbConfig::MaglevLbConfig(MaglevLbConfig { table_size: Some(maglev.table_size) })),
        ),
        (None, Some(settings)) => {
            (LbPolicy::RingHash, (settings.minimum_ring_size > 0).then(|| ring(settings.minimum_ring_size)))
        }
        (None, None) => {
            let size = if hash.minimum_ring_size > 0 { hash.minimum_ring_size } else { 1024 };
            (LbPolicy::RingHash, Some(ring(size)))
        }
    };
    draft.message.lb_policy = policy as i32;
    draft.message.lb_config = config;
}

/// Weights by the load that endpoints report with their answers (ORCA).
fn by_utilization(draft: &mut Draft, reports: &BackendUtilization) {
    use ext::load_balancing_policies::client_side_weighted_round_robin::v3::ClientSideWeightedRoundRobin;
    let duration = |value: Option<lateen_api::Duration>| value.map(|value| proto::duration(value.get()));
    let config = ClientSideWeightedRoundRobin {
        blackout_period: duration(reports.weight_stabilization_period),
        weight_expiration_period: duration(reports.weight_expiration_period),
        weight_update_period: duration(reports.weight_update_period),
        error_utilization_penalty: reports
            .error_utilization_penalty_percent
            .map(|percent| percent as f32 / 100.0),
        metric_names_for_computing_utilization: reports.metric_names_for_computing_utilization.clone(),
        ..Default::default()
    };
    draft.message.lb_policy = LbPolicy::RoundRobin as i32;
    draft.message.lb_config = None;
    draft.message.load_balancing_policy = Some(cluster::LoadBalancingPolicy {
        policies: vec![cluster::load_balancing_policy::Policy {
            typed_extension_config: Some(core::TypedExtensionConfig {
                name: "envoy.load_balancing_policies.client_side_weighted_round_robin".to_owned(),
                typed_config: Some(proto::to_any(&config)),
            }),
        }],
    });
}

/// What a route hashes so that like requests meet the same endpoint (`consistentHash`).
pub(crate) fn hash_policy(
    settings: Option<&LoadBalancerSettings>,
) -> Option<route::route_action::HashPolicy> {
    use route::route_action::hash_policy::{
        ConnectionProperties, Cookie, CookieAttribute, Header, PolicySpecifier, QueryParameter,
    };
    let hash = settings?.consistent_hash.as_ref()?;
    let specifier = if let Some(header_name) = &hash.http_header_name {
        PolicySpecifier::Header(Header { header_name: header_name.clone(), ..Default::default() })
    } else if let Some(cookie) = &hash.http_cookie {
        PolicySpecifier::Cookie(Cookie {
            name: cookie.name.clone(),
            ttl: cookie.ttl.map(|ttl| proto::duration(ttl.get())),
            path: cookie.path.clone(),
            attributes: cookie
                .attributes
                .iter()
                .map(|attribute| CookieAttribute {
                    name: attribute.name.clone(),
                    value: attribute.value.clone(),
                })
                .collect(),
        })
    } else if let Some(source_ip) = hash.use_source_ip {
        PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip })
    } else {
        let name = hash.http_query_parameter_name.clone()?;
        PolicySpecifier::QueryParameter(QueryParameter { name })
    };
    Some(route::route_action::HashPolicy { policy_specifier: Some(specifier), ..Default::default() })
}

/// How localities count.
pub(super) fn localities(draft: &mut Draft, preference: Option<&Preference>) {
    use cluster::cluster::common_lb_config::{
        LocalityConfigSpecifier, LocalityWeightedLbConfig, ZoneAwareLbConfig,
    };
    let Some(preference) = preference else { return };
    if let Some(least) = preference.zone_aware() {
        draft.common_lb().locality_config_specifier =
            Some(LocalityConfigSpecifier::ZoneAwareLbConfig(ZoneAwareLbConfig {
                min_cluster_size: least.map(u64::from),
                ..Default::default()
            }));
    } else if preference.weighs_localities() {
        draft.common_lb().locality_config_specifier =
            Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(LocalityWeightedLbConfig {}));
    }
}

pub(super) fn outlier_detection(draft: &mut Draft, settings: Option<&OutlierDetection>) {
    let Some(settings) = settings else { return };
    let duration = |value: Option<lateen_api::Duration>| value.map(|value| proto::duration(value.get()));
    let mut outlier = cluster::OutlierDetection {
        interval: duration(settings.interval),
        base_ejection_time: duration(settings.base_ejection_time),
        // Success rate is no part of Istio's API, and would eject by surprise.
        enforcing_success_rate: Some(0),
        split_external_local_origin_errors: settings.split_external_local_origin_errors,
        ..Default::default()
    };
    let enforced = |errors: u32| Some(if errors > 0 { 100 } else { 0 });
    // The old form counts where the new one says nothing.
    let old = (settings.consecutive_errors > 0).then_some(settings.consecutive_errors as u32);
    if let Some(errors) = settings.consecutive_5xx_errors.or(old) {
        outlier.consecutive_5xx = Some(errors);
        outlier.enforcing_consecutive_5xx = enforced(errors);
    }
    if let Some(errors) = settings.consecutive_gateway_errors {
        outlier.consecutive_gateway_failure = Some(errors);
        outlier.enforcing_consecutive_gateway_failure = enforced(errors);
    }
    if settings.split_external_local_origin_errors {
        if let Some(errors) = settings.consecutive_local_origin_failures {
            outlier.consecutive_local_origin_failure = Some(errors);
            outlier.enforcing_consecutive_local_origin_failure = enforced(errors);
        }
        outlier.enforcing_local_origin_success_rate = Some(0);
    }
    if settings.max_ejection_percent > 0 {
        outlier.max_ejection_percent = Some(settings.max_ejection_percent as u32);
    }
    draft.message.outlier_detection = Some(outlier);
    if !settings.outlier_detection_http_error_codes.is_empty() {
        error_codes(draft, &settings.outlier_detection_http_error_codes);
    }
    // Ejection and panic are at odds; Istio turns panic off unless the user asks for it.
    let threshold = kind::Percent { value: f64::from(settings.min_health_percent.max(0)) };
    draft.common_lb().healthy_panic_threshold = Some(threshold);
}

/// Which answers count as errors, in place of 5xx.
fn error_codes(draft: &mut Draft, codes: &[u32]) {
    use lateen_envoy::envoy::config::common::matcher::v3 as predicate;
    let one = |code: &u32| predicate::MatchPredicate {
        rule: Some(predicate::match_predicate::Rule::HttpResponseHeadersMatch(predicate::HttpHeadersMatch {
            headers: vec![route::HeaderMatcher {
                name: ":status".to_owned(),
                header_match_specifier: Some(route::header_matcher::HeaderMatchSpecifier::StringMatch(
                    proto::matcher::StringMatcher {
                        match_pattern: Some(proto::matcher::string_matcher::MatchPattern::Exact(
                            code.to_string(),
                        )),
                        ..Default::default()
                    },
                )),
                ..Default::default()
            }],
        })),
    };
    let mut rules: Vec<_> = codes.iter().map(one).collect();
    let matcher = if rules.len() == 1 {
        rules.pop()
    } else {
        let any = predicate::match_predicate::Rule::OrMatch(predicate::match_predicate::MatchSet { rules });
        Some(predicate::MatchPredicate { rule: Some(any) })
    };
    draft.options().outlier_detection =
        Some(ext::upstreams::http::v3::http_protocol_options::OutlierDetection { error_matcher: matcher });
}
