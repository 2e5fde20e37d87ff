//! Which kinds there are: `/api`, `/apis` and below, in the legacy and the aggregated form (`apidiscovery.k8s.io/v2`).

use crate::schema::crd::version_order;
use crate::seam::{Document, KindInfo, KindTable, api_version};
use bytes::Bytes;
use serde_json::{Value, json};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// The document at a path; `None` where there is none.
pub fn document(table: &KindTable, path: &str, accept: &str) -> Option<Document> {
    let aggregated = wants_aggregated(accept);
    let steps: Vec<&str> = path.trim_matches('/').split('/').collect();
    match steps.as_slice() {
        ["api"] if aggregated => Some(answer(AGGREGATED, &aggregate(table, |group| group.is_empty()))),
        ["apis"] if aggregated => Some(answer(AGGREGATED, &aggregate(table, |group| !group.is_empty()))),
        ["api"] => Some(plain(&json!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": ""}],
        }))),
        ["apis"] => {
            let groups: Vec<Value> = groups(table)
                .into_iter()
                .filter(|group| !group.is_empty())
                .map(|group| group_object(table, group))
                .collect();
            Some(plain(&json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})))
        }
        ["api", version] => resources(table, "", version),
        ["apis", group] => {
            let known = groups(table).contains(group);
            known.then(|| {
                let mut object = group_object(table, group);
                object["kind"] = "APIGroup".into();
                object["apiVersion"] = "v1".into();
                plain(&object)
            })
        }
        ["apis", group, version] if !group.is_empty() => resources(table, group, version),
        _ => None,
    }
}

/// Whether the first acceptable form is the aggregated one.
fn wants_aggregated(accept: &str) -> bool {
    accept.split(',').map(str::trim).any(|entry| {
        let parameters: Vec<&str> = entry.split(';').map(str::trim).collect();
        parameters.first() == Some(&"application/json")
            && parameters.contains(&"g=apidiscovery.k8s.io")
            && parameters.contains(&"v=v2")
            && parameters.contains(&"as=APIGroupDiscoveryList")
    })
}

fn plain(value: &Value) -> Document {
    answer("application/json", value)
}

fn answer(content_type: &str, value: &Value) -> Document {
    let body = Bytes::from(serde_json::to_vec(value).unwrap_or_default());
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    Document {
        content_type: content_type.to_owned(),
        etag: Some(format!("\"{:016X}\"", hasher.finish())),
        cache_control: None,
        redirect: None,
        body,
    }
}

/// The groups, built-in ones first.
fn groups(table: &KindTable) -> Vec<&str> {
    let mut groups: Vec<&str> = Vec::new();
    for kind in table.all() {
        if !groups.contains(&kind.group.as_str()) {
            groups.push(&kind.group);
        }
    }
    groups
}

/// The versions of a group, the preferred one first.
fn versions<'a>(table: &'a KindTable, group: &str) -> Vec<&'a str> {
    let mut versions: Vec<&str> = Vec::new();
    for kind in table.all().iter().filter(|kind| kind.group == group) {
        if !versions.contains(&kind.version.as_str()) {
            versions.push(&kind.version);
        }
    }
    versions.sort_by_key(|version| std::cmp::Reverse(version_order(version)));
    versions
}

fn members<'a>(
    table: &'a KindTable,
    group: &'a str,
    version: &'a str,
) -> impl Iterator<Item = &'a Arc<KindInfo>> {
    table.all().iter().filter(move |kind| kind.group == group && kind.version == version)
}

fn group_object(table: &KindTable, group: &str) -> Value {
    let versions: Vec<Value> = versions(table, group)
        .into_iter()
        .map(|version| json!({"groupVersion": api_version(group, version), "version": version}))
        .collect();
    let preferred = versions.first().cloned().unwrap_or_default();
    json!({"name": group, "versions": versions, "preferredVersion": preferred})
}

fn resources(table: &KindTable, group: &str, version: &str) -> Option<Document> {
    let mut list = Vec::new();
    for kind in members(table, group, version) {
        let mut resource = json!({
            "name": kind.plural,
            "singularName": kind.singular,
            "namespaced": kind.namespaced,
            "kind": kind.kind,
            "verbs": kind.verbs,
        });
        if !kind.short_names.is_empty() {
            resource["shortNames"] = json!(kind.short_names);
        }
        if !kind.categories.is_empty() {
            resource["categories"] = json!(kind.categories);
        }
        list.push(resource);
        for subresource in &kind.subresources {
            let mut entry = json!({
                "name": format!("{}/{}", kind.plural, subresource.name),
                "singularName": "",
                "namespaced": kind.namespaced,
                "kind": subresource.kind,
                "verbs": subresource.verbs,
            });
            if (subresource.group.as_str(), subresource.version.as_str()) != (group, version) {
                entry["group"] = json!(subresource.group);
                entry["version"] = json!(subresource.version);
            }
            list.push(entry);
        }
    }
    (!list.is_empty()).then(|| {
        plain(&json!({
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": api_version(group, version),
            "resources": list,
        }))
    })
}

fn aggregate(table: &KindTable, wanted: impl Fn(&str) -> bool) -> Value {
    let items: Vec<Value> = groups(table)
        .into_iter()
        .filter(|group| wanted(group))
        .map(|group| {
            let versions: Vec<Value> = versions(table, group)
                .into_iter()
                .map(|version| {
                    let resources: Vec<Value> =
                        members(table, group, version).map(|kind| aggregated_resource(kind)).collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            json!({"metadata": {"name": group, "creationTimestamp": null}, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_resource(kind: &KindInfo) -> Value {
    let mut resource = json!({
        "resource": kind.plural,
        "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": kind.verbs,
    });
    if !kind.short_names.is_empty() {
        resource["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        resource["categories"] = json!(kind.categories);
    }
    if !kind.subresources.is_empty() {
        let listed = kind.subresources.iter().map(|subresource| {
            json!({
                "subresource": subresource.name,
                "responseKind": {
                    "group": subresource.group, "version": subresource.version, "kind": subresource.kind,
                },
                "verbs": subresource.verbs,
            })
        });
        resource["subresources"] = listed.collect();
    }
    resource
}
