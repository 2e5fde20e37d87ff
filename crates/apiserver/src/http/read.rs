//! GET of one object and of lists.

use super::answer::{self, Body, Form};
use super::convert::{shown, shown_all};
use super::request::{Request, Target};
use crate::api::Api;
use crate::seam::KindInfo;
use crate::selector::{FieldSelector, LabelSelector};
use crate::status::{Cause, CauseReason, Status};
use crate::store::{Key, Snapshot, Stored, table_name};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::{BufMut, BytesMut};
use http::{Response, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;

/// The revision of a token that goes on in the newest state, whatever has changed in between.
const INCONSISTENT: u64 = 0;

/// What a list or watch selects.
pub(super) struct Selection {
    pub(super) labels: LabelSelector,
    pub(super) fields: FieldSelector,
    pub(super) namespace: Option<String>,
    /// The name, where the path of a watch names one object.
    pub(super) name: Option<String>,
}

impl Selection {
    pub(super) fn of(request: &Request, target: &Target, kind: &KindInfo) -> Result<Selection, Status> {
        Ok(Selection {
            labels: LabelSelector::parse(request.query.get("labelSelector"))?,
            fields: FieldSelector::parse(request.query.get("fieldSelector"), kind)?,
            namespace: target.namespace.clone(),
            name: target.name.clone(),
        })
    }

    pub(super) fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty() && self.name.is_none()
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        let metadata = &object["metadata"];
        self.namespace.as_deref().is_none_or(|namespace| metadata["namespace"] == namespace)
            && self.name.as_deref().is_none_or(|name| metadata["name"] == name)
            && self.labels.matches(object)
            && self.fields.matches(object)
    }
}

/// One object.
pub(super) async fn get(
    api: &Api,
    request: &Request,
    target: &Target,
    kind: &KindInfo,
) -> Result<Response<Body>, Status> {
    let name = target.name.as_deref().unwrap_or_default();
    let stored = api
        .store
        .read(&table_name(kind.resource()), target.namespace.as_deref().unwrap_or_default(), name)
        .ok_or_else(|| Status::not_found(&kind.group, &kind.plural, name))?;
    let stored = shown(api, kind, &stored).await?;
    object_answer(api, request, kind, StatusCode::OK, &stored)
}

/// An object in the form the client asked for.
pub(super) fn object_answer(
    api: &Api,
    request: &Request,
    kind: &KindInfo,
    code: StatusCode,
    stored: &Stored,
) -> Result<Response<Body>, Status> {
    Ok(match answer::negotiate(request.header(http::header::ACCEPT))? {
        Form::Object => answer::bytes(code, "application/json", stored.encoded_as(&kind.api_version())),
        Form::Table => {
            let table = Tables::new(api, request, kind).table(
                &[stored.value_as(&kind.api_version())],
                true,
                &json!({
                    "resourceVersion": stored.revision.to_string()
                }),
            );
            answer::json(code, &table)
        }
        Form::Metadata => answer::json(code, &partial(&stored.value)),
    })
}

/// A list.
pub(super) async fn list(
    api: &Api,
    request: &Request,
    target: &Target,
    kind: &KindInfo,
) -> Result<Response<Body>, Status> {
    let form = answer::negotiate(request.header(http::header::ACCEPT))?;
    let selection = Selection::of(request, target, kind)?;
    let limit = request.query.number::<usize>("limit")?.filter(|limit| *limit > 0);
    let table = table_name(kind.resource());
    let (snapshot, after) = start_of(api, request, &table, limit.is_some())?;
    let namespace = selection.namespace.as_deref();
    let mut found: Vec<Arc<Stored>> = Vec::new();
    let mut next: Option<Key> = None;
    let mut last: Option<&Key> = None;
    let mut remaining = 0_usize;
    for (key, stored) in snapshot.list(&table, namespace, after) {
        if !selection.is_everything() && !selection.matches(&stored.value) {
            continue;
        }
        if limit.is_some_and(|limit| found.len() >= limit) {
            next = next.or_else(|| last.cloned());
            remaining += 1;
            if !selection.is_everything() {
                break;
            }
            continue;
        }
        last = Some(key);
        found.push(stored.clone());
    }
    let found = shown_all(api, kind, found).await?;
    let mut metadata = json!({"resourceVersion": snapshot.revision.to_string()});
    if let Some(key) = next {
        api.pages().keep(&snapshot);
        metadata["continue"] = continue_token(snapshot.revision, &key).into();
        if selection.is_everything() {
            metadata["remainingItemCount"] = remaining.into();
        }
    }
    let api_version = kind.api_version();
    Ok(match form {
        Form::Object => {
            answer::bytes(StatusCode::OK, "application/json", list_bytes(kind, &metadata, &found))
        }
        Form::Table => {
            let values: Vec<Arc<Value>> = found.iter().map(|stored| stored.value_as(&api_version)).collect();
            answer::json(StatusCode::OK, &Tables::new(api, request, kind).table(&values, true, &metadata))
        }
        Form::Metadata => {
            let items: Vec<Value> = found.iter().map(|stored| partial(&stored.value)).collect();
            let list = json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata, "items": items});
            answer::json(StatusCode::OK, &list)
        }
    })
}

/// The encoding of a list: the shared encodings of its objects, put together.
fn list_bytes(kind: &KindInfo, metadata: &Value, found: &[Arc<Stored>]) -> BytesMut {
    let api_version = kind.api_version();
    let size: usize = found.iter().map(|stored| stored.encoded().len() + 1).sum();
    let mut out = BytesMut::with_capacity(size + 256);
    let head = json!({"kind": kind.list_kind, "apiVersion": api_version, "metadata": metadata}).to_string();
    out.put_slice(&head.as_bytes()[..head.len() - 1]);
    out.put_slice(b",\"items\":[");
    for (index, stored) in found.iter().enumerate() {
        if index > 0 {
            out.put_u8(b',');
        }
        stored.write_as(&api_version, &mut out);
    }
    out.put_slice(b"]}");
    out
}

/// The state a list is read from, and behind which key it goes on.
fn start_of(
    api: &Api,
    request: &Request,
    table: &str,
    limited: bool,
) -> Result<(Arc<Snapshot>, Option<Key>), Status> {
    check_options(request, false)?;
    let at = |revision: u64| api.pages().find(revision).or_else(|| api.store.snapshot_at(table, revision));
    let token = request.query.get("continue");
    let current = api.store.snapshot();
    if !token.is_empty() {
        let (revision, key) = parse_continue(token).ok_or_else(|| {
            Status::bad_request("continue key is not valid: it does not come from this server")
        })?;
        if revision == INCONSISTENT {
            return Ok((current, Some(key)));
        }
        return match at(revision) {
            Some(snapshot) => Ok((snapshot, Some(key))),
            None => {
                let mut status = Status::expired(
                    "The provided continue parameter is too old to display a consistent list result. You can start a \
                     new list without the continue parameter, or use the continue token in this response to retrieve \
                     the remainder of the results. Continuing with the provided token results in an inconsistent list \
                     - objects that were created, modified, or deleted between the time the first chunk was returned \
                     and now may show up in the list.",
                );
                status.details.continue_token = Some(continue_token(INCONSISTENT, &key));
                Err(status)
            }
        };
    }
    let asked = request.query.number::<u64>("resourceVersion")?.unwrap_or(0);
    if asked > current.revision {
        return Err(too_large(asked, current.revision));
    }
    // With a limit, a revision without a match means that very revision.
    let exact = match request.query.get("resourceVersionMatch") {
        "Exact" => true,
        "" => limited && asked > 0,
        _ => false,
    };
    if !exact || asked == current.revision {
        return Ok((current, None));
    }
    at(asked).map(|snapshot| (snapshot, None)).ok_or_else(|| {
        Status::expired(format!("The resourceVersion for the provided list is too old: {asked}"))
    })
}

/// What may be asked for together (`ValidateListOptions`).
pub(super) fn check_options(request: &Request, watch: bool) -> Result<(), Status> {
    let get = |name: &str| request.query.get(name);
    let (revision, matching, initial) =
        (get("resourceVersion"), get("resourceVersionMatch"), get("sendInitialEvents"));
    let mut causes = Vec::new();
    let mut forbid = |field: &str, text: &str| causes.push(Cause::forbidden(field, text));
    if !watch && !initial.is_empty() {
        forbid("sendInitialEvents", "sendInitialEvents is forbidden for list");
    }
    if watch && matching.is_empty() && !initial.is_empty() {
        forbid(
            "resourceVersionMatch",
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        );
    }
    if !get("continue").is_empty() {
        if !matching.is_empty() {
            forbid("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided");
        }
        if !matches!(revision, "" | "0") {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
    }
    match matching {
        "" => {}
        "NotOlderThan" if watch && !initial.is_empty() => {}
        _ if watch && initial.is_empty() => {
            forbid(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            );
        }
        _ if watch => {
            forbid(
                "resourceVersionMatch",
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            );
        }
        _ if revision.is_empty() => {
            forbid(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            );
        }
        "Exact" if revision == "0" => {
            forbid(
                "resourceVersionMatch",
                "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            );
        }
        "Exact" | "NotOlderThan" => {}
        other => {
            let text = format!("Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\"");
            causes.push(Cause::new(CauseReason::NotSupported, "resourceVersionMatch", text));
        }
    }
    if causes.is_empty() { Ok(()) } else { Err(Status::invalid("meta.k8s.io", "ListOptions", "", causes)) }
}

/// 504 for a revision that has not been reached (client-go lists without one after that).
pub(super) fn too_large(asked: u64, current: u64) -> Status {
    let message = format!("Too large resource version: {asked}, current: {current}");
    let mut status = Status::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message);
    status.details.retry_after_seconds = Some(1);
    status.details.causes =
        vec![Cause::new(CauseReason::Invalid, "resourceVersion", "Too large resource version")];
    status
}

fn continue_token(revision: u64, key: &Key) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(json!([revision, &*key.namespace, &*key.name]).to_string())
}

fn parse_continue(token: &str) -> Option<(u64, Key)> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).ok()?;
    let (revision, namespace, name): (u64, String, String) = serde_json::from_slice(&bytes).ok()?;
    Some((revision, Key::new(&namespace, &name)))
}

/// `PartialObjectMetadata` of an object.
pub(super) fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

/// Makes tables of one kind.
pub(super) struct Tables<'a> {
    api: &'a Api,
    kind: &'a KindInfo,
    include: Include,
}

#[derive(Clone, Copy)]
enum Include {
    Nothing,
    Metadata,
    Object,
}

impl<'a> Tables<'a> {
    pub(super) fn new(api: &'a Api, request: &Request, kind: &'a KindInfo) -> Tables<'a> {
        let include = match request.query.get("includeObject") {
            "None" => Include::Nothing,
            "Object" => Include::Object,
            _ => Include::Metadata,
        };
        Tables { api, kind, include }
    }

    /// A table of objects; a watch sends the columns with its first event only.
    pub(super) fn table(&self, objects: &[Arc<Value>], columns: bool, metadata: &Value) -> Value {
        let definitions =
            if columns { Value::Array((*self.api.schema.columns(self.kind)).clone()) } else { json!([]) };
        let rows: Vec<Value> = objects.iter().map(|object| self.row(object)).collect();
        json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
            "columnDefinitions": definitions, "rows": rows})
    }

    fn row(&self, object: &Value) -> Value {
        let mut row = json!({"cells": self.api.schema.cells(self.kind, object)});
        match self.include {
            Include::Nothing => {}
            Include::Metadata => row["object"] = partial(object),
            Include::Object => row["object"] = object.clone(),
        }
        row
    }
}
