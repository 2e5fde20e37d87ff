//! The schemas are structural, and no field of upstream's is missing.

// Clippy's leave for tests does not reach the helpers of an integration test.
#![allow(clippy::unwrap_used, clippy::print_stdout)]
// The crate is pure; this test of it reads files.
#![allow(clippy::disallowed_methods)]

use std::collections::BTreeSet;

use serde_json::Value;

/// Walks a schema by the rules for structural schemas (Kubernetes' documentation, "Specifying a structural schema").
fn structural(schema: &Value, path: &str, problems: &mut Vec<String>) {
    let free = schema["x-kubernetes-int-or-string"] == true;
    if schema["type"].as_str().is_none() && !free {
        problems.push(format!("{path}: no type"));
    }
    for forbidden in [
        "$ref",
        "$defs",
        "definitions",
        "const",
        "patternProperties",
        "dependencies",
        "uniqueItems",
        "default",
    ] {
        if schema.get(forbidden).is_some() {
            problems.push(format!("{path}: {forbidden}"));
        }
    }
    if let Some(format) = schema["format"].as_str()
        && !["int32", "int64", "double", "float", "byte", "date-time"].contains(&format)
    {
        problems.push(format!("{path}: format {format}"));
    }
    if schema["additionalProperties"].is_object() && schema["properties"].is_object() {
        problems.push(format!("{path}: properties and additionalProperties"));
    }
    for junctor in ["allOf", "anyOf", "oneOf", "not"] {
        value_validation(&schema[junctor], &format!("{path}.{junctor}"), problems);
    }
    for required in schema["required"].as_array().into_iter().flatten() {
        if schema["properties"].get(required.as_str().unwrap()).is_none() {
            problems.push(format!("{path}: requires {required}, which it has not"));
        }
    }
    if let Some(properties) = schema["properties"].as_object() {
        for (name, property) in properties {
            structural(property, &format!("{path}.{name}"), problems);
            if property["description"].as_str().is_none_or(str::is_empty) {
                problems.push(format!("{path}.{name}: no description"));
            }
        }
    }
    if schema["type"] == "array" {
        structural(&schema["items"], &format!("{path}[]"), problems);
    }
    if schema["additionalProperties"].is_object() {
        structural(&schema["additionalProperties"], &format!("{path}{{}}"), problems);
    }
}

/// Below a junctor, only value validations.
fn value_validation(schema: &Value, path: &str, problems: &mut Vec<String>) {
    match schema {
        Value::Array(several) => several.iter().for_each(|one| value_validation(one, path, problems)),
        Value::Object(fields) => {
            for (name, inner) in fields {
                match name.as_str() {
                    "required" => {}
                    "allOf" | "anyOf" | "oneOf" | "not" => value_validation(inner, path, problems),
                    other => problems.push(format!("{path}: {other} under a junctor")),
                }
            }
        }
        _ => {}
    }
}

#[test]
fn schemas_are_structural() {
    let mut problems = Vec::new();
    let crds = lateen_galley::crds();
    assert_eq!(crds.len(), 15);
    for crd in &crds {
        let kind = crd["spec"]["names"]["kind"].as_str().unwrap();
        let versions = crd["spec"]["versions"].as_array().unwrap();
        assert_eq!(versions.iter().filter(|version| version["storage"] == true).count(), 1, "{kind}");
        for version in versions {
            structural(&version["schema"]["openAPIV3Schema"], kind, &mut problems);
        }
    }
    problems.sort();
    problems.dedup();
    problems.retain(|problem| !problem.contains(".status") || !problem.contains("no description"));
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}

/// Every path with its type, bounds and choices.
fn facts(schema: &Value, path: &str, into: &mut BTreeSet<String>) {
    let kind = schema["type"].as_str().unwrap_or("any");
    let mut line = format!("{path} {kind}");
    for keyword in [
        "enum",
        "format",
        "minimum",
        "maximum",
        "nullable",
        "minLength",
        "maxLength",
        "maxItems",
        "minItems",
        "maxProperties",
        "minProperties",
        "pattern",
        "x-kubernetes-int-or-string",
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-list-type",
    ] {
        if let Some(value) = schema.get(keyword) {
            let value = match (keyword, value) {
                ("enum", Value::Array(values)) => {
                    let mut values: Vec<String> = values.iter().map(Value::to_string).collect();
                    values.sort();
                    values.join(",")
                }
                (_, Value::Number(number)) => number.as_f64().unwrap().to_string(),
                (_, other) => other.to_string(),
            };
            line += &format!(" {keyword}={value}");
        }
    }
    let mut required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    required.sort_unstable();
    if !required.is_empty() {
        line += &format!(" required={}", required.join(","));
    }
    if let Some(rules) = schema["x-kubernetes-validations"].as_array() {
        line += &format!(" rules={}", rules.len());
    }
    into.insert(line);
    if let Some(properties) = schema["properties"].as_object() {
        for (name, property) in properties {
            facts(property, &format!("{path}.{name}"), into);
        }
    }
    if schema["items"].is_object() {
        facts(&schema["items"], &format!("{path}[]"), into);
    }
    if schema["additionalProperties"].is_object() {
        facts(&schema["additionalProperties"], &format!("{path}{{}}"), into);
    }
}

#[test]
fn no_field_of_upstream_is_missing() {
    let Ok(corpora) = std::env::var("LATEEN_CORPORA") else {
        println!("skipped: LATEEN_CORPORA is not set");
        return;
    };
    let text = std::fs::read_to_string(format!("{corpora}/crds/istio-crd-all.gen.yaml")).unwrap();
    let ours = lateen_galley::crds();
    let mut differences = Vec::new();
    let mut compared = 0;
    for document in text.split("\n---") {
        let Ok(theirs) = serde_saphyr::from_str::<Value>(document) else { continue };
        let Some(name) = theirs["metadata"]["name"].as_str() else { continue };
        let Some(our) = ours.iter().find(|crd| crd["metadata"]["name"] == name) else {
            differences.push(format!("{name} is missing"));
            continue;
        };
        compared += 1;
        for field in ["scope", "group"] {
            assert_eq!(our["spec"][field], theirs["spec"][field], "{name}");
        }
        for field in ["kind", "listKind", "plural", "singular", "shortNames", "categories"] {
            assert_eq!(our["spec"]["names"][field], theirs["spec"]["names"][field], "{name} {field}");
        }
        let versions = |crd: &Value| {
            let mut all: Vec<String> = crd["spec"]["versions"]
                .as_array()
                .unwrap()
                .iter()
                .map(|version| format!("{} {} {}", version["name"], version["served"], version["storage"]))
                .collect();
            all.sort();
            all
        };
        assert_eq!(versions(our), versions(&theirs), "{name}");
        let columns = |crd: &Value| {
            let mut all: Vec<String> = crd["spec"]["versions"][0]["additionalPrinterColumns"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|column| format!("{} {} {}", column["name"], column["type"], column["jsonPath"]))
                .collect();
            all.sort();
            all
        };
        assert_eq!(columns(our), columns(&theirs), "{name}");
        let collect = |crd: &Value| {
            let mut all = BTreeSet::new();
            let versions = crd["spec"]["versions"].as_array().unwrap();
            let stored = versions.iter().find(|version| version["storage"] == true).unwrap();
            facts(&stored["schema"]["openAPIV3Schema"], name, &mut all);
            all
        };
        let (our, their) = (collect(our), collect(&theirs));
        differences.extend(their.difference(&our).map(|fact| format!("- {fact}")));
        differences.extend(our.difference(&their).map(|fact| format!("+ {fact}")));
    }
    println!("crds compared: {compared}/15, {} facts differ", differences.len());
    assert_eq!(compared, 15);
    assert!(differences.is_empty(), "\n{}", differences.join("\n"));
}
