//! The `kube` client against the server, as the control plane and the node use it: kubeconfig, list and watch, patches,
//! tokens, and resuming after the server has been replaced.

#![allow(clippy::unwrap_used)] // Helpers of tests may panic as tests do.

mod support;

use futures::{Stream, StreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenReview};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event, InitialListStrategy, watcher};
use lateen_base::drain;
use serde_json::json;
use std::pin::Pin;
use std::time::Duration;
use support::{Cluster, listener};

fn map(name: &str) -> ConfigMap {
    serde_json::from_value(
        json!({"metadata": {"name": name, "labels": {"watched": "yes"}}, "data": {"a": "1"}}),
    )
    .unwrap()
}

type Events = Pin<Box<dyn Stream<Item = watcher::Result<Event<ConfigMap>>> + Send>>;

fn watch(maps: &Api<ConfigMap>, strategy: InitialListStrategy) -> Events {
    let config = watcher::Config { initial_list_strategy: strategy, ..watcher::Config::default() };
    Box::pin(watcher(maps.clone(), config.labels("watched=yes")))
}

/// The next change after the list, in words; failures in between (a server that is away) are passed over.
async fn next(events: &mut Events) -> String {
    let change = async {
        loop {
            match events.next().await.expect("a watch has no end") {
                Ok(Event::Apply(map)) => return format!("apply {}", map.metadata.name.unwrap_or_default()),
                Ok(Event::Delete(map)) => return format!("delete {}", map.metadata.name.unwrap_or_default()),
                Ok(Event::InitApply(map)) => {
                    return format!("found {}", map.metadata.name.unwrap_or_default());
                }
                Ok(Event::InitDone) => return "listed".to_owned(),
                Ok(Event::Init) => {}
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), change).await.expect("an event")
}

#[tokio::test]
async fn watches_work_with_both_ways_to_begin() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::new();
    let (server, _trigger) = cluster.start(listener(), folder.path()).await;
    let client = cluster.client(server.addresses()[0]).await;
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    maps.create(&PostParams::default(), &map("a")).await.unwrap();
    let mut streams =
        [watch(&maps, InitialListStrategy::ListWatch), watch(&maps, InitialListStrategy::StreamingList)];
    for events in &mut streams {
        assert_eq!(next(events).await, "found a");
        assert_eq!(next(events).await, "listed");
    }
    maps.create(&PostParams::default(), &map("b")).await.unwrap();
    let patch = json!({"data": {"a": "2", "b": "3"}});
    let patched = maps.patch("b", &PatchParams::apply("test"), &Patch::Strategic(&patch)).await.unwrap();
    assert_eq!(patched.data.unwrap().len(), 2);
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    for events in &mut streams {
        for expected in ["apply b", "apply b", "delete a"] {
            assert_eq!(next(events).await, expected);
        }
    }
    let listed = maps.list(&ListParams::default().labels("watched=yes")).await.unwrap();
    assert_eq!(listed.items.len(), 1);
    let mut stale = maps.get("b").await.unwrap();
    stale.metadata.resource_version = Some("1".to_owned());
    let conflict = maps.replace("b", &PostParams::default(), &stale).await.unwrap_err();
    assert!(
        matches!(conflict, kube::Error::Api(status) if status.code == 409 && status.reason == "Conflict")
    );
}

#[tokio::test]
async fn watches_go_on_after_the_server_was_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::new();
    // As `lateen up` does it: the socket stays, so that connections queue while the server is away.
    let listener = listener();
    let (server, trigger) = cluster.start(listener.try_clone().unwrap(), folder.path()).await;
    let client = cluster.client(server.addresses()[0]).await;
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    maps.create(&PostParams::default(), &map("a")).await.unwrap();
    let mut events = watch(&maps, InitialListStrategy::ListWatch);
    assert_eq!(
        (next(&mut events).await, next(&mut events).await),
        ("found a".to_owned(), "listed".to_owned())
    );
    drop(server);
    assert_eq!(trigger.drain(Duration::from_secs(10)).await, drain::Outcome::Finished);
    let (_server, _trigger) = cluster.start(listener, folder.path()).await;
    maps.create(&PostParams::default(), &map("b")).await.unwrap();
    // Nothing is listed again: the watch resumes from the revision it had.
    assert_eq!(next(&mut events).await, "apply b");
}

#[tokio::test]
async fn tokens_are_issued_and_reviewed() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::new();
    let (server, _trigger) = cluster.start(listener(), folder.path()).await;
    let client = cluster.client(server.addresses()[0]).await;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    assert_eq!(namespaces.list(&ListParams::default()).await.unwrap().items.len(), 4);
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "kube-system");
    let request: TokenRequest = serde_json::from_value(json!({"spec": {"audiences": ["istio-ca"]}})).unwrap();
    let answer = accounts.create_token_request("default", &PostParams::default(), &request).await.unwrap();
    let token = serde_json::to_value(answer).unwrap()["status"]["token"].take();
    let review: TokenReview =
        serde_json::from_value(json!({"spec": {"token": token, "audiences": ["istio-ca"]}})).unwrap();
    let reviews: Api<TokenReview> = Api::all(client);
    let review =
        serde_json::to_value(reviews.create(&PostParams::default(), &review).await.unwrap()).unwrap();
    assert_eq!(review["status"]["authenticated"], true);
    assert_eq!(review["status"]["user"]["username"], "system:serviceaccount:kube-system:default");
}

#[tokio::test]
async fn controllers_apply() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::new();
    let (server, _trigger) = cluster.start(listener(), folder.path()).await;
    let client = cluster.client(server.addresses()[0]).await;
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let applied = |data: serde_json::Value| {
        Patch::Apply(
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": data}),
        )
    };
    let (one, two) = (PatchParams::apply("one"), PatchParams::apply("two"));
    maps.patch("m", &one, &applied(json!({"a": "1", "b": "1"}))).await.unwrap();
    maps.patch("m", &two, &applied(json!({"c": "2"}))).await.unwrap();
    let refused = maps.patch("m", &two, &applied(json!({"a": "2", "c": "2"}))).await.unwrap_err();
    let kube::Error::Api(status) = refused else { panic!("{refused}") };
    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
    assert_eq!(status.message, "Apply failed with 1 conflict: conflict with \"one\": .data.a");
    let causes = status.details.as_ref().map(|details| details.causes.clone()).unwrap_or_default();
    assert_eq!((causes[0].reason.as_str(), causes[0].field.as_str()), ("FieldManagerConflict", ".data.a"));
    let forced = maps.patch("m", &two.clone().force(), &applied(json!({"a": "2", "c": "2"}))).await.unwrap();
    let owner = |map: &ConfigMap, field: &str| {
        let entries = map.metadata.managed_fields.clone().unwrap_or_default();
        let owns = entries.into_iter().filter(|entry| {
            let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
            fields.is_some_and(|fields| fields["f:data"][format!("f:{field}")].is_object())
        });
        owns.filter_map(|entry| entry.manager).collect::<Vec<_>>()
    };
    assert_eq!((owner(&forced, "a"), owner(&forced, "b")), (vec!["two".to_owned()], vec!["one".to_owned()]));
    // Who gives up his last fields is no manager any more.
    let left = maps.patch("m", &one, &applied(json!({}))).await.unwrap();
    let data = left.data.clone().unwrap_or_default();
    assert_eq!(data.keys().collect::<Vec<_>>(), ["a", "c"]);
    assert!(owner(&left, "b").is_empty());
    let merged = json!({"data": {"d": "4"}});
    let edited = maps.patch("m", &PatchParams::apply("editor"), &Patch::Merge(&merged)).await.unwrap();
    assert_eq!(owner(&edited, "d"), ["editor"]);
}

#[tokio::test]
async fn subresources_are_applied_and_have_managers() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::new();
    let (server, _trigger) = cluster.start(listener(), folder.path()).await;
    let client = cluster.client(server.addresses()[0]).await;
    let deployments: Api<Deployment> = Api::namespaced(client, "default");
    let spec = |replicas: i32| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
    };
    let maker = PatchParams::apply("maker");
    deployments.patch("d", &maker, &Patch::Apply(spec(2))).await.unwrap();
    let scale = |replicas: i32| {
        Patch::Apply(json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "spec": {"replicas": replicas}}))
    };
    let scaler = PatchParams::apply("scaler");
    let conflict = |result: Result<(), kube::Error>| match result {
        Err(kube::Error::Api(status)) if status.code == 409 => status.message.clone(),
        other => panic!("no conflict: {other:?}"),
    };
    let refused = deployments.patch_scale("d", &scaler, &scale(3)).await.map(drop);
    assert_eq!(conflict(refused), "Apply failed with 1 conflict: conflict with \"maker\": .spec.replicas");
    // Who wants the same is no conflict, and manages it too.
    deployments.patch_scale("d", &scaler, &scale(2)).await.unwrap();
    let forced = deployments.patch_scale("d", &scaler.clone().force(), &scale(3)).await.unwrap();
    assert_eq!(forced.spec.and_then(|spec| spec.replicas), Some(3));
    let entries = deployments.get("d").await.unwrap().metadata.managed_fields.unwrap_or_default();
    let entry = entries.iter().find(|entry| entry.manager.as_deref() == Some("scaler")).expect("an entry");
    assert_eq!(entry.subresource.as_deref(), Some("scale"));
    assert_eq!((entry.operation.as_deref(), entry.api_version.as_deref()), (Some("Apply"), Some("apps/v1")));
    let fields = entry.fields_v1.as_ref().map(|fields| fields.0.clone());
    assert_eq!(fields, Some(json!({"f:spec": {"f:replicas": {}}})));
    let refused = deployments.patch("d", &maker, &Patch::Apply(spec(2))).await.map(drop);
    let expect =
        "Apply failed with 1 conflict: conflict with \"scaler\" with subresource \"scale\": .spec.replicas";
    assert_eq!(conflict(refused), expect);
    let other = Patch::Apply(json!({"apiVersion": "apps/v1", "kind": "Deployment"}));
    let wrong = deployments.patch_scale("d", &scaler, &other).await;
    assert!(matches!(wrong, Err(kube::Error::Api(status)) if status.code == 400));
    let gone = deployments.patch_scale("none", &scaler, &scale(1)).await;
    assert!(matches!(gone, Err(kube::Error::Api(status)) if status.code == 404));
    let status = json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "spec": {"replicas": 9}, "status": {"readyReplicas": 3, "replicas": 3}});
    let controller = PatchParams::apply("controller");
    let applied = deployments.patch_status("d", &controller, &Patch::Apply(status)).await.unwrap();
    assert_eq!(applied.spec.replicas, Some(3));
    assert_eq!(applied.status.and_then(|status| status.ready_replicas), Some(3));
}
