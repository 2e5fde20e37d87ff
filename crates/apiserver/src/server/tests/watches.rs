//! Lists and watches.

use super::*;

#[tokio::test]
async fn lists_are_selected_paged_and_tabled() {
    let fixture = Fixture::new().await;
    for index in 0..5 {
        let labels = json!({"parity": if index % 2 == 0 { "even" } else { "odd" }});
        fixture.post(MAPS, config_map(&format!("map-{index}"), labels)).await;
    }
    let names = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().unwrap().iter();
        items.map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    let (_, list) = fixture.get(&format!("{MAPS}?labelSelector=parity%3Dodd")).await;
    assert_eq!(
        (list["kind"].as_str(), names(&list)),
        (Some("ConfigMapList"), vec!["map-1".to_owned(), "map-3".to_owned()])
    );
    let (_, list) = fixture.get(&format!("{MAPS}?fieldSelector=metadata.name%3Dmap-2")).await;
    assert_eq!(names(&list), ["map-2"]);
    let (code, _) = fixture.get(&format!("{MAPS}?fieldSelector=data.a%3D1")).await;
    assert_eq!(code, 400);
    let (_, first) = fixture.get(&format!("{MAPS}?limit=2&labelSelector=parity")).await;
    fixture.call(Method::DELETE, &format!("{MAPS}/map-3"), None).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let (_, rest) = fixture.get(&format!("{MAPS}?limit=10&labelSelector=parity&continue={token}")).await;
    assert_eq!(
        (names(&first).len(), names(&rest)),
        (2, vec!["map-2".to_owned(), "map-3".to_owned(), "map-4".to_owned()])
    );
    assert_eq!(
        first["metadata"]["resourceVersion"], rest["metadata"]["resourceVersion"],
        "one list of one moment"
    );
    let (_, counted) = fixture.get(&format!("{MAPS}?limit=1")).await;
    assert_eq!(counted["metadata"]["remainingItemCount"], 4, "{counted}");
    let revision = first["metadata"]["resourceVersion"].as_str().unwrap();
    let exact = format!("{MAPS}?labelSelector=parity&resourceVersionMatch=Exact&resourceVersion={revision}");
    assert_eq!(names(&fixture.get(&exact).await.1).len(), 5, "the past");
    let newer =
        format!("{MAPS}?labelSelector=parity&resourceVersionMatch=NotOlderThan&resourceVersion={revision}");
    assert_eq!(names(&fixture.get(&newer).await.1).len(), 4, "the newest state");
    for (query, code) in [
        ("resourceVersionMatch=Exact", 422),
        ("resourceVersionMatch=Exact&resourceVersion=0", 422),
        ("resourceVersionMatch=Other&resourceVersion=1", 422),
        ("sendInitialEvents=true", 422),
        ("resourceVersion=99999999", 504),
        (&format!("continue={token}&resourceVersion=7"), 400),
        (&format!("continue={token}&resourceVersionMatch=Exact"), 422),
        ("continue=nonsense", 400),
        ("watch=1&resourceVersionMatch=NotOlderThan", 422),
    ] {
        assert_eq!(fixture.get(&format!("{MAPS}?{query}")).await.0, code, "{query}");
    }
    let old = "WzEsImRlZmF1bHQiLCJtYXAtMSJd"; // [1,"default","map-1"]
    fixture.server.compact();
    let (code, expired) = fixture.get(&format!("{MAPS}?continue={old}")).await;
    assert_eq!((code, expired["reason"].as_str()), (410, Some("Expired")));
    let token = expired["metadata"]["continue"].as_str().unwrap();
    assert_eq!(names(&fixture.get(&format!("{MAPS}?continue={token}")).await.1), ["map-2", "map-4"]);
    let table = fixture
        .admin
        .get(format!("{}{MAPS}?labelSelector=parity", fixture.base))
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
        .send();
    let table: Value = serde_json::from_str(&table.await.unwrap().text().await.unwrap()).unwrap();
    assert_eq!((table["kind"].as_str(), &table["rows"][0]["cells"]), (Some("Table"), &json!(["map-0"])));
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let (code, _) = fixture.call(Method::DELETE, &format!("{MAPS}?labelSelector=parity"), None).await;
    assert_eq!((code, names(&fixture.get(&format!("{MAPS}?labelSelector=parity")).await.1).len()), (200, 0));
}

#[tokio::test]
async fn watches_see_changes_in_order_through_their_selectors() {
    let fixture = Fixture::new().await;
    let first = fixture.post(MAPS, config_map("a", json!({"x": "1"}))).await;
    let mut from_now = fixture.watch(&format!("{MAPS}?watch=1&labelSelector=x%3D1")).await;
    assert_eq!(from_now.summary().await, ("ADDED".into(), "a".into()));
    let path = format!("{MAPS}/a");
    let label = |value: &str| json!({"metadata": {"labels": {"x": value}}});
    for value in ["2", "1"] {
        fixture.call(Method::PATCH, &path, Some(label(value))).await;
    }
    fixture.call(Method::PATCH, &path, Some(json!({"data": {"a": "9"}}))).await;
    fixture.call(Method::DELETE, &path, None).await;
    for expected in ["DELETED", "ADDED", "MODIFIED", "DELETED"] {
        assert_eq!(from_now.summary().await, (expected.into(), "a".into()));
    }
    let revision = first["metadata"]["resourceVersion"].as_str().unwrap();
    let mut resumed = fixture.watch(&format!("{MAPS}?watch=1&resourceVersion={revision}")).await;
    for expected in ["MODIFIED", "MODIFIED", "MODIFIED", "DELETED"] {
        assert_eq!(resumed.summary().await, (expected.into(), "a".into()));
    }
    fixture.server.compact();
    let late = fixture.watch(&format!("{MAPS}?watch=1&resourceVersion={revision}")).await;
    assert_eq!(late.code, 410);
    let future = fixture.watch(&format!("{MAPS}?watch=1&resourceVersion=99999999")).await;
    assert_eq!(future.code, 504);
    let mut short = fixture
        .watch(&format!("{MAPS}?watch=1&timeoutSeconds=1&resourceVersion=0&fieldSelector=metadata.name%3Dx"))
        .await;
    assert_eq!(short.next().await, None, "the watch ends when it was asked to");
}

#[tokio::test]
async fn a_watch_list_ends_its_first_part_with_a_bookmark() {
    let fixture = Fixture::new().await;
    fixture.post(MAPS, config_map("a", json!({"x": "1"}))).await;
    let query = "watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan&labelSelector=x";
    let mut watch = fixture.watch(&format!("{MAPS}?{query}")).await;
    assert_eq!(watch.summary().await, ("ADDED".into(), "a".into()));
    let bookmark = watch.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    fixture.post(MAPS, config_map("b", json!({"x": "1"}))).await;
    assert_eq!(watch.summary().await, ("ADDED".into(), "b".into()));
    let (_, list) = fixture.get(MAPS).await;
    assert_eq!(fixture.watch(&format!("{MAPS}?watch=1&sendInitialEvents=true")).await.code, 422);
    assert!(
        list["metadata"]["resourceVersion"].as_str()
            > bookmark["object"]["metadata"]["resourceVersion"].as_str()
    );
}

#[tokio::test]
async fn a_slow_watch_is_expired_and_delays_nobody() {
    let fixture = Fixture::new().await;
    fixture.post(MAPS, config_map("a", json!({"x": "1"}))).await;
    // A connection of its own, from which nothing is read: what the kernel's buffers do not take is not sent.
    let slow = fixture.other_watch(&format!("{MAPS}?watch=1&labelSelector=x")).await;
    let mut quick = fixture.watch(&format!("{MAPS}?watch=1&labelSelector=x%3Dsome")).await;
    let table = crate::store::table_name(Resource::new("", "configmaps"));
    let write = |count: usize| {
        let (server, table) = (&fixture.server, table.clone());
        let name = format!("m{count}");
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": "default", "labels": {"x": if count.is_multiple_of(100) { "some" } else { "1" }}},
            "data": {"a": "y".repeat(20_000)}});
        async move {
            let expect = crate::store::Expect::Absent;
            let namespace = "default".to_owned();
            let write = crate::store::Write { table, namespace, name, object: Some(object), expect };
            server.store.write(write).await.unwrap();
        }
    };
    let writes = async {
        for batch in 0..18 {
            futures::future::join_all((batch * 100..(batch + 1) * 100).map(write)).await;
        }
    };
    let reads = async {
        for _ in 0..18 {
            assert_eq!(quick.summary().await.0, "ADDED");
        }
    };
    tokio::join!(writes, reads);
    let mut slow = slow;
    loop {
        let event = slow.next().await.expect("an error before the end");
        if event["type"] == "ERROR" {
            assert_eq!(
                (&event["object"]["code"], &event["object"]["reason"]),
                (&json!(410), &json!("Expired"))
            );
            break;
        }
    }
    assert_eq!(slow.next().await, None);
}
