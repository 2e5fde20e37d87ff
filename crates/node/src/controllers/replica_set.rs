//! ReplicaSets: which Pods to create, adopt, release and delete, as a pure function.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{controller_of, controller_reference, is_controlled_by, ready_since, selector_matches};

/// Something to write.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Create this many Pods from the template.
    Create(usize),
    /// Delete a Pod.
    Delete {
        /// Its name.
        name: String,
        /// Its identity.
        uid: String,
    },
    /// Become the owner of a Pod that matches the selector and has none.
    Adopt {
        /// Its name.
        name: String,
        /// Its identity.
        uid: String,
    },
    /// Let go of an owned Pod that no longer matches.
    Release {
        /// Its name.
        name: String,
        /// Its identity.
        uid: String,
    },
}

/// What to do about a ReplicaSet.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// In order.
    pub actions: Vec<Action>,
    /// The status it should show.
    pub status: ReplicaSetStatus,
    /// When to look again without a change.
    pub again: Option<Duration>,
}

/// Writes of ours that the cache does not show yet.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// Pods created but not seen, by identity.
    pub created: Vec<String>,
    /// Pods deleted but not seen to be terminating, by identity.
    pub deleted: Vec<String>,
}

/// Plans for `set`, given all Pods of its namespace.
pub fn plan(set: &ReplicaSet, pods: &[Arc<Pod>], expected: &Expected, now: Timestamp) -> Plan {
    let spec = &set.spec;
    let mut plan = Plan::default();
    let mut active: Vec<&Pod> = Vec::new();
    for pod in pods.iter().map(Arc::as_ref).filter(|pod| is_active(pod)) {
        let matches = selector_matches(&spec.selector, pod.metadata.labels.as_ref());
        let (name, uid) = identity(&pod.metadata);
        match (is_controlled_by(&pod.metadata, &set.metadata), matches) {
            (true, true) => active.push(pod),
            (true, false) => plan.actions.push(Action::Release { name, uid }),
            (false, true)
                if controller_of(&pod.metadata).is_none() && set.metadata.deletion_timestamp.is_none() =>
            {
                plan.actions.push(Action::Adopt { name, uid });
                active.push(pod);
            }
            _ => {}
        }
    }
    plan.status = status(set, &active, now, &mut plan.again);
    if set.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    active.retain(|pod| !expected.deleted.contains(pod.metadata.uid.as_ref().unwrap_or(&String::new())));
    let unseen =
        expected.created.iter().filter(|uid| !pods.iter().any(|pod| pod.metadata.uid.as_ref() == Some(uid)));
    let present = active.len() + unseen.count();
    let wanted = spec.replicas.unwrap_or(1).max(0) as usize;
    if present < wanted {
        plan.actions.push(Action::Create(wanted - present));
    } else if present > wanted {
        active.sort_by_key(|pod| worth(pod));
        plan.actions.extend(active.into_iter().take(present - wanted).map(|pod| {
            let (name, uid) = identity(&pod.metadata);
            Action::Delete { name, uid }
        }));
    }
    plan
}

/// The Pod that the template makes, bound to `node` already: one machine needs no scheduler.
pub fn new_pod(set: &ReplicaSet, node: &str) -> Pod {
    let template = set.spec.template.clone().unwrap_or_default();
    let metadata = template.metadata.unwrap_or_default();
    let mut spec = template.spec.unwrap_or_default();
    spec.node_name.get_or_insert_with(|| node.to_owned());
    Pod {
        metadata: ObjectMeta {
            name: Some(super::random_name(set.metadata.name.as_deref().unwrap_or_default())),
            generate_name: Some(format!("{}-", set.metadata.name.as_deref().unwrap_or_default())),
            namespace: set.metadata.namespace.clone(),
            labels: metadata.labels,
            annotations: metadata.annotations,
            finalizers: metadata.finalizers,
            owner_references: Some(vec![controller_reference(set)]),
            ..Default::default()
        },
        spec: Some(spec),
        status: None,
    }
}

fn status(
    set: &ReplicaSet,
    active: &[&Pod],
    now: Timestamp,
    again: &mut Option<Duration>,
) -> ReplicaSetStatus {
    let template = set.spec.template.as_ref().and_then(|template| template.metadata.as_ref());
    let labels = template.and_then(|metadata| metadata.labels.clone()).unwrap_or_default();
    let patience = Duration::from_secs(set.spec.min_ready_seconds.unwrap_or(0).max(0) as u64);
    let (mut ready, mut available, mut labeled) = (0, 0, 0);
    for pod in active {
        if super::labels_contain(pod.metadata.labels.as_ref(), &labels) {
            labeled += 1;
        }
        let Some(since) = ready_since(pod) else { continue };
        ready += 1;
        let for_how_long = Duration::try_from(now.duration_since(since)).unwrap_or_default();
        if for_how_long >= patience {
            available += 1;
        } else {
            let rest = patience - for_how_long;
            *again = Some(again.map_or(rest, |sooner| sooner.min(rest)));
        }
    }
    let some = |count: i32| (count > 0).then_some(count);
    ReplicaSetStatus {
        replicas: active.len() as i32,
        fully_labeled_replicas: some(labeled),
        ready_replicas: some(ready),
        available_replicas: some(available),
        observed_generation: set.metadata.generation,
        conditions: None,
        ..Default::default()
    }
}

/// Whether the Pod counts: it runs or will.
fn is_active(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Succeeded" | "Failed"))
}

/// What a Pod is worth; the least goes first (Kubernetes' documentation page "ReplicaSet", scaling down).
fn worth(pod: &Pod) -> (bool, u8, bool, i64, i64, i64, i64) {
    let status = pod.status.as_ref();
    let bound = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    let phase = match status.and_then(|status| status.phase.as_deref()) {
        None | Some("Pending") => 0,
        Some("Unknown") => 1,
        _ => 2,
    };
    let cost = pod
        .metadata
        .annotations
        .as_ref()
        .and_then(|all| all.get("controller.kubernetes.io/pod-deletion-cost"));
    let cost: i64 = cost.and_then(|text| text.parse().ok()).unwrap_or(0);
    let ready = ready_since(pod);
    let restarts = status.and_then(|status| status.container_statuses.as_ref());
    let restarts: i32 = restarts.map_or(0, |all| all.iter().map(|one| one.restart_count).max().unwrap_or(0));
    let created = pod.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second());
    // The later ready or created, the less worth.
    let age = |at: i64| -at;
    let ready_at = ready.map_or(0, |time| time.as_second());
    (bound, phase, ready.is_some(), cost, age(ready_at), -i64::from(restarts), age(created))
}

fn identity(metadata: &ObjectMeta) -> (String, String) {
    (metadata.name.clone().unwrap_or_default(), metadata.uid.clone().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(replicas: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": "web-abc", "namespace": "ns", "uid": "set", "generation": 2},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": "web"}},
                "template": {
                    "metadata": {"labels": {"app": "web", "extra": "x"}},
                    "spec": {"containers": [{"name": "c"}]}
                }
            }
        }))
        .unwrap()
    }

    fn pod(name: &str, more: serde_json::Value) -> Arc<Pod> {
        let mut pod = json!({
            "metadata": {
                "name": name, "uid": name, "labels": {"app": "web"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-abc", "uid": "set",
                    "controller": true}]
            },
            "spec": {"nodeName": "n", "containers": []},
            "status": {"phase": "Running", "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}
        });
        json_patch::merge(&mut pod, &more);
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn now() -> Timestamp {
        "2026-01-01T00:00:10Z".parse().unwrap()
    }

    fn actions(replicas: i32, pods: &[Arc<Pod>], expected: &Expected) -> Vec<String> {
        let text = |action: &Action| match action {
            Action::Create(count) => format!("create {count}"),
            Action::Delete { name, .. } => format!("delete {name}"),
            Action::Adopt { name, .. } => format!("adopt {name}"),
            Action::Release { name, .. } => format!("release {name}"),
        };
        plan(&set(replicas), pods, expected, now()).actions.iter().map(text).collect()
    }

    #[test]
    fn pods_of_a_replica_set() {
        let check = |name: &str, replicas: i32, pods: &[Arc<Pod>], expected: &[&str]| {
            assert_eq!(actions(replicas, pods, &Expected::default()), expected, "{name}");
        };
        let plain = || pod("a", json!({}));
        check("none yet", 2, &[], &["create 2"]);
        check("enough", 1, &[plain()], &[]);
        check(
            "failed ones do not count",
            1,
            &[pod("a", json!({"status": {"phase": "Failed"}}))],
            &["create 1"],
        );
        check(
            "terminating ones do not count",
            1,
            &[pod("a", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}))],
            &["create 1"],
        );
        check("adoption", 1, &[pod("a", json!({"metadata": {"ownerReferences": null}}))], &["adopt a"]);
        check(
            "release",
            1,
            &[pod("a", json!({"metadata": {"labels": {"app": "no"}}}))],
            &["release a", "create 1"],
        );
        check(
            "another's",
            1,
            &[pod(
                "a",
                json!({"metadata": {"ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "x", "uid": "x", "controller": true}]}}),
            )],
            &["create 1"],
        );
        check(
            "not ready goes first",
            1,
            &[plain(), pod("b", json!({"status": {"conditions": []}}))],
            &["delete b"],
        );
        check(
            "pending goes before not ready",
            1,
            &[
                pod("b", json!({"status": {"conditions": []}})),
                pod("c", json!({"status": {"phase": "Pending", "conditions": []}})),
            ],
            &["delete c"],
        );
        check(
            "the deletion cost counts",
            1,
            &[
                plain(),
                pod(
                    "b",
                    json!({"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "-5"}}}),
                ),
            ],
            &["delete b"],
        );
        check(
            "the one ready last goes first",
            1,
            &[
                pod(
                    "b",
                    json!({"status": {"conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:05Z"}]}}),
                ),
                plain(),
            ],
            &["delete b"],
        );
    }

    #[test]
    fn own_writes_count_before_the_cache_shows_them() {
        let expected = Expected { created: vec!["new".to_owned()], deleted: vec!["b".to_owned()] };
        assert_eq!(actions(2, &[pod("a", json!({})), pod("b", json!({}))], &expected), Vec::<String>::new());
        let seen = Expected { created: vec!["a".to_owned()], deleted: Vec::new() };
        assert_eq!(actions(2, &[pod("a", json!({}))], &seen), ["create 1"]);
    }

    #[test]
    fn minimum_ready_time_delays_availability() {
        let mut set = set(1);
        set.spec.min_ready_seconds = Some(15);
        let plan = plan(&set, &[pod("a", json!({}))], &Expected::default(), now());
        assert_eq!((plan.status.ready_replicas, plan.status.available_replicas), (Some(1), None));
        assert_eq!(plan.again, Some(Duration::from_secs(5)));
    }

    #[test]
    fn a_new_pod_is_bound_and_owned() {
        let pod = new_pod(&set(1), "node");
        assert_eq!(pod.spec.unwrap().node_name.as_deref(), Some("node"));
        assert_eq!(pod.metadata.owner_references.unwrap()[0].uid, "set");
        assert_eq!(pod.metadata.labels.unwrap()["extra"], "x");
        assert!(pod.metadata.name.unwrap().starts_with("web-abc-"));
    }
}
