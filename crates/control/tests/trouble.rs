//! What may go wrong around the control plane: an API that is not there, goes away or refuses, and settings that are
//! broken.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    missing_docs,
    reason = "a test may panic and print"
)]

mod support;

use serde_json::json;
use support::{Api, LIMIT, Proxy, Replica, until};

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_comes_late_goes_and_comes_again_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let mut api = Api::start(&folder.path().join("api")).await;
    api.service("a", "10.1.0.1").await;
    let token = api.token("shop").await;
    api.stop();

    // Nobody there yet: it waits, and says so once.
    let mut replica = Replica::spawn("istiod", &api.kubeconfig, folder.path());
    let waits = "does not answer, and is waited for";
    until("the word that it waits", || async { replica.log().contains(waits).then_some(()) }).await;
    assert!(replica.process.try_wait().unwrap().is_none(), "{}", replica.log());
    api.start_again().await;
    replica.ready().await;
    assert_eq!(replica.log().matches(waits).count(), 1, "{}", replica.log());

    let proxy = Proxy::start("a", &token, vec![replica.plaintext()]);
    let holds = |name: &'static str| {
        let seen = &proxy.seen;
        move || async move {
            let clusters =
                seen.held.lock().get(lateen_envoy::type_urls::CLUSTER).cloned().unwrap_or_default();
            clusters.contains(&format!("outbound|80||{name}.shop.svc.cluster.local")).then_some(())
        }
    };
    until("the first service", holds("a")).await;

    // It goes and comes again: proxies keep what they have, and what changed meanwhile and after is followed.
    api.stop();
    let stale = || async {
        let clusters = replica.page("/debug/clusterz").await;
        (clusters[0]["syncStatus"] == "stale").then_some(())
    };
    until("the word that the cluster does not answer", stale).await;
    assert!(holds("a")().await.is_some());
    api.start_again().await;
    api.service("b", "10.1.0.2").await;
    until("a service that came after", holds("b")).await;
    until("the word that the cluster answers", || async {
        let clusters = replica.page("/debug/clusterz").await;
        (clusters[0]["syncStatus"] == "synced").then_some(())
    })
    .await;
    let log = replica.log();
    for line in
        ["namespaces cannot be watched", "the Secrets of further clusters cannot", "the platform fails"]
    {
        assert_eq!(log.matches(line).count(), 1, "{line}: {log}");
    }
    let restarts = replica.log().matches("a proxy connected").count();
    assert_eq!(restarts, 1, "the proxy's stream was not touched");

    // Settings are read anew; broken ones leave the last good ones in force.
    let settings = |text: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "istio", "namespace": "istio-system"},
            "data": {"mesh": text}})
    };
    let mesh = || async { replica.page("/debug/mesh").await };
    api.put(settings("accessLogFile: /dev/stdout\npathNormalization: {normalization: MERGE_SLASHES}\n"))
        .await;
    until("the settings", || async { (mesh().await["accessLogFile"] == "/dev/stdout").then_some(()) }).await;
    assert_eq!(replica.metric("lateen_settings_without_effect ").await, Some(1.0));
    assert!(replica.log().contains("pathNormalization: has no effect"), "{}", replica.log());
    assert_eq!(replica.metric("lateen_unreadable_objects{kind=\"Mesh\"} ").await, Some(0.0));
    api.put(settings("accessLogFile: [\n")).await;
    until("the problem", || async {
        let broken = replica.metric("lateen_unreadable_objects{kind=\"Mesh\"} ").await;
        (broken == Some(1.0)).then_some(())
    })
    .await;
    assert_eq!(mesh().await["accessLogFile"], "/dev/stdout");
    let problems = replica.page("/debug/problemz").await;
    assert!(problems.to_string().contains("data.mesh"), "{problems}");
    api.put(settings("accessLogFile: /dev/stderr\n")).await;
    until("better settings", || async { (mesh().await["accessLogFile"] == "/dev/stderr").then_some(()) })
        .await;
    assert_eq!(replica.metric("lateen_unreadable_objects{kind=\"Mesh\"} ").await, Some(0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_never_work_ends_with_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let api = Api::start(&folder.path().join("api")).await;
    let good = std::fs::read_to_string(&api.kubeconfig).unwrap();
    let mut other: serde_json::Value =
        serde_json::to_value(kube::config::Kubeconfig::from_yaml(&good).unwrap()).unwrap();
    let elsewhere = Api::start(&folder.path().join("elsewhere")).await;
    let theirs =
        serde_json::to_value(kube::config::Kubeconfig::read_from(&elsewhere.kubeconfig).unwrap()).unwrap();
    let mut distrusting = other.clone();
    distrusting["clusters"][0]["cluster"]["certificate-authority-data"] =
        theirs["clusters"][0]["cluster"]["certificate-authority-data"].clone();
    other["users"][0]["user"] = json!({"token": "wrong"});
    for (name, kubeconfig, reason) in [
        ("no-file", None, "the kubeconfig"),
        ("nonsense", Some("clusters: [".to_owned()), "the kubeconfig"),
        ("wrong-token", Some(other.to_string()), "the kubeconfig's credentials are not"),
        ("wrong-authority", Some(distrusting.to_string()), "certificate-authority is not that of this API"),
    ] {
        let path = folder.path().join(format!("{name}.kubeconfig"));
        if let Some(text) = kubeconfig {
            std::fs::write(&path, text).unwrap();
        }
        let mut replica = Replica::spawn(name, &path, folder.path());
        let status = tokio::time::timeout(LIMIT, async {
            loop {
                if let Some(status) = replica.process.try_wait().unwrap() {
                    return status;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("{name}: it goes on: {}", replica.log()));
        let log = replica.log();
        assert!(!status.success(), "{name}: {log}");
        assert!(log.contains(reason), "{name}: {log}");
        assert_eq!(log.matches("ERROR").count(), 1, "{name}: {log}");
        assert!(log.lines().count() <= 3, "{name}: {log}");
    }
}
