use super::*;
use k8s_openapi::api::apps::v1::ReplicaSetStatus;
use serde_json::json;

fn deployment(replicas: i32, image: &str, strategy: serde_json::Value) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "ns", "uid": "d", "generation": 3},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": strategy,
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": image}]}
            }
        }
    }))
    .unwrap()
}

/// A ReplicaSet of `image`: size asked, Pods, available Pods, revision.
fn replica_set(image: &str, asked: i32, actual: i32, available: i32, revision: i64) -> Arc<ReplicaSet> {
    let deployment = deployment(asked, image, json!({}));
    let sizes = Sizes::of(&deployment, &[], None, &[]);
    let hash = template_hash(&deployment.spec.template);
    let mut set = new_replica_set(&deployment, &hash, revision, &sizes);
    set.metadata.name = Some(image.to_owned());
    set.metadata.uid = Some(image.to_owned());
    set.spec.replicas = Some(asked);
    set.status = Some(ReplicaSetStatus {
        replicas: actual,
        ready_replicas: Some(available),
        available_replicas: Some(available),
        ..Default::default()
    });
    Arc::new(set)
}

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

/// The actions as short text, revisions aside.
fn actions(deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> Vec<String> {
    let plan = plan(deployment, sets, now());
    let text = |action: &Action| match action {
        Action::Create(set) => Some(format!("create {}", set.spec.replicas.unwrap())),
        Action::Scale { name, replicas } => Some(format!("{name}={replicas}")),
        Action::Delete { name } => Some(format!("delete {name}")),
        Action::Annotate { name, revision } => Some(format!("{name} is {revision}")),
        Action::Revision(_) => None,
    };
    plan.actions.iter().filter_map(text).collect()
}

#[test]
fn rolling_update_steps() {
    let check = |name: &str, replicas: i32, sets: &[Arc<ReplicaSet>], expected: &[&str]| {
        assert_eq!(actions(&deployment(replicas, "new", json!({})), sets), expected, "{name}");
    };
    check("first", 3, &[], &["create 3"]);
    check("settled", 3, &[replica_set("new", 3, 3, 3, 1)], &[]);
    check("scale up", 3, &[replica_set("new", 1, 1, 1, 1)], &["new=3"]);
    check("scale down", 1, &[replica_set("new", 3, 3, 3, 1)], &["new=1"]);
    check("to zero", 0, &[replica_set("new", 3, 3, 3, 1)], &["new=0"]);
    check("a new template surges by a quarter", 4, &[replica_set("old", 4, 4, 4, 1)], &["create 1"]);
    check("a single replica surges by one", 1, &[replica_set("old", 1, 1, 1, 1)], &["create 1"]);
    check(
        "old ones wait for the new one",
        1,
        &[replica_set("old", 1, 1, 1, 1), replica_set("new", 1, 1, 0, 2)],
        &[],
    );
    check("then they go", 1, &[replica_set("old", 1, 1, 1, 1), replica_set("new", 1, 1, 1, 2)], &["old=0"]);
    check("the next surge", 4, &[replica_set("old", 3, 3, 3, 1), replica_set("new", 1, 1, 1, 2)], &["new=2"]);
    check(
        "one of four may be missing",
        4,
        &[replica_set("old", 4, 4, 4, 1), replica_set("new", 1, 1, 0, 2)],
        &["old=3"],
    );
    check(
        "broken old ones go first",
        4,
        &[replica_set("old", 4, 4, 1, 1), replica_set("new", 1, 1, 1, 2)],
        &["old=2"],
    );
}

#[test]
fn bounds_of_a_rolling_update() {
    let check = |name: &str, rolling: serde_json::Value, sets: &[Arc<ReplicaSet>], expected: &[&str]| {
        let strategy = json!({"type": "RollingUpdate", "rollingUpdate": rolling});
        assert_eq!(actions(&deployment(4, "new", strategy), sets), expected, "{name}");
    };
    let old = || replica_set("old", 4, 4, 4, 1);
    check("surge in numbers", json!({"maxSurge": 2, "maxUnavailable": 0}), &[old()], &["create 2"]);
    check("surge in percent", json!({"maxSurge": "100%", "maxUnavailable": 0}), &[old()], &["create 4"]);
    check("no surge", json!({"maxSurge": 0, "maxUnavailable": 1}), &[old()], &["create 0"]);
    check(
        "no surge shrinks first",
        json!({"maxSurge": 0, "maxUnavailable": 1}),
        &[old(), replica_set("new", 0, 0, 0, 2)],
        &["old=3"],
    );
    check(
        "both zero means one unavailable",
        json!({"maxSurge": 0, "maxUnavailable": 0}),
        &[old(), replica_set("new", 0, 0, 0, 2)],
        &["old=3"],
    );
}

#[test]
fn recreate_steps() {
    let check = |name: &str, sets: &[Arc<ReplicaSet>], expected: &[&str]| {
        assert_eq!(actions(&deployment(2, "new", json!({"type": "Recreate"})), sets), expected, "{name}");
    };
    check("first", &[], &["create 2"]);
    check("old ones go first", &[replica_set("old", 2, 2, 2, 1)], &["create 0", "old=0"]);
    check("wait for them", &[replica_set("old", 0, 1, 0, 1), replica_set("new", 0, 0, 0, 2)], &[]);
    check("then the new", &[replica_set("old", 0, 0, 0, 1), replica_set("new", 0, 0, 0, 2)], &["new=2"]);
}

#[test]
fn a_rollback_takes_the_old_set_with_a_new_revision() {
    let sets = [replica_set("new", 0, 0, 0, 1), replica_set("other", 1, 1, 1, 2)];
    assert_eq!(actions(&deployment(1, "new", json!({})), &sets), ["new is 3", "new=1"]);
}

#[test]
fn history_beyond_the_limit_is_deleted() {
    let mut deployment = deployment(1, "new", json!({}));
    deployment.spec.revision_history_limit = Some(1);
    let sets = [replica_set("b", 0, 0, 0, 2), replica_set("a", 0, 0, 0, 1), replica_set("new", 1, 1, 1, 3)];
    assert_eq!(actions(&deployment, &sets), ["delete a"]);
}

#[test]
fn status_for_kubectl() {
    let check = |name: &str, sets: &[Arc<ReplicaSet>], counts: [i32; 4], available: &str, reason: &str| {
        let status = plan(&deployment(2, "new", json!({})), sets, now()).status;
        let count = |value: Option<i32>| value.unwrap_or(0);
        let got = [
            count(status.replicas),
            count(status.updated_replicas),
            count(status.available_replicas),
            count(status.unavailable_replicas),
        ];
        assert_eq!(got, counts, "{name}");
        assert_eq!(status.observed_generation, Some(3), "{name}");
        let conditions = status.conditions.unwrap();
        let condition = |kind: &str| {
            conditions.iter().find(|condition| condition.type_.as_deref() == Some(kind)).unwrap()
        };
        assert_eq!(condition("Available").status.as_deref(), Some(available), "{name}");
        assert_eq!(condition("Progressing").reason.as_deref(), Some(reason), "{name}");
    };
    check("new", &[], [0, 0, 0, 2], "False", "NewReplicaSetCreated");
    check("starting", &[replica_set("new", 2, 2, 1, 1)], [2, 2, 1, 1], "False", "ReplicaSetUpdated");
    check("done", &[replica_set("new", 2, 2, 2, 1)], [2, 2, 2, 0], "True", "NewReplicaSetAvailable");
}

#[test]
fn the_progress_deadline() {
    let mut deployment = deployment(1, "new", json!({}));
    let sets = [replica_set("new", 1, 1, 0, 1)];
    let first = plan(&deployment, &sets, now());
    assert_eq!(first.again, Some(Duration::from_secs(600)));
    deployment.status = Some(first.status);
    let late = now() + jiff::SignedDuration::from_secs(601);
    let conditions = plan(&deployment, &sets, late).status.conditions.unwrap();
    let progressing =
        conditions.iter().find(|condition| condition.type_.as_deref() == Some("Progressing")).unwrap();
    assert_eq!(progressing.reason.as_deref(), Some("ProgressDeadlineExceeded"));
}

#[test]
fn what_others_own_is_left_alone() {
    let mut foreign = (*replica_set("old", 4, 4, 4, 1)).clone();
    foreign.metadata.owner_references.as_mut().unwrap()[0].uid = "another".to_owned();
    assert_eq!(actions(&deployment(1, "new", json!({})), &[Arc::new(foreign)]), ["create 1"]);
}
