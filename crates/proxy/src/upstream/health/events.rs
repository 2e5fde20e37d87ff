//! Changes of health as JSON lines in a file (`envoy.data.core.v3.HealthCheckEvent`).

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::Write;

use lateen_dataplane::cluster::{HealthFlags, Host};
use lateen_dataplane::health::{Change, CheckKind, Consequence, HealthCheck, Verdict};
use lateen_dataplane::listener::Address;
use serde_json::{Value, json};

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

    /// Writes what a check changed; `was` are the host's flags before it.
    pub(super) fn note(
        &self,
        check: &HealthCheck,
        cluster: &ClusterHandle,
        host: &Host,
        verdict: Verdict,
        consequence: &Consequence,
        was: HealthFlags,
    ) {
        if self.0.is_none() && consequence.change != Change::Changed {
            return;
        }
        for (name, event) in events(check, host, verdict, consequence, was) {
            tracing::debug!(cluster = %cluster.config.name, host = %host.text, event = name, "health check");
            self.write(check, cluster, host, name, event);
        }
    }

    fn write(&self, check: &HealthCheck, cluster: &ClusterHandle, host: &Host, name: &str, event: Value) {
        let Some(file) = &self.0 else { return };
        let kind = match check.kind {
            CheckKind::Http(_) => "HTTP",
            CheckKind::Tcp { .. } => "TCP",
            CheckKind::Grpc { .. } => "GRPC",
        };
        let address = match &host.address {
            Address::Socket(address) => json!({"socket_address": {
                "protocol": "TCP", "address": address.ip().to_string(), "port_value": address.port(),
                "resolver_name": "", "ipv4_compat": false}}),
            Address::Pipe(path) => json!({"pipe": {"path": path, "mode": 0}}),
            other => json!(other.to_string()),
        };
        let line = json!({
            "health_checker_type": kind,
            "host": address,
            "cluster_name": *cluster.config.name,
            name: event,
            "timestamp": jiff::Timestamp::now().to_string(),
        });
        if let Err(error) = writeln!(file.borrow_mut(), "{line}") {
            tracing::warn!(%error, "a health check event was not written");
        }
    }
}

fn events(
    check: &HealthCheck,
    host: &Host,
    verdict: Verdict,
    consequence: &Consequence,
    was: HealthFlags,
) -> Vec<(&'static str, Value)> {
    let now = host.flags();
    let changed = |flag: HealthFlags| was.any(flag) != now.any(flag);
    let mut events = Vec::new();
    let failure = match verdict {
        Verdict::Success { .. } => None,
        Verdict::Failure | Verdict::RetriableFailure => Some("ACTIVE"),
        Verdict::NetworkFailure => Some("NETWORK"),
        Verdict::Timeout => Some("NETWORK_TIMEOUT"),
    };
    if changed(HealthFlags::FAILED_ACTIVE) {
        match failure {
            Some(kind) => events.push(("eject_unhealthy_event", json!({"failure_type": kind}))),
            None => events.push(("add_healthy_event", json!({"first_check": consequence.first}))),
        }
    }
    if changed(HealthFlags::DEGRADED_ACTIVE) {
        let name = match now.any(HealthFlags::DEGRADED_ACTIVE) {
            true => "degraded_healthy_host",
            false => "no_longer_degraded_host",
        };
        events.push((name, json!({})));
    }
    if let Some(kind) = failure
        && (consequence.first || check.log_failures)
    {
        let event = json!({"failure_type": kind, "first_check": consequence.first});
        events.push(("health_check_failure_event", event));
    }
    if failure.is_none() && check.log_successes {
        events.push(("successful_health_check_event", json!({})));
    }
    events
}
