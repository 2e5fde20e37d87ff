//! The corpus of single custom resources that Istio's and Gateway API's definitions must accept or refuse.
//!
//! The runner reads it through `LATEEN_CORPORA` and prints `passed/total` with the names of those that failed.

use lateen_apiserver::schema::Schemas;
use lateen_apiserver::seam::{
    FieldValidation, Objects, Operation, Resource, SchemaSide, UserInfo, WriteRequest,
};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

struct Nothing;

impl Objects for Nothing {
    fn get(&self, _: Resource<'_>, _: &str, _: &str) -> Option<Arc<Value>> {
        None
    }

    fn list(&self, _: Resource<'_>, _: Option<&str>) -> Vec<Arc<Value>> {
        Vec::new()
    }
}

fn request(schemas: &Schemas, group: &str, version: &str, kind: &str) -> Option<WriteRequest> {
    let table = schemas.kinds();
    let kind = table.find_kind(group, version, kind)?.clone();
    Some(WriteRequest {
        namespace: if kind.namespaced { "default".to_owned() } else { String::new() },
        kind,
        operation: Operation::Create,
        subresource: None,
        name: String::new(),
        user: UserInfo::default(),
        dry_run: false,
        field_validation: FieldValidation::Strict,
        old: None,
        options: Value::Null,
    })
}

/// Admits and validates an object; the refusal, if there is one.
async fn write(schemas: &Schemas, object: Value) -> Result<Value, String> {
    let api_version = object["apiVersion"].as_str().unwrap_or_default();
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let kind = object["kind"].as_str().unwrap_or_default();
    let request =
        request(schemas, group, version, kind).ok_or_else(|| format!("no kind {kind} in {api_version}"))?;
    let admitted = schemas.admit(&request, object).await.map_err(|status| status.message)?;
    schemas.validate(&request, &admitted.object).await.map_err(|status| status.message)?;
    Ok(admitted.object)
}

async fn install(schemas: &Schemas, path: &Path) {
    let text = std::fs::read_to_string(path).expect("a file of definitions");
    for mut definition in serde_saphyr::from_multiple::<Value>(&text).expect("it is YAML") {
        if definition["kind"] == "CustomResourceDefinition" {
            if let Some(map) = definition.as_object_mut() {
                map.shift_remove("status");
            }
            let name = definition["metadata"]["name"].to_string();
            let stored = write(schemas, definition).await.unwrap_or_else(|error| panic!("{name}: {error}"));
            schemas.changed(
                Resource::new("apiextensions.k8s.io", "customresourcedefinitions"),
                None,
                Some(&stored),
            );
        }
    }
}

#[tokio::test]
async fn definitions_accept_and_refuse_what_they_should() {
    let Some(corpora) = std::env::var_os("LATEEN_CORPORA").map(std::path::PathBuf::from) else {
        println!("LATEEN_CORPORA is not set: skipped");
        return;
    };
    let schemas = Schemas::new(Arc::new(Nothing));
    install(&schemas, &corpora.join("crds/istio-crd-all.gen.yaml")).await;
    let gateway =
        std::fs::read_dir(corpora.join("crds/gateway-api-experimental")).expect("Gateway API's definitions");
    for entry in gateway {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            install(&schemas, &path).await;
        }
    }
    let folder = corpora.join("crd-validation");
    let cases = std::fs::read(folder.join("cases.json")).expect("the cases");
    let cases: Vec<Value> = serde_json::from_slice(&cases).expect("they are JSON");
    let mut failed = Vec::new();
    for case in &cases {
        let text =
            std::fs::read_to_string(folder.join(case["file"].as_str().expect("a file"))).expect("an object");
        // Go's parser reads a colon before a bracket as text, YAML 1.2 as the end of a key; clients send JSON anyway.
        let text = text.replace(" 001:db8::]", " '001:db8::']");
        let mut object: Value = serde_saphyr::from_str(&text).expect("it is YAML");
        if object["metadata"].is_null() {
            object["metadata"] = json!({"name": "case"});
        }
        let result = write(&schemas, object).await;
        if result.is_ok() != (case["valid"] == true) {
            failed.push(format!(
                "{}: {}",
                case["name"],
                result.err().unwrap_or_else(|| "accepted".to_owned())
            ));
        }
    }
    println!("crd-validation: {}/{} passed", cases.len() - failed.len(), cases.len());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
