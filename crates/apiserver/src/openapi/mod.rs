//! OpenAPI documents: `/openapi/v3` with one document for each group and version, and `/openapi/v2`.
//!
//! `kubectl` reads them for `explain`, for the merge keys of `apply`, and to learn that the server validates fields
//! (an operation has a `fieldValidation` parameter) and knows dry run.

mod paths;

use crate::builtin::kinds;
use crate::builtin::schemas::{self, schemas};
use crate::schema::State;
use crate::schema::node::COMPONENTS;
use crate::seam::{Document, KindInfo, Origin};
use crate::status::Status;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};

/// The documents of one state of the kinds.
pub struct Documents {
    /// By path below `/openapi/v3/`, such as `apis/apps/v1`.
    v3: BTreeMap<String, (String, Bytes)>,
    whole: (Map<String, Value>, Map<String, Value>),
    v2: OnceLock<Bytes>,
}

impl Documents {
    /// The documents for the kinds of a state.
    pub(crate) fn new(state: &State) -> Documents {
        let mut members: BTreeMap<String, Vec<Arc<KindInfo>>> = BTreeMap::new();
        for kind in state.table().all() {
            members.entry(root_of(kind).trim_start_matches('/').to_owned()).or_default().push(kind.clone());
        }
        let (mut all_schemas, mut all_paths) = (Map::new(), Map::new());
        let mut v3 = BTreeMap::new();
        for (place, kinds) in members {
            let (components, paths) = group_version(state, &kinds);
            let document = json!({
                "openapi": "3.0.0",
                "info": {"title": "Kubernetes", "version": "v1.32.0"},
                "paths": paths,
                "components": {"schemas": components},
            });
            let body = Bytes::from(serde_json::to_vec(&document).unwrap_or_default());
            v3.insert(place, (hash_of(&body), body));
            all_schemas.extend(components);
            all_paths.extend(paths);
        }
        Documents { v3, whole: (all_schemas, all_paths), v2: OnceLock::new() }
    }

    /// The document at a path.
    pub fn find(&self, path: &str, query: &str, accept: &str) -> Option<Result<Document, Status>> {
        let json_form = |body: Bytes, etag: Option<String>| Document {
            content_type: "application/json".to_owned(),
            etag,
            cache_control: None,
            redirect: None,
            body,
        };
        match path.trim_end_matches('/') {
            "/openapi/v2" => {
                let media: Vec<&str> =
                    accept.split(',').map(|entry| entry.split(';').next().unwrap_or("").trim()).collect();
                let speaks = accept.is_empty()
                    || media
                        .iter()
                        .any(|entry| matches!(*entry, "application/json" | "*/*" | "application/*"));
                if !speaks {
                    let asked = media.contains(&PROTOBUF_2);
                    return Some(if asked { Ok(empty_version_2()) } else { Err(Status::not_acceptable()) });
                }
                let body = self.v2.get_or_init(|| self.version_2()).clone();
                let etag = hash_of(&body);
                Some(Ok(json_form(body, Some(format!("\"{etag}\"")))))
            }
            "/openapi/v3" => {
                let paths: Map<String, Value> = self
                    .v3
                    .iter()
                    .map(|(place, (hash, _))| {
                        let url = format!("/openapi/v3/{place}?hash={hash}");
                        (place.clone(), json!({"serverRelativeURL": url}))
                    })
                    .collect();
                let body = Bytes::from(serde_json::to_vec(&json!({"paths": paths})).unwrap_or_default());
                Some(Ok(json_form(body, None)))
            }
            path => {
                let place = path.strip_prefix("/openapi/v3/")?;
                let (hash, body) = self.v3.get(place)?;
                let asked = query.split('&').find_map(|parameter| parameter.strip_prefix("hash="));
                let mut document = json_form(body.clone(), Some(format!("\"{hash}\"")));
                match asked {
                    Some(asked) if asked == hash => document.cache_control = Some("public, immutable"),
                    Some(_) => document.redirect = Some(format!("/openapi/v3/{place}?hash={hash}")),
                    None => {}
                }
                Some(Ok(document))
            }
        }
    }

    fn version_2(&self) -> Bytes {
        let (components, paths) = &self.whole;
        let definitions = Value::Object(components.clone());
        let document = json!({
            "swagger": "2.0",
            "info": {"title": "Kubernetes", "version": "v1.32.0"},
            "paths": paths::version_2(paths),
            "definitions": definitions,
        });
        let text = serde_json::to_string(&document).unwrap_or_default();
        Bytes::from(text.replace(COMPONENTS, "#/definitions/"))
    }
}

/// The media type in which `kubectl` asks for version 2.
const PROTOBUF_2: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// A document of version 2 that describes nothing, in protobuf (gnostic's `openapi.v2.Document`).
///
/// `kubectl` asks for it only about kinds that it has not found in version 3, which are in neither; given an empty one
/// it goes on to say that the kind is unknown.
fn empty_version_2() -> Document {
    const BODY: &[u8] = b"\x0a\x032.0\x12\x15\x0a\x0aKubernetes\x12\x07v1.32.0\x42\x00";
    Document {
        // As a media type has no `@`, Kubernetes answers with a dot in its place.
        content_type: PROTOBUF_2.replace('@', "."),
        etag: Some("\"empty\"".to_owned()),
        cache_control: None,
        redirect: None,
        body: Bytes::from_static(BODY),
    }
}

fn hash_of(body: &Bytes) -> String {
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    format!("{:016X}", hasher.finish())
}

/// `/api/v1` or `/apis/GROUP/VERSION`.
pub fn root_of(kind: &KindInfo) -> String {
    if kind.group.is_empty() {
        format!("/api/{}", kind.version)
    } else {
        format!("/apis/{}/{}", kind.group, kind.version)
    }
}

/// The name of a kind's schema: `io.k8s.api.core.v1.Pod`, `io.istio.networking.v1.VirtualService`.
pub fn schema_name(kind: &KindInfo) -> String {
    match kind.origin {
        Origin::BuiltIn => kinds::schema_name(&kind.group, &kind.version, &kind.kind),
        Origin::Custom => {
            let reversed: Vec<&str> = kind.group.rsplit('.').collect();
            format!("{}.{}.{}", reversed.join("."), kind.version, kind.kind)
        }
    }
}

/// Schemas and paths of one group and version.
fn group_version(state: &State, kinds: &[Arc<KindInfo>]) -> (Map<String, Value>, Map<String, Value>) {
    let (mut components, mut paths) = (Map::new(), Map::new());
    for kind in kinds {
        let name = schema_name(kind);
        if let Some(custom) = state.custom(kind) {
            add_custom(&mut components, &name, kind, &custom.document);
        } else {
            add_with_references(&mut components, &name);
            add_with_references(&mut components, &format!("{name}List"));
        }
        for shared in [schemas::DELETE_OPTIONS, schemas::STATUS, schemas::PATCH] {
            add_with_references(&mut components, shared);
        }
        if kind.has_subresource("scale") {
            add_with_references(&mut components, "io.k8s.api.autoscaling.v1.Scale");
        }
        if kind.has_subresource("token") {
            add_with_references(&mut components, "io.k8s.api.authentication.v1.TokenRequest");
        }
        paths::add(&mut paths, kind, &name);
    }
    (components, paths)
}

fn add_custom(components: &mut Map<String, Value>, name: &str, kind: &KindInfo, document: &Value) {
    let mut schema = document.clone();
    add_with_references(components, schemas::OBJECT_META);
    add_with_references(components, schemas::LIST_META);
    let meta = json!({
        "description": "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata",
        "allOf": [{"$ref": format!("{COMPONENTS}{}", schemas::OBJECT_META)}],
    });
    let texts = &schemas().components["io.k8s.api.core.v1.Pod"]["properties"];
    let mut properties = Map::new();
    properties.insert("apiVersion".to_owned(), texts["apiVersion"].clone());
    properties.insert("kind".to_owned(), texts["kind"].clone());
    properties.insert("metadata".to_owned(), meta);
    for (field, property) in document["properties"].as_object().into_iter().flatten() {
        if !properties.contains_key(field) {
            properties.insert(field.clone(), property.clone());
        }
    }
    schema["properties"] = Value::Object(properties);
    schema["x-kubernetes-group-version-kind"] =
        json!([{"group": kind.group, "kind": kind.kind, "version": kind.version}]);
    components.insert(name.to_owned(), schema);
    let list = json!({
        "description": format!("{} is a list of {}", kind.list_kind, kind.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": texts["apiVersion"],
            "kind": texts["kind"],
            "metadata": {"allOf": [{"$ref": format!("{COMPONENTS}{}", schemas::LIST_META)}]},
            "items": {"type": "array", "items": {"$ref": format!("{COMPONENTS}{name}")}},
        },
        "x-kubernetes-group-version-kind": [{"group": kind.group, "kind": kind.list_kind, "version": kind.version}],
    });
    components.insert(format!("{name}List"), list);
}

fn add_with_references(components: &mut Map<String, Value>, name: &str) {
    if components.contains_key(name) {
        return;
    }
    let Some(schema) = schemas().components.get(name) else { return };
    components.insert(name.to_owned(), schema.clone());
    let mut names = Vec::new();
    references(schema, &mut names);
    for name in names {
        add_with_references(components, name);
    }
}

fn references<'a>(value: &'a Value, names: &mut Vec<&'a str>) {
    match value {
        Value::Object(map) => {
            if let Some(name) =
                map.get("$ref").and_then(Value::as_str).and_then(|text| text.strip_prefix(COMPONENTS))
            {
                names.push(name);
            }
            map.values().for_each(|entry| references(entry, names));
        }
        Value::Array(list) => list.iter().for_each(|entry| references(entry, names)),
        _ => {}
    }
}
