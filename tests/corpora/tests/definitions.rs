//! Our definitions of the kinds limit what Istio's limit: ranges, lengths, patterns, required fields and the number of
//! rules at each path. Reads `LATEEN_CORPORA`; says so where that is not set.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

/// What of a schema decides whether an object is accepted, but for its rules.
const LIMITS: [&str; 10] = [
    "enum",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "required",
];

/// Every limit by path, such as `spec.hosts[].maxLength`.
fn limits(schema: &Value, path: &str, found: &mut BTreeMap<String, String>) {
    for name in LIMITS {
        let mut limit = schema[name].clone();
        if let Some(list) = limit.as_array_mut() {
            list.sort_by_key(Value::to_string);
        }
        if !limit.is_null() {
            found.insert(format!("{path} {name}"), limit.to_string());
        }
    }
    if let Some(rules) = schema["x-kubernetes-validations"].as_array() {
        found.insert(format!("{path} rules"), rules.len().to_string());
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        limits(property, &format!("{path}.{name}"), found);
    }
    for nested in ["items", "additionalProperties"] {
        if schema[nested].is_object() {
            limits(&schema[nested], &format!("{path}[]"), found);
        }
    }
}

#[test]
fn definitions_limit_what_istio_s_limit() {
    let Some(corpora) = std::env::var_os("LATEEN_CORPORA").map(PathBuf::from) else {
        println!("skipped: LATEEN_CORPORA is not set");
        return;
    };
    let Ok(content) = std::fs::read_to_string(corpora.join("crds/istio-crd-all.gen.yaml")) else {
        println!("skipped: there are no definitions");
        return;
    };
    let documents: Vec<Value> = serde_saphyr::from_multiple(&content).expect("definitions");
    let mut differences = Vec::new();
    for document in documents.iter().filter(|document| document.is_object()) {
        let kind = document["spec"]["names"]["kind"].as_str().unwrap_or_default();
        let Some(ours) = lateen_galley::kind_schema(kind) else {
            differences.push(format!("{kind} is missing"));
            continue;
        };
        let (mut wanted, mut own) = (BTreeMap::new(), BTreeMap::new());
        let theirs = &document["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        limits(theirs, &format!("{kind} spec"), &mut wanted);
        limits(&ours.schema["properties"]["spec"], &format!("{kind} spec"), &mut own);
        assert!(!wanted.is_empty(), "{kind} limits nothing");
        for (path, limit) in &wanted {
            if own.get(path) != Some(limit) {
                differences.push(format!("{path}: should be {limit}, is {:?}", own.get(path)));
            }
        }
        for (path, limit) in own.iter().filter(|(path, _)| !wanted.contains_key(*path)) {
            differences.push(format!("{path}: {limit} is only ours"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
