//! Aggregated ClusterRoles: their rules are those of the roles they select.

use super::{CLUSTER_ROLES, GROUP};
use crate::api::Api;
use crate::http::{Circumstances, Place, modify};
use crate::object::{is_deleting, meta, put};
use crate::selector::LabelSelector;
use crate::status::Status;
use crate::store::Snapshot;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

const RETRY: Duration = Duration::from_millis(500);

/// Keeps the rules of aggregated roles until the server ends.
pub(crate) async fn run(api: Arc<Api>) {
    loop {
        let revision = api.store.snapshot().revision;
        let Ok(mut reader) = api.store.changes(CLUSTER_ROLES, revision) else { continue };
        let mut dirty = true;
        let mut retry = tokio::time::interval(RETRY);
        retry.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if dirty {
                dirty = match settle(&api).await {
                    Ok(()) => false,
                    Err(status) => {
                        tracing::warn!(%status, "an aggregated ClusterRole cannot be brought up to date; trying again");
                        true
                    }
                };
            }
            tokio::select! {
                biased;
                () = api.drain.signaled() => return,
                changes = reader.next(256) => match changes {
                    Ok(_) => dirty = true,
                    Err(_) => break,
                },
                _ = retry.tick(), if dirty => {}
            }
        }
    }
}

/// Brings every aggregated role up to date.
pub(super) async fn settle(api: &Api) -> Result<(), Status> {
    let Some(kind) = api.schema.kinds().find_resource(GROUP, "clusterroles").cloned() else { return Ok(()) };
    let snapshot = api.store.snapshot();
    for (key, stored) in snapshot.list(CLUSTER_ROLES, None, None) {
        if !stored.value["aggregationRule"].is_object() || is_deleting(&stored.value) {
            continue;
        }
        let rules = Value::Array(aggregated(&snapshot, &stored.value)?);
        if stored.value["rules"] == rules
            || (stored.value["rules"].is_null() && rules == Value::Array(vec![]))
        {
            continue;
        }
        let place = Place {
            kind: kind.clone(),
            namespace: String::new(),
            name: key.name.to_string(),
            subresource: None,
        };
        let change = |old: &Value| {
            let mut new = old.clone();
            put(&mut new, &["rules"], rules.clone());
            Ok(new)
        };
        match modify(api, &place, &Circumstances::internal(), None, change).await {
            Err(status) if status.reason != "NotFound" => return Err(status),
            _ => {}
        }
    }
    Ok(())
}

/// The rules of the roles that an aggregated role selects, each once.
fn aggregated(snapshot: &Snapshot, role: &Value) -> Result<Vec<Value>, Status> {
    let selectors = role["aggregationRule"]["clusterRoleSelectors"].as_array().into_iter().flatten();
    let selectors = selectors.map(LabelSelector::from_object).collect::<Result<Vec<_>, _>>()?;
    let mut rules: Vec<Value> = Vec::new();
    for (_, stored) in snapshot.list(CLUSTER_ROLES, None, None) {
        let selected = selectors.iter().any(|selector| selector.matches(&stored.value));
        if !selected || meta(&stored.value, "name") == meta(role, "name") {
            continue;
        }
        for rule in stored.value["rules"].as_array().into_iter().flatten() {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    Ok(rules)
}
