//! What is particular about some kinds.

use super::*;

#[tokio::test]
async fn versions_share_objects() {
    let fixture = Fixture::new().await;
    let things = |version: &str| format!("/apis/example.com/{version}/namespaces/default/things");
    let mut watch = fixture.watch(&format!("{}?watch=1", things("v1"))).await;
    let thing = json!({"apiVersion": "example.com/v1beta1", "kind": "Thing", "metadata": {"name": "a"}, "spec": {"x": 1}, "status": {"y": 1}});
    let created = fixture.post(&things("v1beta1"), thing).await;
    assert_eq!((&created["apiVersion"], &created["status"]), (&json!("example.com/v1beta1"), &Value::Null));
    assert_eq!(watch.next().await.unwrap()["object"]["apiVersion"], "example.com/v1");
    let (_, list) = fixture.get(&things("v1")).await;
    assert_eq!(list["items"][0]["apiVersion"], "example.com/v1");
    let path = format!("{}/a", things("v1"));
    let (_, status) = fixture
        .call(Method::PATCH, &format!("{path}/status"), Some(json!({"spec": {"x": 2}, "status": {"y": 2}})))
        .await;
    assert_eq!(
        (&status["spec"]["x"], &status["status"]["y"], &status["metadata"]["generation"]),
        (&json!(1), &json!(2), &json!(1))
    );
    let (_, main) =
        fixture.call(Method::PATCH, &path, Some(json!({"spec": {"x": 3}, "status": {"y": 3}}))).await;
    assert_eq!(
        (&main["spec"]["x"], &main["status"]["y"], &main["metadata"]["generation"]),
        (&json!(3), &json!(2), &json!(2))
    );
    let mut without = main.clone();
    without["metadata"]["resourceVersion"] = Value::Null;
    let (code, _) = fixture.call(Method::PUT, &path, Some(without)).await;
    assert_eq!(code, 422, "custom kinds insist on a revision");
}

#[tokio::test]
async fn scale_is_a_view_of_the_object() {
    let fixture = Fixture::new().await;
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let spec = json!({"replicas": 2, "selector": {"matchLabels": {"app": "a"}}});
    fixture.post(path, json!({"metadata": {"name": "a"}, "spec": spec})).await;
    let (_, scale) = fixture.get(&format!("{path}/a/scale")).await;
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["selector"]), (&json!(2), &json!("app=a")));
    let (code, scale) =
        fixture.call(Method::PATCH, &format!("{path}/a/scale"), Some(json!({"spec": {"replicas": 5}}))).await;
    assert_eq!((code, &scale["spec"]["replicas"]), (200, &json!(5)));
    let (code, scale) = fixture.call(Method::PUT, &format!("{path}/a/scale"), Some(scale)).await;
    assert_eq!((code, &scale["kind"]), (200, &json!("Scale")));
    let (_, object) = fixture.get(&format!("{path}/a")).await;
    assert_eq!((&object["spec"]["replicas"], &object["metadata"]["generation"]), (&json!(5), &json!(2)));
    assert_eq!(fixture.get(&format!("{MAPS}/kube-root-ca.crt/scale")).await.0, 404);
}

#[tokio::test]
async fn services_get_addresses_and_ports_of_their_own() {
    let fixture = Fixture::new().await;
    let path = "/api/v1/namespaces/default/services";
    let service = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
    let (_, own) = fixture.get(&format!("{path}/kubernetes")).await;
    assert_eq!(own["spec"]["clusterIP"], "10.96.0.1");
    let a = fixture.post(path, service("a", json!({"ports": [{"port": 80}]}))).await;
    let address = a["spec"]["clusterIP"].as_str().unwrap().to_owned();
    assert!(address.starts_with("10.96.") && a["spec"]["ipFamilies"] == json!(["IPv4"]), "{a}");
    let refused = |spec: Value| fixture.call(Method::POST, path, Some(service("x", spec)));
    assert_eq!(refused(json!({"clusterIP": address})).await.0, 422);
    assert_eq!(refused(json!({"clusterIP": "10.97.0.1"})).await.0, 422);
    assert_eq!(refused(json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]})).await.0, 422);
    let b = fixture.post(path, service("b", json!({"clusterIP": "10.96.0.11", "type": "LoadBalancer", "ports": [{"port": 80}, {"port": 81, "nodePort": 30001}]}))).await;
    assert_eq!(
        (&b["spec"]["clusterIP"], &b["spec"]["ports"][1]["nodePort"]),
        (&json!("10.96.0.11"), &json!(30001))
    );
    let automatic = b["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    assert!((30000..=32767).contains(&automatic) && automatic != 30001);
    assert_eq!(refused(json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30001}]})).await.0, 422);
    let headless =
        fixture.post(path, service("c", json!({"clusterIP": "None", "ports": [{"port": 80}]}))).await;
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    // A client that applies its file again mentions nothing of what was allocated.
    let put = json!({"metadata": {"name": "b"}, "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}});
    let (code, b) = fixture.call(Method::PUT, &format!("{path}/b"), Some(put)).await;
    assert_eq!(
        (code, &b["spec"]["clusterIP"], &b["spec"]["ports"][0]["nodePort"]),
        (200, &json!("10.96.0.11"), &json!(automatic))
    );
    fixture.call(Method::DELETE, &format!("{path}/b"), None).await;
    let spec =
        json!({"clusterIP": "10.96.0.11", "type": "NodePort", "ports": [{"port": 80, "nodePort": 30001}]});
    fixture.post(path, service("d", spec)).await;
}

#[tokio::test]
async fn namespaces_are_filled_and_emptied() {
    let fixture = Fixture::new().await;
    fixture.post("/api/v1/namespaces", json!({"metadata": {"name": "n"}})).await;
    let map = "/api/v1/namespaces/n/configmaps/kube-root-ca.crt";
    let root = fixture.until(map, "came", |code, _| code == 200).await;
    assert!(root["data"]["ca.crt"].as_str().unwrap().contains("CERTIFICATE"));
    fixture.call(Method::DELETE, map, None).await;
    fixture.until(map, "came again", |code, _| code == 200).await;
    let held = json!({"metadata": {"name": "held", "finalizers": ["example.com/hold"]}});
    fixture.post("/api/v1/namespaces/n/configmaps", held).await;
    fixture.call(Method::DELETE, "/api/v1/namespaces/n", None).await;
    let namespace = fixture.get("/api/v1/namespaces/n").await.1;
    assert_eq!(namespace["status"]["phase"], "Terminating");
    let (code, status) = fixture
        .call(Method::POST, "/api/v1/namespaces/n/configmaps", Some(config_map("late", json!({}))))
        .await;
    assert_eq!((code, status["reason"].as_str()), (403, Some("Forbidden")));
    fixture.until(map, "went", |code, _| code == 404).await;
    assert_eq!(fixture.get("/api/v1/namespaces/n").await.0, 200, "a finalizer is waited for");
    let free = json!({"metadata": {"finalizers": null}});
    fixture.call(Method::PATCH, "/api/v1/namespaces/n/configmaps/held", Some(free)).await;
    fixture.until("/api/v1/namespaces/n", "went", |code, _| code == 404).await;
}

#[tokio::test]
async fn pods_wait_for_their_node() {
    let fixture = Fixture::new().await;
    let path = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "node", "terminationGracePeriodSeconds": 7, "containers": [{"name": "c"}]}});
    fixture.post(path, pod).await;
    let (_, list) =
        fixture.get(&format!("{path}?fieldSelector=spec.nodeName%3Dnode,status.phase!%3DFailed")).await;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1));
    let (code, begun) = fixture.call(Method::DELETE, &format!("{path}/p"), None).await;
    assert_eq!((code, &begun["metadata"]["deletionGracePeriodSeconds"]), (200, &json!(7)));
    let (_, touched) = fixture
        .call(Method::PATCH, &format!("{path}/p"), Some(json!({"metadata": {"labels": {"a": "b"}}})))
        .await;
    assert_eq!(touched["metadata"]["deletionTimestamp"], begun["metadata"]["deletionTimestamp"]);
    assert_eq!(fixture.get(&format!("{path}/p")).await.0, 200, "a change does not remove it");
    fixture.call(Method::DELETE, &format!("{path}/p?gracePeriodSeconds=0"), None).await;
    assert_eq!(fixture.get(&format!("{path}/p")).await.0, 404);
}

#[tokio::test]
async fn logs_come_from_the_node() {
    use http_body_util::Full;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("node.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(|request: http::Request<hyper::body::Incoming>| async move {
                let text = format!("{}\n", request.uri());
                Ok::<_, Infallible>(http::Response::new(Full::new(bytes::Bytes::from(text))))
            });
            let serve =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(async move { drop(serve.await) });
        }
    });
    let fixture = Fixture::in_folder(folder, Some(socket)).await;
    let path = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "node", "containers": [{"name": "c"}, {"name": "d"}]}});
    fixture.post(path, pod).await;
    let (code, text) = fixture.get(&format!("{path}/p/log?container=c&tailLines=5&follow=true")).await;
    assert_eq!((code, text), (200, json!("/containerLogs/default/p/c?follow=true&tailLines=5\n")));
    assert_eq!(fixture.get(&format!("{path}/p/log")).await.0, 400);
    assert_eq!(fixture.get(&format!("{path}/p/log?container=x")).await.0, 400);
    assert_eq!(fixture.get(&format!("{path}/q/log")).await.0, 404);
}
