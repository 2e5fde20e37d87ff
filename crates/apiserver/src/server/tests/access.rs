//! Who is served, and what is made of odd requests.

use super::*;

#[tokio::test]
async fn only_known_clients_are_served() {
    let fixture = Fixture::new().await;
    let (code, version) = fixture.get("/version").await;
    assert_eq!((code, version["major"].as_str()), (200, Some("1")));
    let anonymous = |path: &str| fixture.anonymous.get(format!("{}{path}", fixture.base));
    assert_eq!(anonymous("/api/v1/namespaces").send().await.unwrap().status(), 403);
    assert_eq!(anonymous("/api").send().await.unwrap().status(), 403);
    assert_eq!(anonymous("/version").send().await.unwrap().status(), 200);
    assert_eq!(anonymous("/version").bearer_auth("nonsense").send().await.unwrap().status(), 401);
    let answer = fixture.anonymous.get(format!("{}/readyz", fixture.base)).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    fixture.until("/api/v1/namespaces/default/serviceaccounts/default", "came", |code, _| code == 200).await;
    let token = fixture.post(path, json!({"spec": {"audiences": ["istio-ca"]}})).await;
    let token = token["status"]["token"].as_str().unwrap().to_owned();
    let review = json!({"spec": {"token": token, "audiences": ["istio-ca"]}});
    let review = fixture.post("/apis/authentication.k8s.io/v1/tokenreviews", review).await;
    assert_eq!(review["status"]["user"]["username"], "system:serviceaccount:default:default");
    let review =
        fixture.post("/apis/authentication.k8s.io/v1/tokenreviews", json!({"spec": {"token": token}})).await;
    assert_eq!(review["status"]["authenticated"], false, "the token is not for this server");
    let token = fixture.post(path, json!({"spec": {}})).await["status"]["token"].as_str().unwrap().to_owned();
    let call =
        |path: &str| fixture.anonymous.get(format!("{}{path}", fixture.base)).bearer_auth(&token).send();
    assert_eq!(call("/version").await.unwrap().status(), 200);
    let refused = call("/api/v1/namespaces/default/pods").await.unwrap();
    assert_eq!(refused.status(), 403);
    let text = refused.text().await.unwrap();
    assert!(text.contains("cannot list resource"), "{text}");
    let mine = json!({"spec": {"resourceAttributes": {"verb": "list", "resource": "pods"}}});
    let review = fixture.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", mine).await;
    assert_eq!(review["status"]["allowed"], true);
    let review = fixture
        .anonymous
        .post(format!("{}/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", fixture.base))
        .bearer_auth(&token)
        .body(json!({"spec": {"resourceAttributes": {"verb": "list", "resource": "pods"}}}).to_string());
    let review: Value = serde_json::from_str(&review.send().await.unwrap().text().await.unwrap()).unwrap();
    assert_eq!(review["status"]["allowed"], false);
}

#[tokio::test]
async fn odd_objects_are_refused_or_repaired_but_harm_nothing() {
    let fixture = Fixture::new().await;
    let check = async |path: &str, body: Value, expect: u16| {
        let (code, answer) = fixture.call(Method::POST, path, Some(body.clone())).await;
        assert_eq!(code, expect, "{path} {body}: {answer}");
    };
    check(MAPS, json!([]), 400).await;
    check(MAPS, json!("text"), 400).await;
    check(MAPS, json!({"metadata": "text"}), 400).await;
    check(MAPS, json!({"kind": "Secret", "metadata": {"name": "a"}}), 400).await;
    check(MAPS, json!({"metadata": {"name": "a", "namespace": "other"}}), 400).await;
    check(MAPS, json!({"metadata": {"name": "a/b"}}), 422).await;
    check(MAPS, json!({"metadata": {}}), 422).await;
    check(MAPS, json!({"metadata": {"name": "a", "resourceVersion": "1"}}), 400).await;
    check(
        "/api/v1/namespaces",
        json!({"metadata": {"name": "odd", "labels": "x"}, "spec": 5, "status": []}),
        201,
    )
    .await;
    check("/api/v1/namespaces/default/services", json!({"metadata": {"name": "a"}, "spec": 5}), 201).await;
    check(
        "/api/v1/namespaces/default/services",
        json!({"metadata": {"name": "b"}, "spec": {"ports": [5]}}),
        201,
    )
    .await;
    check("/apis/authentication.k8s.io/v1/tokenreviews", json!([]), 400).await;
    check("/apis/authentication.k8s.io/v1/tokenreviews", json!({"spec": 5}), 201).await;
    check("/api/v1/namespaces/default/serviceaccounts/default/token", json!({"spec": 5}), 201).await;
    let (code, _) = fixture
        .call(Method::PUT, "/api/v1/namespaces/odd", Some(json!({"metadata": {"name": "odd"}, "spec": []})))
        .await;
    assert_eq!(code, 200);
}

#[tokio::test]
async fn warnings_and_content_types() {
    let fixture = Fixture::new().await;
    let request = |content_type: &str, accept: &str, body: &str| {
        fixture
            .admin
            .patch(format!("{}{MAPS}/kube-root-ca.crt", fixture.base))
            .header("content-type", content_type)
            .header("accept", accept)
            .body(body.to_owned())
            .send()
    };
    let patched =
        request("application/strategic-merge-patch+json", "*/*", r#"{"metadata":{"labels":{"a":"b"}}}"#)
            .await
            .unwrap();
    assert_eq!(patched.status(), 200);
    assert_eq!(patched.headers()["warning"], r#"299 - "a \"warning\"""#);
    assert_eq!(
        request("application/apply-patch+yaml", "*/*", "{}").await.unwrap().status(),
        422,
        "no manager"
    );
    assert_eq!(request("text/plain", "*/*", "{}").await.unwrap().status(), 415);
    let merge = "application/merge-patch+json";
    assert_eq!(request(merge, "application/vnd.kubernetes.protobuf", "{}").await.unwrap().status(), 406);
    assert_eq!(request(merge, "*/*", "{").await.unwrap().status(), 400);
}
