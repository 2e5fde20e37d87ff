//! `/clusters`.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use http::StatusCode;
use lateen_base::admin::{Reply, text};
use lateen_dataplane::cluster::{Discovery, HealthFlags, Host, Member};
use lateen_dataplane::listener::Address;
use serde_json::{Value, json};

use super::{Query, Served, pattern, pretty};
use crate::state::ClusterHandle;

/// An address as Envoy's JSON has it.
pub(super) fn address_json(address: &Address) -> Value {
    match address {
        Address::Socket(address) => {
            json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
        }
        Address::Pipe(path) => json!({"pipe": {"path": path}}),
        other => json!(other.to_string()),
    }
}

impl Served {
    pub(super) fn clusters(&self, query: &Query) -> Reply {
        let filter = match pattern(query, "filter") {
            Ok(filter) => filter,
            Err(reply) => return reply,
        };
        let clusters = self.state.clusters.load();
        let mut handles: Vec<&Arc<ClusterHandle>> = clusters
            .values()
            .filter(|cluster| filter.as_ref().is_none_or(|filter| filter.is_match(&cluster.config.name)))
            .collect();
        handles.sort_by(|a, b| a.config.name.cmp(&b.config.name));
        let dynamic = {
            let manager = self.admin.manager.lock();
            let is_dynamic = |cluster: &&Arc<ClusterHandle>| {
                manager
                    .sources
                    .clusters
                    .get(&*cluster.config.name)
                    .is_some_and(|source| source.origin.is_dynamic())
            };
            handles.iter().map(is_dynamic).collect::<Vec<bool>>()
        };
        let all = handles.into_iter().zip(dynamic);
        if query.get("format").is_some_and(|format| format == "json") {
            let list: Vec<Value> = all.map(|(cluster, dynamic)| cluster_json(cluster, dynamic)).collect();
            return pretty(&json!({"cluster_statuses": list}));
        }
        let mut out = String::new();
        for (cluster, dynamic) in all {
            cluster_text(cluster, dynamic, &mut out);
        }
        text(StatusCode::OK, out)
    }
}

/// The limits of both priorities, by name.
fn limits(cluster: &ClusterHandle) -> [[(&'static str, u32); 4]; 2] {
    let breakers = &cluster.config.breakers;
    [&breakers.default, &breakers.high].map(|limits| {
        [
            ("max_connections", limits.connections),
            ("max_pending_requests", limits.pending),
            ("max_requests", limits.requests),
            ("max_retries", limits.retries),
        ]
    })
}

/// A number and its name.
type Named = (&'static str, u64);

/// The numbers of a host, by name: counters, then gauges.
fn numbers(host: &Host) -> ([Named; 6], [Named; 3]) {
    let counters = &host.counters;
    (
        [
            ("cx_connect_fail", counters.cx_connect_fail.load(Relaxed)),
            ("cx_total", counters.cx_total.load(Relaxed)),
            ("rq_error", counters.rq_error.load(Relaxed)),
            ("rq_success", counters.rq_success.load(Relaxed)),
            ("rq_timeout", counters.rq_timeout.load(Relaxed)),
            ("rq_total", counters.rq_total.load(Relaxed)),
        ],
        [
            ("cx_active", u64::from(counters.cx_active.load(Relaxed))),
            ("rq_active", u64::from(host.active.load(Relaxed))),
            ("rq_pending_active", u64::from(counters.rq_pending.load(Relaxed))),
        ],
    )
}

fn cluster_text(cluster: &ClusterHandle, dynamic: bool, out: &mut String) {
    let name = &cluster.config.name;
    let _ = writeln!(out, "{name}::observability_name::{}", cluster.config.stat_name);
    if let Some(outlier) = &cluster.outlier {
        for (local, prefix) in [(false, ""), (true, "local_origin_")] {
            let (mean, threshold) = outlier.rates.of(local).unwrap_or((-1.0, -1.0));
            let _ = writeln!(out, "{name}::outlier::{prefix}success_rate_average::{}", short(mean));
            let _ = writeln!(
                out,
                "{name}::outlier::{prefix}success_rate_ejection_threshold::{}",
                short(threshold)
            );
        }
    }
    for (priority, limits) in ["default", "high"].into_iter().zip(limits(cluster)) {
        for (limit, value) in limits {
            let _ = writeln!(out, "{name}::{priority}_priority::{limit}::{value}");
        }
    }
    let _ = writeln!(out, "{name}::added_via_api::{dynamic}");
    if let Some(service) = service_name(cluster) {
        let _ = writeln!(out, "{name}::eds_service_name::{service}");
    }
    let hosts = cluster.hosts.load();
    for (priority, members) in hosts.priorities.iter().enumerate() {
        for member in members {
            host_text(name, member, priority, out);
        }
    }
    for member in destinations(cluster) {
        host_text(name, &member, 0, out);
    }
}

/// The name under which endpoints are discovered, where that is not the cluster's.
fn service_name(cluster: &ClusterHandle) -> Option<&str> {
    match &cluster.config.discovery {
        Discovery::Endpoints(service) if *service != cluster.config.name => Some(service),
        _ => None,
    }
}

/// A number with six digits, as C's `%g` writes it.
fn short(number: f64) -> String {
    let digits = match number.abs() {
        size if size >= 1.0 => 5 - size.log10().floor() as i32,
        _ => 6,
    };
    let text = format!("{number:.*}", digits.clamp(0, 12) as usize);
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// A host's success rates: of answers, and of connections.
fn success_rates(host: &Host) -> [Option<f64>; 2] {
    [false, true].map(|local| host.monitor.as_ref().and_then(|monitor| monitor.success_rate(local)))
}

/// The hosts of a cluster of original destinations.
fn destinations(cluster: &ClusterHandle) -> Vec<Member> {
    let hosts: Vec<Arc<Host>> = cluster.destinations.lock().values().cloned().collect();
    let mut members: Vec<Member> = hosts.into_iter().map(Member::of).collect();
    members.sort_by(|left, right| left.host.text.cmp(&right.host.text));
    members
}

fn host_text(name: &str, member: &Member, priority: usize, out: &mut String) {
    let host = &member.host;
    let (counters, gauges) = numbers(host);
    let mut all: Vec<(&str, u64)> = counters.into_iter().chain(gauges).collect();
    all.sort_unstable();
    let prefix = format!("{name}::{}::", host.text);
    for (number, value) in all {
        let _ = writeln!(out, "{prefix}{number}::{value}");
    }
    let locality = &member.locality;
    let flags = host.flags().text();
    let [external, local] = success_rates(host).map(|rate| rate.unwrap_or(-1.0));
    let canary = member.host.canary;
    let _ = write!(
        out,
        "{prefix}hostname::{}\n{prefix}health_flags::{flags}\n{prefix}weight::{}\n{prefix}region::{}\n\
         {prefix}zone::{}\n{prefix}sub_zone::{}\n{prefix}canary::{canary}\n{prefix}priority::{priority}\n\
         {prefix}success_rate::{external}\n{prefix}local_origin_success_rate::{local}\n",
        host.hostname, member.weight, locality.region, locality.zone, locality.sub_zone
    );
}

fn cluster_json(cluster: &ClusterHandle, dynamic: bool) -> Value {
    let hosts = cluster.hosts.load();
    let mut statuses = Vec::new();
    for (priority, members) in hosts.priorities.iter().enumerate() {
        statuses.extend(members.iter().map(|member| host_json(member, priority)));
    }
    statuses.extend(destinations(cluster).iter().map(|member| host_json(member, 0)));
    let mut thresholds = Vec::new();
    for (priority, limits) in ["DEFAULT", "HIGH"].into_iter().zip(limits(cluster)) {
        let mut threshold = serde_json::Map::new();
        // The first is the default of its enumeration, and left out as such.
        if priority == "HIGH" {
            threshold.insert("priority".to_owned(), priority.into());
        }
        threshold.extend(limits.into_iter().map(|(limit, value)| (limit.to_owned(), value.into())));
        thresholds.push(Value::Object(threshold));
    }
    let threshold = |local: bool| {
        let (_, threshold) = cluster.outlier.as_ref()?.rates.of(local)?;
        (threshold > 0.0).then(|| json!({"value": threshold}))
    };
    let fields = [
        ("name", Some((*cluster.config.name).into())),
        ("added_via_api", dynamic.then(|| true.into())),
        ("success_rate_ejection_threshold", threshold(false)),
        ("host_statuses", (!statuses.is_empty()).then(|| statuses.into())),
        ("local_origin_success_rate_ejection_threshold", threshold(true)),
        ("circuit_breakers", Some(json!({"thresholds": thresholds}))),
        ("observability_name", Some((*cluster.config.stat_name).into())),
        ("eds_service_name", service_name(cluster).map(Into::into)),
    ];
    let set = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(set.collect())
}

/// `HostHealthStatus`, its fields in the order of their numbers.
fn health_json(flags: HealthFlags) -> Value {
    let discovered = if flags.any(HealthFlags::DRAINING) {
        "DRAINING"
    } else if flags.any(HealthFlags::FAILED_DISCOVERY) {
        "UNHEALTHY"
    } else if flags.any(HealthFlags::DEGRADED_DISCOVERY) {
        "DEGRADED"
    } else {
        "HEALTHY"
    };
    let flag = |flag: HealthFlags| flags.any(flag).then(|| Value::from(true));
    let fields = [
        ("failed_active_health_check", flag(HealthFlags::FAILED_ACTIVE)),
        ("failed_outlier_check", flag(HealthFlags::FAILED_OUTLIER)),
        ("eds_health_status", Some(discovered.into())),
        ("failed_active_degraded_check", flag(HealthFlags::DEGRADED_ACTIVE)),
        ("pending_dynamic_removal", flag(HealthFlags::PENDING_REMOVAL)),
        ("pending_active_hc", flag(HealthFlags::PENDING_ACTIVE)),
        ("excluded_via_immediate_hc_fail", flag(HealthFlags::EXCLUDED_IMMEDIATELY)),
        ("active_hc_timeout", flag(HealthFlags::ACTIVE_TIMEOUT)),
    ];
    let set = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(set.collect())
}

fn host_json(member: &Member, priority: usize) -> Value {
    let host = &member.host;
    let (counters, gauges) = numbers(host);
    // As in protobuf's JSON: numbers of 64 bits are texts, and what is zero is left out.
    let number = |name: &str, value: u64, gauge: bool| {
        let mut number = json!({});
        if gauge {
            number["type"] = "GAUGE".into();
        }
        if value > 0 {
            number["value"] = value.to_string().into();
        }
        number["name"] = name.into();
        number
    };
    let mut stats: Vec<Value> = counters.iter().map(|(name, value)| number(name, *value, false)).collect();
    stats.extend(gauges.iter().map(|(name, value)| number(name, *value, true)));
    let health = health_json(host.flags());
    let mut locality = json!({});
    for (name, value) in [
        ("region", &member.locality.region),
        ("zone", &member.locality.zone),
        ("sub_zone", &member.locality.sub_zone),
    ] {
        if !value.is_empty() {
            locality[name] = (**value).into();
        }
    }
    let mut status = json!({
        "address": address_json(&host.address),
        "stats": stats,
        "health_status": health,
    });
    let [external, local] = success_rates(host);
    if let Some(rate) = external {
        status["success_rate"] = json!({"value": rate});
    }
    status["weight"] = member.weight.into();
    if !host.hostname.is_empty() {
        status["hostname"] = (*host.hostname).into();
    }
    if priority > 0 {
        status["priority"] = priority.into();
    }
    if let Some(rate) = local {
        status["local_origin_success_rate"] = json!({"value": rate});
    }
    status["locality"] = locality;
    status
}

#[cfg(test)]
mod tests {
    use super::short;

    #[test]
    fn numbers_with_six_digits() {
        for (number, expect) in [
            (-1.0, "-1"),
            (100.0, "100"),
            (66.666_666_7, "66.6667"),
            (0.0, "0"),
            (99.5, "99.5"),
            (-12.25, "-12.25"),
        ] {
            assert_eq!(short(number), expect);
        }
    }
}
