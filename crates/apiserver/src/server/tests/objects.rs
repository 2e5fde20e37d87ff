//! The life of objects.

use super::*;

#[tokio::test]
async fn objects_are_created_read_changed_and_removed() {
    let fixture = Fixture::new().await;
    let created = fixture.post(MAPS, config_map("a", json!({}))).await;
    assert_eq!(created["metadata"]["namespace"], "default");
    assert!(created["metadata"]["uid"].is_string() && created["metadata"]["creationTimestamp"].is_string());
    let (code, status) = fixture.call(Method::POST, MAPS, Some(config_map("a", json!({})))).await;
    assert_eq!((code, status["reason"].as_str()), (409, Some("AlreadyExists")));
    let mut changed = created.clone();
    changed["data"]["a"] = "2".into();
    changed["metadata"]["uid"] = Value::Null;
    let (code, updated) = fixture.call(Method::PUT, &format!("{MAPS}/a"), Some(changed.clone())).await;
    assert_eq!((code, &updated["metadata"]["uid"]), (200, &created["metadata"]["uid"]));
    let (code, status) = fixture.call(Method::PUT, &format!("{MAPS}/a"), Some(changed)).await;
    assert_eq!((code, status["reason"].as_str()), (409, Some("Conflict")));
    let (code, patched) =
        fixture.call(Method::PATCH, &format!("{MAPS}/a"), Some(json!({"data": {"b": "3"}}))).await;
    assert_eq!((code, &patched["data"]), (200, &json!({"a": "2", "b": "3"})));
    let (_, again) =
        fixture.call(Method::PATCH, &format!("{MAPS}/a"), Some(json!({"data": {"b": "3"}}))).await;
    assert_eq!(
        again["metadata"]["resourceVersion"], patched["metadata"]["resourceVersion"],
        "nothing was written"
    );
    let (code, _) =
        fixture.call(Method::PATCH, &format!("{MAPS}/a?dryRun=All"), Some(json!({"data": {"b": "4"}}))).await;
    assert_eq!((code, &fixture.get(&format!("{MAPS}/a")).await.1["data"]["b"]), (200, &json!("3")));
    let (code, status) =
        fixture.call(Method::PATCH, &format!("{MAPS}/a"), Some(json!({"data": {"refuse": "1"}}))).await;
    assert_eq!((code, status["message"].as_str()), (400, Some("refused")));
    let (code, status) = fixture.call(Method::DELETE, &format!("{MAPS}/a"), None).await;
    assert_eq!((code, status["status"].as_str()), (200, Some("Success")));
    let (code, status) = fixture.get(&format!("{MAPS}/a")).await;
    assert_eq!((code, status["details"]["name"].as_str()), (404, Some("a")));
    let (code, _) = fixture
        .call(Method::POST, "/api/v1/namespaces/nowhere/configmaps", Some(config_map("a", json!({}))))
        .await;
    assert_eq!(code, 404);
    let generated = fixture.post(MAPS, json!({"metadata": {"generateName": "b-"}})).await;
    assert_eq!(generated["metadata"]["name"].as_str().map(str::len), Some(7));
}

#[tokio::test]
async fn writes_that_race_are_all_kept() {
    let fixture = Fixture::new().await;
    fixture.post(MAPS, config_map("a", json!({}))).await;
    let path = format!("{MAPS}/a");
    let patches = (0..16).map(|index| {
        fixture.call(Method::PATCH, &path, Some(json!({"data": {format!("key-{index}"): "x"}})))
    });
    assert!(futures::future::join_all(patches).await.iter().all(|(code, _)| *code == 200));
    assert_eq!(fixture.get(&path).await.1["data"].as_object().map(|data| data.len()), Some(17));
}

#[tokio::test]
async fn what_is_owned_goes_with_its_owner() {
    let fixture = Fixture::new().await;
    let owner = |name: &str| fixture.post(MAPS, config_map(name, json!({})));
    let reference = |owner: &Value, block: bool| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"], "blockOwnerDeletion": block})
    };
    let owned =
        |name: &str, owners: Vec<Value>| json!({"metadata": {"name": name, "ownerReferences": owners}});
    let (a, b) = (owner("a").await, owner("b").await);
    fixture.post(MAPS, owned("of-a", vec![reference(&a, false)])).await;
    fixture.post(MAPS, owned("of-both", vec![reference(&a, false), reference(&b, false)])).await;
    fixture.call(Method::DELETE, &format!("{MAPS}/a"), None).await;
    fixture.until(&format!("{MAPS}/of-a"), "went", |code, _| code == 404).await;
    let one = |_: u16, object: &Value| {
        object["metadata"]["ownerReferences"].as_array().is_some_and(|list| list.len() == 1)
    };
    fixture.until(&format!("{MAPS}/of-both"), "lost an owner", one).await;
    fixture.call(Method::DELETE, &format!("{MAPS}/b?propagationPolicy=Orphan"), None).await;
    fixture.until(&format!("{MAPS}/b"), "went", |code, _| code == 404).await;
    let left = fixture.get(&format!("{MAPS}/of-both")).await;
    assert_eq!((left.0, &left.1["metadata"]["ownerReferences"]), (200, &Value::Null));
    let c = owner("c").await;
    let mut held = owned("of-c", vec![reference(&c, true)]);
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    fixture.post(MAPS, held).await;
    fixture.call(Method::DELETE, &format!("{MAPS}/c?propagationPolicy=Foreground"), None).await;
    fixture
        .until(&format!("{MAPS}/of-c"), "began to go", |_, object| {
            object["metadata"]["deletionTimestamp"].is_string()
        })
        .await;
    assert_eq!(fixture.get(&format!("{MAPS}/c")).await.0, 200, "the owner waits");
    let free = json!({"metadata": {"finalizers": null}});
    fixture.call(Method::PATCH, &format!("{MAPS}/of-c"), Some(free)).await;
    fixture.until(&format!("{MAPS}/c"), "went", |code, _| code == 404).await;
    // Foreground all the way down: a grandchild that is held holds its parent and its grandparent.
    let d = owner("d").await;
    let child = fixture.post(MAPS, owned("of-d", vec![reference(&d, true)])).await;
    let mut held = owned("of-of-d", vec![reference(&child, true)]);
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    fixture.post(MAPS, held).await;
    fixture.call(Method::DELETE, &format!("{MAPS}/d?propagationPolicy=Foreground"), None).await;
    let begun = |_: u16, object: &Value| object["metadata"]["deletionTimestamp"].is_string();
    fixture.until(&format!("{MAPS}/of-of-d"), "began to go", begun).await;
    assert_eq!(fixture.get(&format!("{MAPS}/of-d")).await.0, 200);
    // A changed mind: now the owner need not wait.
    fixture.call(Method::DELETE, &format!("{MAPS}/d?propagationPolicy=Background"), None).await;
    assert_eq!(fixture.get(&format!("{MAPS}/d")).await.0, 404);
    let free = json!({"metadata": {"finalizers": null}});
    fixture.call(Method::PATCH, &format!("{MAPS}/of-of-d"), Some(free)).await;
    fixture.until(&format!("{MAPS}/of-d"), "went", |code, _| code == 404).await;
    let wrong = fixture.call(Method::DELETE, &format!("{MAPS}/of-both?propagationPolicy=Never"), None).await;
    assert_eq!(wrong.0, 422);
    let gone = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "no-such-uid"});
    fixture.post(MAPS, owned("late", vec![gone])).await;
    fixture.until(&format!("{MAPS}/late"), "went", |code, _| code == 404).await;
}

#[tokio::test]
async fn a_drain_ends_watches_and_the_next_start_has_every_object() {
    let fixture = Fixture::new().await;
    fixture.post(MAPS, config_map("a", json!({"x": "1"}))).await;
    let mut watch = fixture.watch(&format!("{MAPS}?watch=1&labelSelector=x")).await;
    assert_eq!(watch.summary().await.1, "a");
    let (base, client) = (fixture.base.clone(), fixture.admin.clone());
    let folder = fixture.stop().await;
    assert_eq!(watch.next().await, None);
    assert!(client.get(format!("{base}/version")).send().await.is_err());
    let fixture = Fixture::in_folder(folder, None).await;
    assert_eq!(fixture.get(&format!("{MAPS}/a")).await.0, 200);
    // Each start of the fixture has an authority of its own; the old one's certificate must not stay.
    let (_, root) = fixture.get(&format!("{MAPS}/kube-root-ca.crt")).await;
    assert_eq!(root["data"]["ca.crt"], fixture.root.as_str());
}
