//! Pages about the process: `/ready`, `/server_info`, `/memory`, `/logging`, ... and the numbers below `server.`.

use std::sync::atomic::Ordering::Relaxed;

use http::StatusCode;
use lateen_base::admin::{Reply, text};
use lateen_envoy::json::to_json_redacted;
use serde_json::{Value, json};

use super::{Query, Served, pretty};
use crate::stats::{ClusterManagerStats, ListenerManagerStats, RuntimeStats, ServerStats};

fn ok() -> Reply {
    text(StatusCode::OK, "OK\n")
}

/// Bytes of memory: resident, and all of the data segment.
fn memory_use() -> (u64, u64) {
    let page = 4096;
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let mut fields = text.split_whitespace().map(|field| field.parse::<u64>().unwrap_or_default() * page);
    let (_, resident) = (fields.next(), fields.next().unwrap_or_default());
    let data = fields.nth(3).unwrap_or_default();
    (resident, data)
}

impl Served {
    pub(super) fn ready(&self, _query: &Query) -> Reply {
        let state = self.state_name();
        let status = if state == "LIVE" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        text(status, format!("{state}\n"))
    }

    pub(super) fn server_info(&self, _query: &Query) -> Reply {
        let seconds = self.admin.started.elapsed().as_secs();
        let info = json!({
            "version": format!("lateen/{}", lateen_base::VERSION),
            "state": self.state_name(),
            "uptime_current_epoch": format!("{seconds}s"),
            "uptime_all_epochs": format!("{seconds}s"),
            "hot_restart_version": "disabled",
            "command_line_options": {
                "concurrency": self.admin.manager.lock().concurrency(),
                "disable_hot_restart": true,
                "mode": "Serve",
            },
            "node": self.admin.bootstrap.node.as_ref().map_or(json!({}), to_json_redacted),
        });
        pretty(&info)
    }

    pub(super) fn memory(&self, _query: &Query) -> Reply {
        let (resident, data) = memory_use();
        let page = json!({
            "allocated": resident.to_string(),
            "heap_size": data.to_string(),
            "pageheap_unmapped": "0",
            "pageheap_free": "0",
            "total_thread_cache": "0",
            "total_physical_bytes": resident.to_string(),
        });
        pretty(&page)
    }

    pub(super) fn hot_restart_version(&self, _query: &Query) -> Reply {
        text(StatusCode::OK, "disabled")
    }

    pub(super) fn healthcheck_fail(&self, _query: &Query) -> Reply {
        self.state.failing.store(true, Relaxed);
        ok()
    }

    pub(super) fn healthcheck_ok(&self, _query: &Query) -> Reply {
        self.state.failing.store(false, Relaxed);
        ok()
    }

    pub(super) fn quit(&self, _query: &Query) -> Reply {
        self.admin.quit.notify_one();
        ok()
    }

    pub(super) fn reopen_logs(&self, _query: &Query) -> Reply {
        self.state.logs.reopen();
        ok()
    }

    pub(super) fn logging(&self, query: &Query) -> Reply {
        let change = match (query.get("level"), query.get("paths").or_else(|| query.get("group"))) {
            (Some(level), _) => lateen_base::logging::set_level(None, level),
            (None, Some(paths)) => paths.split(',').try_for_each(|pair| {
                let (name, level) = pair.split_once(':').ok_or("error: invalid logger format")?;
                lateen_base::logging::set_level(Some(name), level)
            }),
            (None, None) => Ok(()),
        };
        let levels = format!("active loggers:\n  {}\n", lateen_base::logging::levels().replace(',', "\n  "));
        match change {
            Ok(()) => text(StatusCode::OK, levels),
            Err(error) => {
                let usage = "usage: /logging?paths=name1:level1,name2:level2,... (change multiple levels)\n\
                             usage: /logging?level=<level> (change all levels)\n\
                             levels: trace debug info warning error critical off\n";
                text(StatusCode::BAD_REQUEST, format!("{error}\n\n{usage}{levels}"))
            }
        }
    }

    pub(super) fn runtime(&self, _query: &Query) -> Reply {
        let values = self.state.runtime.values();
        let layers: Vec<&str> = if values.is_empty() { Vec::new() } else { vec!["static"] };
        let shown = |value: &Value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let entries: serde_json::Map<String, Value> = values
            .iter()
            .map(|(key, value)| {
                let value = shown(value);
                (key.clone(), json!({"layer_values": [value], "final_value": value}))
            })
            .collect();
        pretty(&json!({"entries": entries, "layers": layers}))
    }

    pub(super) fn runtime_modify(&self, query: &Query) -> Reply {
        if query.is_empty() {
            return text(
                StatusCode::BAD_REQUEST,
                "usage: /runtime_modify?key1=value1&key2=value2&keyN=valueN\nor send the parameters as form values\nuse an empty value to remove a previously added override",
            );
        }
        // Values are resolved before a resource is compiled, so there is no layer that could change later.
        text(StatusCode::SERVICE_UNAVAILABLE, "No admin layer specified\n")
    }

    /// Brings numbers up to date that nobody counts as they change.
    pub(super) fn refresh(&self) {
        let stats = &self.state.stats;
        let common = stats.common();
        let server = ServerStats::new(stats, "");
        let (resident, data) = memory_use();
        let state = match self.state_name() {
            "LIVE" => 0,
            "DRAINING" => 1,
            "PRE_INITIALIZING" => 2,
            _ => 3,
        };
        let days = crate::tls::days_until_first_expiration(&self.state, std::time::SystemTime::now());
        let manager = self.admin.manager.lock();
        let (warming_clusters, warming_listeners) = manager.warming_names();
        for (gauge, value) in [
            (server.concurrency, manager.concurrency() as u64),
            (server.days_until_first_cert_expiring, days.unwrap_or(u64::from(u32::MAX))),
            (server.live, u64::from(state == 0)),
            (server.memory_allocated, resident),
            (server.memory_heap_size, data),
            (server.memory_physical_size, resident),
            (server.state, state),
            (server.total_connections, self.state.connections.load(Relaxed)),
            (server.uptime, self.admin.started.elapsed().as_secs()),
            (server.version, version_number()),
        ] {
            common.set(gauge, value);
        }
        let clusters = ClusterManagerStats::new(stats, "");
        common.set(clusters.active_clusters, self.state.clusters.load().len() as u64);
        common.set(clusters.warming_clusters, warming_clusters.len() as u64);
        let listeners = ListenerManagerStats::new(stats, "");
        common.set(listeners.total_listeners_active, self.state.listeners.load().by_name.len() as u64);
        common.set(listeners.total_listeners_warming, warming_listeners.len() as u64);
        common.set(listeners.workers_started, 1);
        let runtime = RuntimeStats::new(stats, "");
        common.set(runtime.num_keys, self.state.runtime.values().len() as u64);
    }
}

/// The first three bytes of a digest of the version, as Envoy's number is of its own.
fn version_number() -> u64 {
    lateen_base::VERSION
        .split('.')
        .filter_map(|part| part.parse::<u64>().ok())
        .fold(0, |number, part| number << 8 | part & 0xff)
}
