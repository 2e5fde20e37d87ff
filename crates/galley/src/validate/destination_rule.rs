//! DestinationRule: subsets and policies.

use lateen_api::networking::{
    ClientTlsMode, ClientTlsSettings, ConnectionPoolSettings, DestinationRule, LoadBalancerSettings,
    LocalityLoadBalancerSetting, OutlierDetection, PortTrafficPolicy, SimpleLoadBalancer, TrafficPolicy,
};

use super::Context;
use super::names::{self, is_dns_label};
use crate::Verdict;

pub(super) fn judge(rule: &DestinationRule, context: &Context<'_>, verdict: &mut Verdict) {
    names::wildcard_host("spec.host", &rule.host, verdict);
    if let Some(policy) = &rule.traffic_policy {
        traffic_policy("spec.trafficPolicy", policy, verdict);
    }
    for (index, subset) in rule.subsets.iter().enumerate() {
        let path = format!("spec.subsets[{index}]");
        if !is_dns_label(&subset.name) {
            verdict.error(
                format!("{path}.name"),
                format!("{:?} is not a subset name", subset.name),
                "letters, digits and hyphens",
            );
        }
        if rule.subsets[..index].iter().any(|earlier| earlier.name == subset.name) {
            verdict.error(
                format!("{path}.name"),
                format!("{:?} is defined twice", subset.name),
                "rename one",
            );
        }
        names::labels(&format!("{path}.labels"), &subset.labels, verdict);
        if let Some(policy) = &subset.traffic_policy {
            traffic_policy(&format!("{path}.trafficPolicy"), policy, verdict);
        }
    }
    names::export_to("spec.exportTo", &rule.export_to, context.namespace, false, verdict);
    if let Some(selector) = &rule.workload_selector {
        names::empty_selector("spec.workloadSelector", &selector.match_labels, "", verdict);
        let own = |entry: &String| entry == "." || entry == context.namespace;
        if !rule.export_to.iter().all(own) {
            verdict.error(
                "spec.exportTo",
                "a rule with workloadSelector is for its own namespace",
                "write .",
            );
        }
        names::selector_labels("spec.workloadSelector.matchLabels", &selector.match_labels, verdict);
    }
}

pub(crate) fn traffic_policy(path: &str, policy: &TrafficPolicy, verdict: &mut Verdict) {
    if *policy == TrafficPolicy::default() {
        verdict.error(path, "is empty", "leave it out or fill it");
    }
    parts(
        path,
        policy.load_balancer.as_ref(),
        policy.connection_pool.as_ref(),
        policy.outlier_detection.as_ref(),
        policy.tls.as_ref(),
        verdict,
    );
    for (index, settings) in policy.port_level_settings.iter().enumerate() {
        let path = format!("{path}.portLevelSettings[{index}]");
        port_policy(&path, settings, verdict);
        if policy.port_level_settings[..index].iter().any(|earlier| earlier.port == settings.port) {
            verdict.warn(format!("{path}.port"), "is listed twice", "put its settings together");
        }
    }
    if policy.tunnel.is_some() && policy.proxy_protocol.is_some() {
        verdict.error(path, "tunnel and proxyProtocol are set together", "leave one of them out");
    }
    if let Some(tunnel) = &policy.tunnel {
        let path = format!("{path}.tunnel");
        if !matches!(tunnel.protocol.as_str(), "" | "CONNECT" | "POST") {
            verdict.error(
                format!("{path}.protocol"),
                format!("{:?} is not known", tunnel.protocol),
                "CONNECT or POST",
            );
        }
        if tunnel.target_host.parse::<std::net::IpAddr>().is_err() {
            names::exact_host(&format!("{path}.targetHost"), &tunnel.target_host, verdict);
        }
        names::port(&format!("{path}.targetPort"), tunnel.target_port, verdict);
    }
}

fn port_policy(path: &str, settings: &PortTrafficPolicy, verdict: &mut Verdict) {
    match &settings.port {
        Some(port) if !(1..=65535).contains(&port.number) => {
            let message = format!("{} is not a port, so nothing has these settings", port.number);
            verdict.warn(format!("{path}.port.number"), message, "write a number from 1 to 65535");
        }
        Some(_) => {}
        None => verdict.error(format!("{path}.port"), "is missing", "name the port"),
    }
    let says = settings.load_balancer.is_some()
        || settings.connection_pool.is_some()
        || settings.outlier_detection.is_some()
        || settings.tls.is_some();
    if !says {
        verdict.error(path, "says nothing", "add loadBalancer, connectionPool, outlierDetection or tls");
    }
    parts(
        path,
        settings.load_balancer.as_ref(),
        settings.connection_pool.as_ref(),
        settings.outlier_detection.as_ref(),
        settings.tls.as_ref(),
        verdict,
    );
}

fn parts(
    path: &str,
    balancer: Option<&LoadBalancerSettings>,
    pool: Option<&ConnectionPoolSettings>,
    outlier: Option<&OutlierDetection>,
    tls: Option<&ClientTlsSettings>,
    verdict: &mut Verdict,
) {
    if let Some(balancer) = balancer {
        load_balancer(&format!("{path}.loadBalancer"), balancer, outlier, verdict);
    }
    if let Some(pool) = pool {
        connection_pool(&format!("{path}.connectionPool"), pool, verdict);
    }
    if let Some(outlier) = outlier {
        outlier_detection(&format!("{path}.outlierDetection"), outlier, verdict);
    }
    if let Some(tls) = tls {
        client_tls(&format!("{path}.tls"), tls, verdict);
    }
}

pub(crate) fn load_balancer(
    path: &str,
    settings: &LoadBalancerSettings,
    outlier: Option<&OutlierDetection>,
    verdict: &mut Verdict,
) {
    let warms_up = settings.warmup.is_some() || settings.warmup_duration_secs.is_some();
    if warms_up
        && (settings.consistent_hash.is_some()
            || matches!(settings.simple, Some(SimpleLoadBalancer::Random | SimpleLoadBalancer::Passthrough)))
    {
        verdict.warn(path, "only ROUND_ROBIN and LEAST_REQUEST let endpoints warm up", "");
    }
    if settings.warmup.is_some() && settings.warmup_duration_secs.is_some() {
        verdict.error(path, "warmup and warmupDurationSecs are set together", "use warmup");
    }
    names::positive(&format!("{path}.warmupDurationSecs"), settings.warmup_duration_secs, verdict);
    if let Some(warmup) = &settings.warmup {
        if warmup.duration.is_none() {
            verdict.error(format!("{path}.warmup.duration"), "is missing", "such as 60s");
        }
        names::positive(&format!("{path}.warmup.duration"), warmup.duration, verdict);
        if warmup.aggression.is_some_and(|value| value.0 < 1.0) {
            verdict.error(format!("{path}.warmup.aggression"), "is below 1", "1 is linear");
        }
    }
    if let Some(hash) = &settings.consistent_hash {
        let path = format!("{path}.consistentHash");
        if let Some(cookie) = &hash.http_cookie
            && cookie.name.is_empty()
        {
            verdict.error(format!("{path}.httpCookie.name"), "is empty", "name the cookie");
        }
        if hash.minimum_ring_size != 0 {
            verdict.warn(
                format!("{path}.minimumRingSize"),
                "is the old place",
                "use ringHash.minimumRingSize",
            );
            if hash.ring_hash.is_some() || hash.maglev.is_some() {
                verdict.error(
                    &path,
                    "minimumRingSize and an algorithm are set together",
                    "use the algorithm's",
                );
            }
        }
        if let Some(maglev) = &hash.maglev {
            if maglev.table_size == 0 {
                verdict.error(format!("{path}.maglev.tableSize"), "is missing", "a prime, such as 65537");
            } else if maglev.table_size >= 5_000_011 {
                verdict.error(format!("{path}.maglev.tableSize"), "is too large", "below 5000011");
            } else if !is_prime(maglev.table_size) {
                verdict.error(
                    format!("{path}.maglev.tableSize"),
                    format!("{} is not a prime", maglev.table_size),
                    "such as 65537",
                );
            }
        }
    }
    if let Some(locality) = &settings.locality_lb_setting {
        locality_setting(&format!("{path}.localityLbSetting"), locality, outlier.is_some(), verdict);
    }
}

fn is_prime(number: u64) -> bool {
    number >= 2
        && (2..)
            .take_while(|divisor| divisor * divisor <= number)
            .all(|divisor| !number.is_multiple_of(divisor))
}

pub(crate) fn locality_setting(
    path: &str,
    setting: &LocalityLoadBalancerSetting,
    ejects: bool,
    verdict: &mut Verdict,
) {
    let given = [!setting.distribute.is_empty(), !setting.failover.is_empty()];
    if given == [true, true] {
        verdict.error(path, "distribute and failover are set together", "leave one of them out");
    }
    if given[0] && !setting.failover_priority.is_empty() {
        verdict.error(path, "distribute and failoverPriority are set together", "leave one of them out");
    }
    if !ejects && (given[1] || !setting.failover_priority.is_empty()) {
        verdict.warn(path, "failover needs to know when endpoints fail", "add outlierDetection");
    }
    let of_topology = |label: &String| {
        let key = label.split('=').next().unwrap_or_default();
        TOPOLOGY_LABELS.contains(&key)
    };
    if given[1] && setting.failover_priority.iter().any(of_topology) {
        verdict.error(
            format!("{path}.failoverPriority"),
            "names regions or zones beside failover, which does so too",
            "leave one of them out",
        );
    }
    for (index, distribute) in setting.distribute.iter().enumerate() {
        let path = format!("{path}.distribute[{index}]");
        locality(&format!("{path}.from"), &distribute.from, verdict);
        let total: u64 = distribute.to.values().map(|weight| u64::from(*weight)).sum();
        if total != 100 {
            verdict.error(format!("{path}.to"), format!("the shares sum to {total}"), "they must sum to 100");
        }
        for (to, weight) in &distribute.to {
            let place = crate::check::join(&format!("{path}.to"), to);
            locality(&place, to, verdict);
            if *weight == 0 || *weight > 100 {
                verdict.error(place, format!("{weight} is not a share"), "from 1 to 100");
            }
        }
        for earlier in &setting.distribute[..index] {
            if overlap(&earlier.from, &distribute.from) {
                verdict.error(
                    format!("{path}.from"),
                    format!("{:?} overlaps {:?}", distribute.from, earlier.from),
                    "",
                );
            }
        }
        let targets: Vec<&String> = distribute.to.keys().collect();
        for (position, target) in targets.iter().enumerate() {
            if targets[..position].iter().any(|earlier| overlap(earlier, target)) {
                verdict.error(format!("{path}.to"), format!("{target:?} overlaps another locality"), "");
            }
        }
    }
    for (index, failover) in setting.failover.iter().enumerate() {
        let path = format!("{path}.failover[{index}]");
        for (name, region) in [("from", &failover.from), ("to", &failover.to)] {
            if region.contains('/') || region.contains('*') {
                verdict.error(
                    format!("{path}.{name}"),
                    format!("{region:?} is not a region"),
                    "write the region only",
                );
            }
        }
        if failover.from == failover.to {
            verdict.error(path, "a region fails over to itself", "name another region");
        }
    }
}

/// Labels that say where a workload is.
const TOPOLOGY_LABELS: &[&str] =
    &["topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"];

fn locality(path: &str, text: &str, verdict: &mut Verdict) {
    let mut parts = text.split('/');
    let wrong = text.is_empty()
        || text.split('/').count() > 3
        || text.split('/').any(str::is_empty)
        || (text.matches('*').count() > 1)
        || (text.contains('*') && parts.next_back() != Some("*"));
    if wrong {
        verdict.error(
            path,
            format!("{text:?} is not a locality"),
            "write region/zone/subzone, * only at the end",
        );
    }
}

/// Whether one locality holds the other.
fn overlap(left: &str, right: &str) -> bool {
    let (left, right): (Vec<&str>, Vec<&str>) = (left.split('/').collect(), right.split('/').collect());
    for (l, r) in left.iter().zip(&right) {
        if *l == "*" || *r == "*" {
            return true;
        }
        if l != r {
            return false;
        }
    }
    true
}

pub(crate) fn connection_pool(path: &str, pool: &ConnectionPoolSettings, verdict: &mut Verdict) {
    if pool.tcp.is_none() && pool.http.is_none() {
        verdict.error(path, "is empty", "add tcp or http");
    }
    let mut not_negative = |place: String, value: i32| {
        if value < 0 {
            verdict.error(place, format!("{value} is negative"), "write 0 or more");
        }
    };
    if let Some(http) = &pool.http {
        for (name, value) in [
            ("http1MaxPendingRequests", http.http1_max_pending_requests),
            ("http2MaxRequests", http.http2_max_requests),
            ("maxRequestsPerConnection", http.max_requests_per_connection),
            ("maxRetries", http.max_retries),
            ("maxConcurrentStreams", http.max_concurrent_streams),
        ] {
            not_negative(format!("{path}.http.{name}"), value);
        }
    }
    if let Some(tcp) = &pool.tcp {
        not_negative(format!("{path}.tcp.maxConnections"), tcp.max_connections);
    }
    if let Some(http) = &pool.http {
        names::positive(&format!("{path}.http.idleTimeout"), http.idle_timeout, verdict);
        if http.use_client_protocol
            && http.h2_upgrade_policy == lateen_api::networking::H2UpgradePolicy::Upgrade
        {
            verdict.error(
                format!("{path}.http"),
                "useClientProtocol and h2UpgradePolicy UPGRADE exclude each other",
                "leave one out",
            );
        }
        if let Some(keep_alive) = &http.http2_keep_alive {
            if keep_alive.interval.is_none() {
                verdict.error(format!("{path}.http.http2KeepAlive.interval"), "is missing", "such as 30s");
            }
            names::positive(&format!("{path}.http.http2KeepAlive.interval"), keep_alive.interval, verdict);
            names::positive(&format!("{path}.http.http2KeepAlive.timeout"), keep_alive.timeout, verdict);
        }
    }
    if let Some(tcp) = &pool.tcp {
        names::positive(&format!("{path}.tcp.connectTimeout"), tcp.connect_timeout, verdict);
        names::positive(&format!("{path}.tcp.maxConnectionDuration"), tcp.max_connection_duration, verdict);
        // 0 turns it off.
        let idle = tcp.idle_timeout.filter(|timeout| !timeout.is_zero());
        names::positive(&format!("{path}.tcp.idleTimeout"), idle, verdict);
        if let Some(keepalive) = &tcp.tcp_keepalive {
            names::positive(&format!("{path}.tcp.tcpKeepalive.time"), keepalive.time, verdict);
            names::positive(&format!("{path}.tcp.tcpKeepalive.interval"), keepalive.interval, verdict);
        }
    }
}

pub(crate) fn outlier_detection(path: &str, outlier: &OutlierDetection, verdict: &mut Verdict) {
    names::positive(&format!("{path}.interval"), outlier.interval, verdict);
    names::positive(&format!("{path}.baseEjectionTime"), outlier.base_ejection_time, verdict);
    for (name, value) in [
        ("maxEjectionPercent", outlier.max_ejection_percent),
        ("minHealthPercent", outlier.min_health_percent),
    ] {
        if !(0..=100).contains(&value) {
            verdict.error(format!("{path}.{name}"), format!("{value} is not a percentage"), "from 0 to 100");
        }
    }
    if outlier.consecutive_errors != 0 {
        verdict.warn(format!("{path}.consecutiveErrors"), "is the old name", "use consecutive5xxErrors");
    }
    if !outlier.split_external_local_origin_errors
        && outlier.consecutive_local_origin_failures.is_some_and(|n| n > 0)
    {
        verdict.error(
            format!("{path}.consecutiveLocalOriginFailures"),
            "needs splitExternalLocalOriginErrors",
            "set it to true",
        );
    }
}

pub(crate) fn client_tls(path: &str, tls: &ClientTlsSettings, verdict: &mut Verdict) {
    let files = [
        ("clientCertificate", &tls.client_certificate),
        ("privateKey", &tls.private_key),
        ("caCertificates", &tls.ca_certificates),
    ];
    if tls.insecure_skip_verify == Some(true) {
        for (given, name) in [
            (!tls.ca_certificates.is_empty(), "caCertificates"),
            (!tls.subject_alt_names.is_empty(), "subjectAltNames"),
            (!tls.credential_name.is_empty() && tls.mode == ClientTlsMode::Simple, "credentialName"),
        ] {
            if given && matches!(tls.mode, ClientTlsMode::Simple | ClientTlsMode::Mutual) {
                verdict.error(
                    path,
                    format!("insecureSkipVerify and {name} are set together"),
                    "leave one of them out",
                );
            }
        }
    }
    match tls.mode {
        ClientTlsMode::IstioMutual => {
            for (name, file) in
                files.iter().chain(&[("credentialName", &tls.credential_name), ("caCrl", &tls.ca_crl)])
            {
                if !file.is_empty() {
                    verdict.warn(
                        format!("{path}.{name}"),
                        "has no effect with ISTIO_MUTUAL",
                        "the mesh has its own certificates; leave it out",
                    );
                }
            }
        }
        ClientTlsMode::Mutual if tls.credential_name.is_empty() => {
            for (name, file) in &files[..2] {
                if file.is_empty() {
                    verdict.error(
                        format!("{path}.{name}"),
                        "is needed for MUTUAL",
                        "name the file, or set credentialName",
                    );
                }
            }
        }
        ClientTlsMode::Mutual | ClientTlsMode::Simple if !tls.credential_name.is_empty() => {
            for (name, file) in files.iter().chain(&[("caCrl", &tls.ca_crl)]) {
                if !file.is_empty() {
                    verdict.error(
                        format!("{path}.{name}"),
                        "and credentialName are set together",
                        "leave one of them out",
                    );
                }
            }
        }
        ClientTlsMode::Mutual | ClientTlsMode::Simple | ClientTlsMode::Disable => {}
    }
}
