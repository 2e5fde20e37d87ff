//! CustomResourceDefinitions: what they must look like, and the kinds they define.

use super::cel::Rules;
use super::cost::{self, Programs};
use super::crd_checks;
use super::node::{NodeId, Schema};
use super::path::Path;
use crate::builtin::kinds::VERBS;
use crate::builtin::validate::{is_label, is_subdomain};
use crate::object::{meta, now};
use crate::seam::{KindInfo, Origin, ScalePaths, Subresource, api_version};
use crate::status::{Cause, CauseReason};
use serde_json::{Value, json};
use std::sync::Arc;

/// One served version of a custom kind, compiled.
#[derive(Debug)]
pub struct CustomKind {
    /// The facts for routing and discovery.
    pub info: Arc<KindInfo>,
    /// `spec.versions[].schema.openAPIV3Schema`.
    pub document: Value,
    /// The schema, compiled.
    pub schema: Schema,
    /// Its root.
    pub root: NodeId,
    /// Its CEL rules, compiled; `None` where it has none.
    pub rules: Option<Rules>,
    /// `spec.versions[].additionalPrinterColumns`.
    pub columns: Vec<Value>,
    /// The `clientConfig` of the webhook that converts between versions, where there is one.
    pub conversion: Option<Value>,
}

/// The served kinds of a definition that has been accepted. Versions whose schema does not compile are left out
/// (they were refused when they were written, so that takes a downgrade of the server).
pub fn custom_kinds(definition: &Value) -> Vec<CustomKind> {
    let spec = &definition["spec"];
    let versions = list(&spec["versions"]);
    let storage = versions.iter().find(|version| version["storage"] == true);
    let storage_version = storage.map(|version| text(&version["name"])).unwrap_or_default();
    let served = versions.iter().filter(|version| version["served"] == true);
    let mut kinds: Vec<CustomKind> =
        served.filter_map(|version| custom_kind(spec, version, storage_version)).collect();
    kinds.sort_by_key(|kind| std::cmp::Reverse(version_order(&kind.info.version)));
    kinds
}

fn custom_kind(spec: &Value, version: &Value, storage_version: &str) -> Option<CustomKind> {
    let group = text(&spec["group"]);
    let names = &spec["names"];
    let name = text(&version["name"]);
    let kind = text(&names["kind"]);
    let document = version["schema"]["openAPIV3Schema"].clone();
    let (schema, root) = Schema::compile(&document, "openAPIV3Schema")
        .map_err(|error| tracing::error!(group, kind, version = name, %error, "the schema of a custom kind"))
        .ok()?;
    let subresources = &version["subresources"];
    let own = |name: &'static str| Subresource {
        name,
        group: group.to_owned(),
        version: text(&version["name"]).to_owned(),
        kind: kind.to_owned(),
        verbs: vec!["get", "patch", "update"],
    };
    let mut listed = Vec::new();
    if !subresources["status"].is_null() {
        listed.push(own("status"));
    }
    let scale = (!subresources["scale"].is_null()).then(|| {
        let path = |field: &str| subresources["scale"][field].as_str().map(str::to_owned);
        let scale = Subresource {
            group: "autoscaling".into(),
            version: "v1".into(),
            kind: "Scale".into(),
            ..own("scale")
        };
        listed.push(scale);
        ScalePaths {
            spec_replicas: path("specReplicasPath").unwrap_or_default(),
            status_replicas: path("statusReplicasPath").unwrap_or_default(),
            label_selector: path("labelSelectorPath").filter(|path| !path.is_empty()),
        }
    });
    let deprecated = version["deprecated"] == true;
    let deprecation_warning = deprecated.then(|| {
        let written = version["deprecationWarning"].as_str().map(str::to_owned);
        written.unwrap_or_else(|| format!("{} {kind} is deprecated", api_version(group, name)))
    });
    let selectable = list(&version["selectableFields"]).iter().map(|field| text(&field["jsonPath"]));
    let info = KindInfo {
        group: group.to_owned(),
        version: name.to_owned(),
        kind: kind.to_owned(),
        list_kind: or(text(&names["listKind"]), || format!("{kind}List")),
        plural: text(&names["plural"]).to_owned(),
        singular: or(text(&names["singular"]), || kind.to_ascii_lowercase()),
        short_names: strings(&names["shortNames"]),
        categories: strings(&names["categories"]),
        namespaced: spec["scope"] == "Namespaced",
        verbs: VERBS.to_vec(),
        subresources: listed,
        scale,
        storage_version: storage_version.to_owned(),
        generation: true,
        origin: Origin::Custom,
        selectable_fields: selectable.map(|path| path.trim_start_matches('.').to_owned()).collect(),
        deprecation_warning,
    };
    let rules = Rules::compile(&document, &info);
    let columns = list(&version["additionalPrinterColumns"]).to_vec();
    let conversion = (spec["conversion"]["strategy"] == "Webhook")
        .then(|| spec["conversion"]["webhook"]["clientConfig"].clone());
    Some(CustomKind { info: Arc::new(info), document, schema, root, rules, columns, conversion })
}

/// How Kubernetes orders versions: stable before beta before alpha, high before low, anything else last by name.
pub fn version_order(version: &str) -> (u8, u64, u64, std::cmp::Reverse<String>) {
    let other = (0, 0, 0, std::cmp::Reverse(version.to_owned()));
    let Some(rest) = version.strip_prefix('v') else { return other };
    let digits = rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len());
    let Ok(major) = rest[..digits].parse::<u64>() else { return other };
    let (stage, minor) = match &rest[digits..] {
        "" => (3, Ok(0)),
        suffix if suffix.starts_with("beta") => (2, suffix[4..].parse()),
        suffix if suffix.starts_with("alpha") => (1, suffix[5..].parse()),
        _ => return other,
    };
    minor.map_or(other, |minor| (stage, major, minor, std::cmp::Reverse(String::new())))
}

/// All findings about a definition; `old` is there for an update.
pub fn validate(definition: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let spec = &definition["spec"];
    let (group, plural, kind) =
        (text(&spec["group"]), text(&spec["names"]["plural"]), text(&spec["names"]["kind"]));
    let expected = format!("{plural}.{group}");
    let name = meta(definition, "name");
    if name != expected {
        let message = format!("must be spec.names.plural+\".\"+spec.group ({expected:?})");
        causes.push(Cause::invalid("metadata.name", &name.into(), message));
    }
    for (field, value) in [("spec.group", group), ("spec.names.plural", plural), ("spec.names.kind", kind)] {
        if value.is_empty() {
            causes.push(Cause::required(field, ""));
        }
    }
    if !group.is_empty() && (!is_subdomain(group) || !group.contains('.')) {
        causes.push(Cause::invalid("spec.group", &group.into(), "should be a domain with at least one dot"));
    }
    if !plural.is_empty() && !is_label(plural, 63) {
        causes.push(Cause::invalid(
            "spec.names.plural",
            &plural.into(),
            "must be a lowercase RFC 1035 label",
        ));
    }
    if !matches!(spec["scope"].as_str(), Some("Namespaced" | "Cluster")) {
        let text =
            format!("Unsupported value: {}: supported values: \"Cluster\", \"Namespaced\"", spec["scope"]);
        causes.push(Cause::new(CauseReason::NotSupported, "spec.scope", text));
    }
    super::convert::validate(&spec["conversion"], &mut causes);
    let versions = list(&spec["versions"]);
    let mut programs = Programs::default();
    validate_versions(versions, &mut programs, &mut causes);
    if causes.is_empty() {
        costs(versions, old, &mut programs, &mut causes);
    }
    crd_checks::stored_versions(definition, &mut causes);
    if let Some(old) = old.map(|old| &old["spec"]) {
        for field in ["group", "scope"] {
            if spec[field] != old[field] {
                causes.push(Cause::invalid(format!("spec.{field}"), &spec[field], "field is immutable"));
            }
        }
        for field in ["plural", "kind"] {
            if spec["names"][field] != old["names"][field] {
                causes.push(Cause::invalid(
                    format!("spec.names.{field}"),
                    &spec["names"][field],
                    "field is immutable",
                ));
            }
        }
    }
    causes
}

/// What rules may cost; a schema that was stored as it is stays, whatever it costs.
fn costs(versions: &[Value], old: Option<&Value>, programs: &mut Programs, causes: &mut Vec<Cause>) {
    let before = old.map_or(&[][..], |old| list(&old["spec"]["versions"]));
    for (index, version) in versions.iter().enumerate() {
        let document = &version["schema"]["openAPIV3Schema"];
        if !before.iter().any(|old| old["schema"]["openAPIV3Schema"] == *document) {
            cost::check(
                document,
                &format!("spec.versions[{index}].schema.openAPIV3Schema"),
                programs,
                causes,
            );
        }
    }
}

fn validate_versions(versions: &[Value], programs: &mut Programs, causes: &mut Vec<Cause>) {
    if versions.is_empty() {
        causes.push(Cause::required("spec.versions", "must have at least one version"));
        return;
    }
    let storing = versions.iter().filter(|version| version["storage"] == true).count();
    if storing != 1 {
        let message = "must have exactly one version marked as storage version";
        causes.push(Cause::invalid("spec.versions", &Value::from("array"), message));
    }
    for (index, version) in versions.iter().enumerate() {
        let name = text(&version["name"]);
        if !is_label(name, 63) {
            causes.push(Cause::invalid(
                format!("spec.versions[{index}].name"),
                &version["name"],
                "must be a DNS-1035 label",
            ));
        }
        if versions[..index].iter().any(|earlier| earlier["name"] == version["name"]) {
            let text = format!("Duplicate value: {}", version["name"]);
            causes.push(Cause::new(CauseReason::Duplicate, format!("spec.versions[{index}].name"), text));
        }
        let path = format!("spec.versions[{index}].schema.openAPIV3Schema");
        let document = &version["schema"]["openAPIV3Schema"];
        if document.is_null() {
            causes.push(Cause::required(path, "schemas are required"));
            continue;
        }
        crd_checks::version(version, &format!("spec.versions[{index}]"), causes);
        let found = causes.len();
        structural(document, &path, true, causes);
        if found == causes.len() {
            match Schema::compile(document, &path) {
                Ok((schema, root)) => defaults_fit(&schema, root, document, &path, causes),
                Err(error) => causes.push(Cause::new(CauseReason::Invalid, error.path, error.message)),
            }
            Rules::check(document, &path, programs, causes);
        }
    }
}

/// The rules for structural schemas (Kubernetes documentation, "Specifying a structural schema").
fn structural(schema: &Value, path: &str, root: bool, causes: &mut Vec<Cause>) {
    let Some(map) = schema.as_object() else {
        causes.push(Cause::invalid(path, schema, "must be an object"));
        return;
    };
    let kind = text(&schema["type"]);
    let int_or_string = schema["x-kubernetes-int-or-string"] == true;
    let preserve = schema["x-kubernetes-preserve-unknown-fields"] == true;
    if root && kind != "object" {
        causes.push(Cause::invalid(format!("{path}.type"), &schema["type"], "must be object at the root"));
    } else if kind.is_empty() && !int_or_string && !preserve {
        causes.push(Cause::required(format!("{path}.type"), "must not be empty for specified object fields"));
    }
    if int_or_string && !kind.is_empty() {
        causes.push(Cause::invalid(
            format!("{path}.type"),
            &schema["type"],
            "must be empty if x-kubernetes-int-or-string is true",
        ));
    }
    if map.contains_key("$ref") {
        causes.push(Cause::forbidden(format!("{path}.$ref"), "must not be set"));
    }
    if map.contains_key("properties") && map.contains_key("additionalProperties") {
        causes.push(Cause::forbidden(
            format!("{path}.additionalProperties"),
            "additionalProperties and properties are mutual exclusive",
        ));
    }
    if schema["additionalProperties"] == false {
        causes.push(Cause::forbidden(
            format!("{path}.additionalProperties"),
            "additionalProperties cannot be set to false",
        ));
    }
    if kind == "array" && !schema["items"].is_object() {
        causes.push(Cause::required(format!("{path}.items"), "must be specified"));
    }
    if schema["x-kubernetes-list-type"] == "map" && list(&schema["x-kubernetes-list-map-keys"]).is_empty() {
        causes.push(Cause::required(
            format!("{path}.x-kubernetes-list-map-keys"),
            "must not be empty if x-kubernetes-list-type is map",
        ));
    }
    crd_checks::list_type(schema, path, causes);
    for junctor in ["allOf", "anyOf", "oneOf"] {
        for (index, branch) in list(&schema[junctor]).iter().enumerate() {
            value_validation(branch, &format!("{path}.{junctor}[{index}]"), int_or_string, causes);
        }
    }
    if map.contains_key("not") {
        value_validation(&schema["not"], &format!("{path}.not"), int_or_string, causes);
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        // What Kubernetes knows about the metadata holds, whatever a schema says.
        if !(root && matches!(name.as_str(), "apiVersion" | "kind" | "metadata")) {
            structural(property, &format!("{path}.properties[{name}]"), false, causes);
        }
    }
    for field in ["items", "additionalProperties"] {
        if schema[field].is_object() {
            structural(&schema[field], &format!("{path}.{field}"), false, causes);
        }
    }
}

/// Below `allOf`, `anyOf`, `oneOf` and `not` a schema may only narrow, not shape.
fn value_validation(schema: &Value, path: &str, int_or_string: bool, causes: &mut Vec<Cause>) {
    for field in
        ["description", "default", "nullable", "additionalProperties", "x-kubernetes-preserve-unknown-fields"]
    {
        if schema.get(field).is_some() {
            causes.push(Cause::forbidden(format!("{path}.{field}"), "must be undefined to be structural"));
        }
    }
    if schema.get("type").is_some() && !int_or_string {
        causes.push(Cause::forbidden(format!("{path}.type"), "must be empty to be structural"));
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        value_validation(property, &format!("{path}.properties[{name}]"), int_or_string, causes);
    }
    for junctor in ["allOf", "anyOf", "oneOf"] {
        for (index, branch) in list(&schema[junctor]).iter().enumerate() {
            value_validation(branch, &format!("{path}.{junctor}[{index}]"), int_or_string, causes);
        }
    }
}

/// Defaults must be valid by the schema they stand in.
fn defaults_fit(schema: &Schema, id: NodeId, document: &Value, path: &str, causes: &mut Vec<Cause>) {
    let node = schema.node(id);
    if let Some(default) = &node.default {
        let mut value = default.clone();
        super::shape::default(schema, id, &mut value);
        let mut unknown = Vec::new();
        super::shape::prune(schema, id, &mut value, &Path::Root, false, &mut unknown);
        if !unknown.is_empty() {
            let message = format!("must be pruned: the schema does not know {}", unknown.join(", "));
            causes.push(Cause::invalid(format!("{path}.default"), default, message));
        }
        for cause in super::check::check(schema, id, &value, &Path::Root, |_, _| true) {
            let inner = if cause.field.is_empty() { String::new() } else { format!(".{}", cause.field) };
            causes.push(Cause::new(cause.reason, format!("{path}.default{inner}"), cause.message));
        }
    }
    for (name, &property) in &node.properties {
        let below = format!("{path}.properties[{name}]");
        defaults_fit(schema, property, &document["properties"][name], &below, causes);
    }
    if let Some(items) = node.items {
        defaults_fit(schema, items, &document["items"], &format!("{path}.items"), causes);
    }
}

/// Writes the status of a definition: with one server and nothing to negotiate, it is established with the write.
/// `taken` says who else has one of its names.
pub fn set_status(definition: &mut Value, taken: Option<String>) {
    let names = definition["spec"]["names"].clone();
    let versions: Vec<Value> = list(&definition["spec"]["versions"])
        .iter()
        .filter(|version| version["storage"] == true)
        .map(|version| version["name"].clone())
        .collect();
    let mut stored = list(&definition["status"]["storedVersions"]).to_vec();
    for version in versions {
        if !stored.contains(&version) {
            stored.push(version);
        }
    }
    let (accepted, reason, message) = match &taken {
        None => ("True", "NoConflicts", "no conflicts found".to_owned()),
        Some(text) => ("False", "NameConflict", text.clone()),
    };
    let (established, why, text) = match taken {
        None => ("True", "InitialNamesAccepted", "the initial names have been accepted"),
        Some(_) => ("False", "NotAccepted", "not all names are accepted"),
    };
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        let old = list(&definition["status"]["conditions"]).iter().find(|old| old["type"] == kind);
        let since = old.filter(|old| old["status"] == status).map(|old| old["lastTransitionTime"].clone());
        let since = since.unwrap_or_else(|| now().into());
        json!({"type": kind, "status": status, "lastTransitionTime": since, "reason": reason, "message": message})
    };
    let conditions = json!([
        condition("NamesAccepted", accepted, reason, &message),
        condition("Established", established, why, text),
    ]);
    let terminating =
        list(&definition["status"]["conditions"]).iter().find(|old| old["type"] == "Terminating");
    let mut conditions = list(&conditions).to_vec();
    conditions.extend(terminating.cloned());
    definition["status"] = json!({
        "conditions": conditions,
        "acceptedNames": if accepted == "True" { names } else { json!({"plural": "", "kind": ""}) },
        "storedVersions": stored,
    });
}

/// Holds a definition until its objects are gone.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Says in the status of a definition that its objects are being removed.
pub fn set_terminating(definition: &mut Value) {
    let conditions = list(&definition["status"]["conditions"]);
    if conditions.iter().any(|condition| condition["type"] == "Terminating") {
        return;
    }
    let mut conditions = conditions.to_vec();
    conditions.push(json!({"type": "Terminating", "status": "True", "lastTransitionTime": now(),
        "reason": "InstanceDeletionInProgress", "message": "CustomResource deletion is in progress"}));
    crate::object::put(definition, &["status", "conditions"], conditions.into());
}

/// Whether a definition's names were accepted, so that its kinds are served.
pub fn is_established(definition: &Value) -> bool {
    list(&definition["status"]["conditions"])
        .iter()
        .any(|condition| condition["type"] == "Established" && condition["status"] == "True")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn strings(value: &Value) -> Vec<String> {
    list(value).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn or(text: &str, otherwise: impl FnOnce() -> String) -> String {
    if text.is_empty() { otherwise() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(schema: Value) -> Value {
        json!({
            "metadata": {"name": "widgets.example.com"},
            "spec": {
                "group": "example.com", "scope": "Namespaced",
                "names": {"plural": "widgets", "kind": "Widget"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
            },
        })
    }

    #[test]
    fn definitions_are_checked() {
        let check = |name: &str, definition: Value, expect: &[&str]| {
            let found: Vec<String> =
                validate(&definition, None).into_iter().map(|cause| cause.field).collect();
            assert_eq!(found, expect, "{name}");
        };
        let schema = "spec.versions[0].schema.openAPIV3Schema";
        check("a plain one", definition(json!({"type": "object"})), &[]);
        check("no type", definition(json!({})), &[&format!("{schema}.type")]);
        check(
            "a nested field without type, an array without items",
            definition(json!({"type": "object", "properties": {"a": {}, "b": {"type": "array"}}})),
            &[&format!("{schema}.properties[a].type"), &format!("{schema}.properties[b].items")],
        );
        check(
            "a default that does not fit",
            definition(json!({"type": "object", "properties": {"a": {"type": "integer", "default": "x"}}})),
            &[&format!("{schema}.properties[a].default")],
        );
        check(
            "a pattern that is none",
            definition(json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}})),
            &[&format!("{schema}.properties[a].pattern")],
        );
        check(
            "a rule that does not parse",
            definition(json!({"type": "object", "x-kubernetes-validations": [{"rule": "self.("}]})),
            &[&format!("{schema}.x-kubernetes-validations[0].rule")],
        );
        let mut other_name = definition(json!({"type": "object"}));
        other_name["metadata"]["name"] = json!("x");
        check("a name that does not fit", other_name, &["metadata.name"]);
    }

    #[test]
    fn versions_are_ordered_by_maturity() {
        let mut versions = ["v1alpha1", "v2beta1", "v10", "foo", "v1", "v2beta2", "v2"];
        versions.sort_by_key(|version| std::cmp::Reverse(version_order(version)));
        assert_eq!(versions, ["v10", "v2", "v1", "v2beta2", "v2beta1", "v1alpha1", "foo"]);
    }
}
