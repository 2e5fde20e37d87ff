//! The server over loopback and TLS, with a schema side that lets everything pass: what is tested here is the REST
//! layer, the store behind it, and the tasks in the background.

mod access;
mod kinds;
mod objects;
mod watches;

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
