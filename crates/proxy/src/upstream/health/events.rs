//! Changes of health as JSON lines in a file (`envoy.data.core.v3.HealthCheckEvent`).

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::Arc;

use lateen_dataplane::cluster::{HealthFlags, Host};
use lateen_dataplane::health::{Change, CheckKind, Consequence, HealthCheck, Verdict};
use lateen_dataplane::listener::Address;
use lateen_dataplane::metadata;
use serde_json::{Map, Value, json};

use crate::state::ClusterHandle;

/// The file, where there is one.
pub(super) struct EventLog(Option<RefCell<File>>);

impl EventLog {
    pub(super) fn open(path: Option<&str>) -> Self {
        Self(path.and_then(|path| match OpenOptions::new().create(true).append(true).open(path) {
            Ok(file) => Some(RefCell::new(file)),
            Err(error) => {
                tracing::error!(%path, %error, "health check events cannot be written");
                None
            }
        }))
    }

    /// Writes what a check changed; `was` are the host's flags before it, `status` is that of an answer over HTTP.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn note(
        &self,
        check: &HealthCheck,
        cluster: &ClusterHandle,
        host: &Host,
        verdict: Verdict,
        status: u16,
        consequence: &Consequence,
        was: HealthFlags,
    ) {
        if self.0.is_none() && consequence.change != Change::Changed {
            return;
        }
        for event in events(check, was, host.flags(), verdict, status, consequence) {
            let name = event.1;
            tracing::debug!(cluster = %cluster.config.name, host = %host.text, event = name, "health check");
            self.write(check, cluster, host, event);
        }
    }

    fn write(&self, check: &HealthCheck, cluster: &ClusterHandle, host: &Host, event: Event) {
        let Some(file) = &self.0 else { return };
        let (number, name, event) = event;
        let kind = match check.kind {
            CheckKind::Http(_) => "HTTP",
            CheckKind::Tcp { .. } => "TCP",
            CheckKind::Grpc { .. } => "GRPC",
        };
        let address = match &host.address {
            Address::Socket(address) => json!({"socket_address": {
                "protocol": "TCP", "address": address.ip().to_string(), "port_value": address.port(),
                "resolver_name": "", "ipv4_compat": false, "network_namespace_filepath": ""}}),
            Address::Pipe(path) => json!({"pipe": {"path": path, "mode": 0}}),
            other => json!(other.to_string()),
        };
        let hosts = cluster.hosts.load();
        let locality = hosts
            .members()
            .find(|member| std::ptr::eq(&*member.host, host))
            .map(|member| Arc::clone(&member.locality))
            .unwrap_or_default();
        // Fields in the order of their numbers, as Envoy writes them.
        let mut fields = vec![
            (1, "health_checker_type", json!(kind)),
            (2, "host", address),
            (3, "cluster_name", json!(*cluster.config.name)),
            (number, name, event),
            (6, "timestamp", json!(format!("{:.3}", jiff::Timestamp::now()))),
            (
                11,
                "locality",
                json!({"region": locality.region, "zone": locality.zone, "sub_zone": locality.sub_zone}),
            ),
        ];
        if let Some(metadata) = &host.metadata {
            let filters = metadata.iter().map(|(name, value)| (name.to_owned(), json_of(value)));
            let filters: Map<String, Value> = filters.collect();
            fields.push((10, "metadata", json!({"filter_metadata": filters, "typed_filter_metadata": {}})));
        }
        fields.sort_by_key(|(number, ..)| *number);
        let line: Map<String, Value> =
            fields.into_iter().map(|(_, name, value)| (name.to_owned(), value)).collect();
        if let Err(error) = writeln!(file.borrow_mut(), "{}", Value::Object(line)) {
            tracing::warn!(%error, "a health check event was not written");
        }
    }
}

/// A value of metadata as JSON.
fn json_of(value: &metadata::Value) -> Value {
    match value {
        metadata::Value::Null => Value::Null,
        metadata::Value::Bool(flag) => json!(flag),
        metadata::Value::Number(number) if number.fract() == 0.0 && number.abs() < 1e15 => {
            json!(*number as i64)
        }
        metadata::Value::Number(number) => json!(number),
        metadata::Value::String(text) => json!(**text),
        metadata::Value::List(values) => values.iter().map(json_of).collect(),
        metadata::Value::Struct(fields) => {
            Value::Object(fields.iter().map(|(name, value)| (name.to_owned(), json_of(value))).collect())
        }
    }
}

/// The number of its field, its name, what it says.
type Event = (u32, &'static str, Value);

fn events(
    check: &HealthCheck,
    was: HealthFlags,
    now: HealthFlags,
    verdict: Verdict,
    status: u16,
    consequence: &Consequence,
) -> Vec<Event> {
    let changed = |flag: HealthFlags| was.any(flag) != now.any(flag);
    let mut events = Vec::new();
    let failure = match verdict {
        Verdict::Success { .. } => None,
        Verdict::Failure | Verdict::RetriableFailure => Some(("ACTIVE", status)),
        Verdict::NetworkFailure => Some(("NETWORK", 0)),
        Verdict::Timeout => Some(("NETWORK_TIMEOUT", 0)),
    };
    let recovered = failure.is_none() && changed(HealthFlags::FAILED_ACTIVE);
    if recovered {
        events.push((5, "add_healthy_event", json!({"first_check": consequence.first})));
    } else if let Some((kind, status)) = failure
        && changed(HealthFlags::FAILED_ACTIVE)
    {
        let event = json!({"failure_type": kind, "http_status_code": status});
        events.push((4, "eject_unhealthy_event", event));
    }
    // That a host recovered says enough.
    if failure.is_none() && check.log_successes && !recovered {
        events.push((12, "successful_health_check_event", json!({})));
    }
    if changed(HealthFlags::DEGRADED_ACTIVE) {
        events.push(match now.any(HealthFlags::DEGRADED_ACTIVE) {
            true => (8, "degraded_healthy_host", json!({})),
            false => (9, "no_longer_degraded_host", json!({})),
        });
    }
    if let Some((kind, status)) = failure
        && (consequence.first || check.log_failures)
    {
        let event =
            json!({"failure_type": kind, "first_check": consequence.first, "http_status_code": status});
        events.push((7, "health_check_failure_event", event));
    }
    events
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lateen_dataplane::health::Timing;

    use super::*;

    fn check(log_failures: bool, log_successes: bool) -> HealthCheck {
        let second = Duration::from_secs(1);
        HealthCheck {
            kind: CheckKind::Tcp { send: None, receive: Vec::new() },
            timeout: second,
            timing: Timing {
                interval: second,
                unhealthy: second,
                unhealthy_edge: second,
                healthy_edge: second,
                no_traffic: second,
                no_traffic_healthy: second,
                initial_jitter: Duration::ZERO,
                jitter: Duration::ZERO,
                jitter_percent: 0,
            },
            unhealthy_threshold: 1,
            healthy_threshold: 1,
            reuse_connection: true,
            event_log: None,
            log_failures,
            log_successes,
        }
    }

    #[test]
    fn what_is_written() {
        let (well, ill) = (HealthFlags::default(), HealthFlags::FAILED_ACTIVE);
        let degraded = HealthFlags::DEGRADED_ACTIVE;
        let success = Verdict::Success { degraded: false };
        let names = |all: bool, was, now, verdict, first: bool| -> Vec<&'static str> {
            let consequence = Consequence { change: Change::None, first, next: Duration::ZERO };
            let events = events(&check(all, all), was, now, verdict, 503, &consequence);
            events.into_iter().map(|(_, name, _)| name).collect()
        };
        let (added, ejected) = ("add_healthy_event", "eject_unhealthy_event");
        let (failed, succeeded) = ("health_check_failure_event", "successful_health_check_event");
        assert_eq!(names(false, ill, well, success, true), [added], "the first success");
        assert_eq!(names(true, ill, well, success, false), [added], "a recovery needs no second word");
        assert_eq!(names(false, well, well, success, false), [""; 0], "nothing new");
        assert_eq!(names(true, well, well, success, false), [succeeded], "nothing new, but all is told");
        assert_eq!(names(false, well, ill, Verdict::Failure, false), [ejected], "a failure");
        assert_eq!(names(true, well, ill, Verdict::Timeout, false), [ejected, failed], "all is told");
        assert_eq!(names(false, ill, ill, Verdict::NetworkFailure, true), [failed], "the first failure");
        assert_eq!(names(false, ill, ill, Verdict::NetworkFailure, false), [""; 0], "still ill");
        assert_eq!(names(false, well, degraded, success, false), ["degraded_healthy_host"]);
        assert_eq!(names(true, degraded, well, success, false), [succeeded, "no_longer_degraded_host"]);
    }

    #[test]
    fn a_failure_says_why() {
        let consequence = Consequence { change: Change::Changed, first: false, next: Duration::ZERO };
        for (verdict, expect) in [
            (Verdict::Failure, json!({"failure_type": "ACTIVE", "http_status_code": 503})),
            (Verdict::NetworkFailure, json!({"failure_type": "NETWORK", "http_status_code": 0})),
            (Verdict::Timeout, json!({"failure_type": "NETWORK_TIMEOUT", "http_status_code": 0})),
        ] {
            let (was, now) = (HealthFlags::default(), HealthFlags::FAILED_ACTIVE);
            let events = events(&check(false, false), was, now, verdict, 503, &consequence);
            assert_eq!(events, [(4, "eject_unhealthy_event", expect)]);
        }
    }
}
