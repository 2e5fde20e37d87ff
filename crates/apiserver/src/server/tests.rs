//! The server over loopback and TLS, with a schema side that lets everything pass: what is tested here is the REST
//! layer, the store behind it, and the tasks in the background.

use super::*;
use crate::seam::{
    Admitted, Document, FieldValidation, KindInfo, KindTable, Origin, ScalePaths, Subresource, WriteRequest,
};
use crate::status::Status;
use futures::future::BoxFuture;
use reqwest::Method;
use serde_json::{Value, json};

/// Kinds without schemas.
struct Bare {
    kinds: Arc<KindTable>,
}

fn kind(
    group: &str,
    plural: &str,
    name: &str,
    namespaced: bool,
    subresources: &[&'static str],
) -> Arc<KindInfo> {
    let subresource = |sub: &&'static str| Subresource {
        name: sub,
        group: group.into(),
        version: "v1".into(),
        kind: name.into(),
        verbs: vec!["get", "update", "patch"],
    };
    let custom = group == "example.com";
    Arc::new(KindInfo {
        group: group.into(),
        version: "v1".into(),
        kind: name.into(),
        list_kind: format!("{name}List"),
        plural: plural.into(),
        singular: name.to_lowercase(),
        short_names: vec![],
        categories: vec![],
        namespaced,
        verbs: vec!["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
        subresources: subresources.iter().map(subresource).collect(),
        scale: subresources.contains(&"scale").then(|| ScalePaths {
            spec_replicas: ".spec.replicas".into(),
            status_replicas: ".status.replicas".into(),
            label_selector: Some(".spec.selector".into()),
        }),
        storage_version: "v1".into(),
        generation: !subresources.is_empty(),
        origin: if custom { Origin::Custom } else { Origin::BuiltIn },
        selectable_fields: vec!["status.phase".into(), "spec.nodeName".into()],
        deprecation_warning: None,
    })
}

impl Bare {
    fn new() -> Bare {
        let beta = KindInfo {
            version: "v1beta1".into(),
            ..(*kind("example.com", "things", "Thing", true, &["status"])).clone()
        };
        Bare {
            kinds: Arc::new(KindTable::new(vec![
                kind("", "namespaces", "Namespace", false, &["status"]),
                kind("", "configmaps", "ConfigMap", true, &[]),
                kind("", "serviceaccounts", "ServiceAccount", true, &["token"]),
                kind("", "services", "Service", true, &["status"]),
                kind("", "pods", "Pod", true, &["status", "log"]),
                kind("discovery.k8s.io", "endpointslices", "EndpointSlice", true, &[]),
                kind("apps", "deployments", "Deployment", true, &["status", "scale"]),
                kind("authentication.k8s.io", "tokenreviews", "TokenReview", false, &[]),
                kind(
                    "authorization.k8s.io",
                    "selfsubjectaccessreviews",
                    "SelfSubjectAccessReview",
                    false,
                    &[],
                ),
                kind("rbac.authorization.k8s.io", "clusterroles", "ClusterRole", false, &[]),
                kind("rbac.authorization.k8s.io", "clusterrolebindings", "ClusterRoleBinding", false, &[]),
                kind("example.com", "things", "Thing", true, &["status"]),
                Arc::new(beta),
            ])),
        }
    }
}

impl SchemaSide for Bare {
    fn kinds(&self) -> Arc<KindTable> {
        self.kinds.clone()
    }

    fn decode(&self, _: &str, body: &[u8], _: FieldValidation) -> Result<Admitted, Status> {
        let object = serde_json::from_slice(body).map_err(|error| Status::bad_request(error.to_string()))?;
        Ok(Admitted { object, warnings: vec![] })
    }

    fn admit<'a>(&'a self, _: &'a WriteRequest, object: Value) -> BoxFuture<'a, Result<Admitted, Status>> {
        Box::pin(async { Ok(Admitted { object, warnings: vec!["a \"warning\"".into()] }) })
    }

    fn validate<'a>(
        &'a self,
        _: &'a WriteRequest,
        object: &'a Value,
    ) -> BoxFuture<'a, Result<Vec<String>, Status>> {
        Box::pin(async move {
            match object["data"]["refuse"].is_null() {
                true => Ok(vec![]),
                false => Err(Status::bad_request("refused")),
            }
        })
    }

    fn changed(&self, _: Resource<'_>, _: Option<&Value>, _: Option<&Value>) {}

    fn columns(&self, _: &KindInfo) -> Arc<Vec<Value>> {
        Arc::new(vec![json!({"name": "Name", "type": "string"})])
    }

    fn cells(&self, _: &KindInfo, object: &Value) -> Vec<Value> {
        vec![object["metadata"]["name"].clone()]
    }

    fn document(&self, _: &str, _: &str, _: &str) -> Option<Result<Document, Status>> {
        None
    }
}

/// A server of its own for each test.
struct Fixture {
    server: ApiServer,
    trigger: Option<drain::Trigger>,
    admin: reqwest::Client,
    anonymous: reqwest::Client,
    base: String,
    root: String,
    folder: tempfile::TempDir,
}

impl Fixture {
    async fn new() -> Fixture {
        Fixture::in_folder(tempfile::tempdir().unwrap(), None).await
    }

    async fn in_folder(folder: tempfile::TempDir, node_socket: Option<PathBuf>) -> Fixture {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let authority = lateen_testkit::Authority::new("cluster");
        let serving = authority.leaf(&["127.0.0.1"]);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut config =
            Config::new(vec![listener], folder.path().join("store.redb"), serving.chain, serving.key);
        config.client_ca = Some(authority.pem());
        config.root_certificates = authority.pem();
        config.advertised = Some("10.96.0.1:443".parse().unwrap());
        config.node_socket = node_socket;
        let (trigger, watch) = drain::channel();
        let server = ApiServer::start_with(config, watch, |_| Arc::new(Bare::new())).await.unwrap();
        let root = reqwest::Certificate::from_pem(authority.pem().as_bytes()).unwrap();
        let client = || reqwest::Client::builder().tls_certs_only([root.clone()]).no_proxy();
        let identity =
            reqwest::Identity::from_pem(authority.user("admin", &[MASTERS]).identity().as_bytes()).unwrap();
        let admin = client().identity(identity).build().unwrap();
        let anonymous = client().build().unwrap();
        let base = format!("https://{}", server.addresses()[0]);
        let root = authority.pem();
        Fixture { server, trigger: Some(trigger), admin, anonymous, base, root, folder }
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let mut request = self.admin.request(method.clone(), format!("{}{path}", self.base));
        if let Some(body) = body {
            let content_type =
                if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
            request = request.header("content-type", content_type).body(body.to_string());
        }
        let response = request.send().await.unwrap();
        let code = response.status().as_u16();
        let text = response.text().await.unwrap();
        (code, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.call(Method::GET, path, None).await
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let (code, answer) = self.call(Method::POST, path, Some(body)).await;
        assert_eq!(code, 201, "{path}: {answer}");
        answer
    }

    /// Looks again and again, for at most ten seconds.
    async fn until(&self, path: &str, what: &str, done: impl Fn(u16, &Value) -> bool) -> Value {
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        loop {
            let (code, value) = self.get(path).await;
            if done(code, &value) {
                return value;
            }
            assert!(std::time::Instant::now() < deadline, "{path} never {what}: {code} {value}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn watch(&self, path: &str) -> Watch {
        let response = self.admin.get(format!("{}{path}", self.base)).send().await.unwrap();
        Watch { code: response.status().as_u16(), response, rest: Vec::new() }
    }

    /// A watch on a connection of its own.
    async fn other_watch(&self, path: &str) -> Watch {
        let token = "/api/v1/namespaces/default/serviceaccounts/default/token";
        self.until("/api/v1/namespaces/default/serviceaccounts/default", "came", |code, _| code == 200).await;
        let token = self.post(token, json!({"spec": {}})).await["status"]["token"].clone();
        let binding = json!({"metadata": {"name": "watcher"},
            "roleRef": {"kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}]});
        self.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await;
        let request = self.anonymous.get(format!("{}{path}", self.base));
        let response = request.bearer_auth(token.as_str().unwrap()).send().await.unwrap();
        Watch { code: response.status().as_u16(), response, rest: Vec::new() }
    }

    async fn stop(mut self) -> tempfile::TempDir {
        let outcome = self.trigger.take().unwrap().drain(Duration::from_secs(10)).await;
        assert_eq!(outcome, drain::Outcome::Finished);
        let Fixture { folder, .. } = self;
        folder
    }
}

struct Watch {
    code: u16,
    response: reqwest::Response,
    rest: Vec<u8>,
}

impl Watch {
    /// The next event; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let chunk =
                tokio::time::timeout(Duration::from_secs(10), self.response.chunk()).await.expect("an event");
            self.rest.extend_from_slice(&chunk.unwrap()?);
        }
    }

    async fn summary(&mut self) -> (String, String) {
        let event = self.next().await.expect("an event");
        (
            event["type"].as_str().unwrap().into(),
            event["object"]["metadata"]["name"].as_str().unwrap_or("").into(),
        )
    }
}

fn config_map(name: &str, labels: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}, "data": {"a": "1"}})
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

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
