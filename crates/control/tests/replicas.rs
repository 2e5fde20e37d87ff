//! Two replicas of the control plane behind one API: one leads, both serve, and either may die.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    missing_docs,
    reason = "a test may panic and print"
)]

mod support;

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::Value;
use support::{Api, Proxy, Replica, until};

async fn holder(api: &Api) -> Option<String> {
    let lease = api.get("coordination.k8s.io/v1", "Lease", "istio-system", "lateen-leader").await?;
    lease["spec"]["holderIdentity"].as_str().map(str::to_owned)
}

async fn reconciled(api: &Api, name: &str, wanted: &str) {
    let last = std::cell::RefCell::new(String::new());
    let what = format!("the status of {name} to say {wanted:?}");
    until(&what, || async {
        let said = api.reconciled("VirtualService", name).await;
        let is = said.contains(wanted);
        if *last.borrow() != said {
            eprintln!("{name}: {said}");
            last.replace(said);
        }
        is.then_some(())
    })
    .await;
}

fn progress(page: &Value) -> (u64, u64) {
    (page["acknowledged"].as_u64().unwrap_or(99), page["concerned"].as_u64().unwrap_or(99))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_leads_both_serve_and_either_may_die() {
    let folder = tempfile::tempdir().unwrap();
    let api = Api::start(&folder.path().join("api")).await;
    for index in 0..20 {
        api.service(&format!("service-{index}"), &format!("10.1.0.{index}")).await;
    }
    api.rule("service-0", "1s").await;
    let start = |name: &str| Replica::spawn(name, &api.kubeconfig, folder.path());
    let mut first = start("first");
    first.ready().await;
    until("the first to lead", || async { holder(&api).await.filter(|name| name == "first") }).await;
    let second = start("second");
    second.ready().await;
    for replica in [&first, &second] {
        api.put(replica.slice()).await;
    }

    // Proxies on both; the leader counts them all, and either can be asked.
    let token = api.token("shop").await;
    let (one, other) = (first.plaintext(), second.plaintext());
    let proxies = [
        Proxy::start("a", &token, vec![one, other]),
        Proxy::start("b", &token, vec![one, other]),
        Proxy::start("c", &token, vec![other, one]),
    ];
    for proxy in &proxies {
        until("a proxy to hold everything", || async { proxy.is_complete().then_some(()) }).await;
    }
    assert_eq!(*proxies[2].seen.at.lock(), Some(other));
    reconciled(&api, "service-0", "3 of 3 proxies").await;
    api.rule("service-1", "1s").await;
    reconciled(&api, "service-1", "3 of 3 proxies").await;
    let path = "/debug/distribution?kind=VirtualService&namespace=shop&name=service-1";
    for replica in [&first, &second] {
        assert_eq!(progress(&replica.page(path).await), (3, 3), "{}", replica.name);
    }
    assert_eq!(progress(&second.page(&format!("{path}&local=true")).await), (1, 1));

    // A proxy that leaves counts no longer; one that comes counts.
    let [a, b, c] = proxies;
    drop(b);
    reconciled(&api, "service-1", "2 of 2 proxies").await;
    let d = Proxy::start("d", &token, vec![other, one]);
    reconciled(&api, "service-1", "3 of 3 proxies").await;
    // Only the leader has written.
    assert_eq!(holder(&api).await.as_deref(), Some("first"));
    assert!(!second.log().contains("leads=true"), "{}", second.log());

    // The leader dies: the other takes over, proxies come to it and are sent next to nothing.
    let (all, before) = (a.bytes(), a.bytes());
    assert!(all > 10_000, "{all}");
    first.kill();
    until("the second to lead", || async { holder(&api).await.filter(|name| name == "second") }).await;
    until("the proxy to come to the second", || async {
        (progress(&second.page(&format!("{path}&local=true")).await) == (3, 3)).then_some(())
    })
    .await;
    assert_eq!(*a.seen.at.lock(), Some(other));
    let resumed = a.bytes() - before;
    assert!(resumed * 100 <= all, "{resumed} bytes again, of {all}");

    // As Kubernetes does for a Pod that has gone; until then its answer is waited for.
    api.put({
        let mut slice = first.slice();
        slice["endpoints"][0]["conditions"]["ready"] = false.into();
        slice
    })
    .await;
    api.rule("service-1", "2s").await;
    reconciled(&api, "service-1", "3 of 3 proxies").await;
    reconciled(&api, "service-0", "3 of 3 proxies").await;

    // One that refuses is named.
    c.seen.refuses.store(true, Ordering::Relaxed);
    api.rule("service-2", "1s").await;
    reconciled(&api, "service-2", "1 of 3 proxies refuse it; c.shop says: ").await;
    drop((a, d));
    tokio::time::sleep(Duration::ZERO).await;
}
