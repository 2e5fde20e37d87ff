//! Admission webhooks (`admissionregistration.k8s.io/v1`): asking others whether a write may happen, and how it should
//! look.
//!
//! Mutating webhooks are asked one after the other, in the order of their configurations' names; validating ones all at
//! once. Where no webhook matches, a write pays for a few comparisons and nothing else.

mod client;
mod matching;

use crate::seam::{KindTable, Objects, Operation, UserInfo, WriteRequest};
use crate::status::Status;
use arc_swap::ArcSwap;
pub(crate) use client::Clients;
use futures::future::join_all;
use http::StatusCode;
use matching::{Match, Webhook};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The webhooks that are configured now.
pub struct Admission {
    mutating: Registry,
    validating: Registry,
    objects: Arc<dyn Objects>,
    clients: Clients,
}

/// The webhooks of one sort.
#[derive(Default)]
struct Registry {
    configurations: Mutex<BTreeMap<String, Vec<Arc<Webhook>>>>,
    /// All of them, in the order in which they are asked.
    flat: ArcSwap<Vec<Arc<Webhook>>>,
}

impl Registry {
    fn changed(&self, name: &str, new: Option<&Value>) {
        let mut configurations = self.configurations.lock();
        match new {
            Some(configuration) => {
                configurations.insert(name.to_owned(), Webhook::read(configuration));
            }
            None => {
                configurations.remove(name);
            }
        }
        self.flat.store(Arc::new(configurations.values().flatten().cloned().collect()));
    }
}

impl Admission {
    /// No webhooks yet.
    pub fn new(objects: Arc<dyn Objects>) -> Admission {
        let clients = Clients::new(objects.clone());
        Admission { mutating: Registry::default(), validating: Registry::default(), objects, clients }
    }

    /// A webhook configuration has changed.
    pub fn changed(&self, plural: &str, old: Option<&Value>, new: Option<&Value>) {
        let Some(name) = new.or(old).map(|object| crate::object::meta(object, "name")) else { return };
        match plural {
            "mutatingwebhookconfigurations" => self.mutating.changed(name, new),
            "validatingwebhookconfigurations" => self.validating.changed(name, new),
            _ => {}
        }
        self.clients.forget();
    }

    /// Asks the mutating webhooks; says whether the object has changed.
    pub async fn mutate(
        &self,
        request: &WriteRequest,
        table: &KindTable,
        object: &mut Value,
        warnings: &mut Vec<String>,
    ) -> Result<bool, Status> {
        let webhooks = self.mutating.flat.load_full();
        if webhooks.is_empty() || is_exempt(request) {
            return Ok(false);
        }
        let original = object.clone();
        // Whoever wants to see what came after it is asked once more, if something came.
        let mut seen: Vec<(usize, Value)> = Vec::new();
        for (index, webhook) in webhooks.iter().enumerate() {
            if self.mutate_once(webhook, request, table, object, warnings).await? && webhook.reinvoke {
                seen.push((index, object.clone()));
            }
        }
        for (index, known) in seen {
            if known != *object {
                self.mutate_once(&webhooks[index], request, table, object, warnings).await?;
            }
        }
        Ok(*object != original)
    }

    /// Asks one webhook, if it is concerned; says whether it was asked.
    async fn mutate_once(
        &self,
        webhook: &Arc<Webhook>,
        request: &WriteRequest,
        table: &KindTable,
        object: &mut Value,
        warnings: &mut Vec<String>,
    ) -> Result<bool, Status> {
        let Some(found) = matching::find(webhook, request, table, object, self.objects.as_ref()) else {
            return Ok(false);
        };
        let Some(response) = self.ask(webhook, request, &found, object, warnings).await? else {
            return Ok(true);
        };
        let Some(encoded) = response.get("patch").and_then(Value::as_str).filter(|text| !text.is_empty())
        else {
            return Ok(true);
        };
        if request.operation == Operation::Delete {
            return Ok(true);
        }
        let own_version = object["apiVersion"].clone();
        let mut patched = object.clone();
        patched["apiVersion"] = found.api_version().into();
        let applied = apply_patch(encoded, &mut patched);
        if let Err(error) = applied {
            let text = format!("admission webhook {:?} attempted an invalid patch: {error}", webhook.name);
            return if webhook.ignore_failure { Ok(true) } else { Err(Status::internal(text)) };
        }
        patched["apiVersion"] = own_version;
        *object = patched;
        Ok(true)
    }

    /// Asks the validating webhooks, all at once.
    pub async fn validate(
        &self,
        request: &WriteRequest,
        table: &KindTable,
        object: &Value,
        warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        let webhooks = self.validating.flat.load_full();
        if webhooks.is_empty() || is_exempt(request) {
            return Ok(());
        }
        let concerned = webhooks.iter().filter_map(|webhook| {
            let found = matching::find(webhook, request, table, object, self.objects.as_ref())?;
            Some(async move {
                let mut warnings = Vec::new();
                let result = self.ask(webhook, request, &found, object, &mut warnings).await;
                (result, warnings)
            })
        });
        for (result, more) in join_all(concerned).await {
            warnings.extend(more);
            result?;
        }
        Ok(())
    }

    /// Calls a webhook and reads its answer; `None` where it failed and that is to be ignored.
    async fn ask(
        &self,
        webhook: &Webhook,
        request: &WriteRequest,
        found: &Match,
        object: &Value,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Value>, Status> {
        if request.dry_run && !webhook.dry_run_safe {
            let text = format!("admission webhook {:?} does not support dry run", webhook.name);
            return Err(Status::bad_request(text));
        }
        let uid = uuid::Uuid::new_v4().to_string();
        let review = review(&uid, request, found, object);
        let result = self.clients.call(&webhook.client, webhook.timeout, &review).await;
        let response = match result.and_then(|answer| read_answer(&answer, &uid)) {
            Ok(response) => response,
            Err(error) if webhook.ignore_failure => {
                tracing::warn!(webhook = %webhook.name, %error, "an admission webhook failed; its policy is to go on");
                return Ok(None);
            }
            Err(error) => {
                let text = format!("failed calling webhook {:?}: {error}", webhook.name);
                return Err(Status::internal(text));
            }
        };
        for warning in response["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            warnings.push(warning.to_owned());
        }
        if response["allowed"] == true {
            return Ok(Some(response));
        }
        Err(denied(&webhook.name, &response["status"]))
    }
}

/// Webhook configurations are never sent to webhooks: a broken one could not be mended.
fn is_exempt(request: &WriteRequest) -> bool {
    request.kind.group == "admissionregistration.k8s.io"
}

fn denied(name: &str, status: &Value) -> Status {
    let code = status["code"].as_u64().and_then(|code| u16::try_from(code).ok());
    let code = code.filter(|code| (400..600).contains(code)).and_then(|code| StatusCode::from_u16(code).ok());
    let code = code.unwrap_or(StatusCode::FORBIDDEN);
    let why = [&status["message"], &status["reason"]]
        .into_iter()
        .filter_map(Value::as_str)
        .find(|text| !text.is_empty());
    let text = match why {
        Some(why) => format!("admission webhook {name:?} denied the request: {why}"),
        None => format!("admission webhook {name:?} denied the request without explanation"),
    };
    let reason = match code.as_u16() {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        422 => "Invalid",
        500 => "InternalError",
        _ => "",
    };
    Status::new(code, reason, text)
}

fn apply_patch(encoded: &str, object: &mut Value) -> Result<(), String> {
    use base64::Engine;
    let bytes =
        base64::engine::general_purpose::STANDARD.decode(encoded).map_err(|error| error.to_string())?;
    let patch: json_patch::Patch = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    json_patch::patch(object, &patch).map_err(|error| error.to_string())
}

fn read_answer(answer: &Value, uid: &str) -> Result<Value, String> {
    let response = &answer["response"];
    if !response.is_object() {
        return Err("the answer is no AdmissionReview with a response".to_owned());
    }
    if response["uid"] != uid {
        return Err(format!("expected response.uid={uid:?}, got {}", response["uid"]));
    }
    if answer["kind"] != "AdmissionReview" || answer["apiVersion"] != "admission.k8s.io/v1" {
        return Err(format!(
            "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {}, Kind={}",
            answer["apiVersion"], answer["kind"]
        ));
    }
    if response["patch"].is_string() && response["patchType"] != "JSONPatch" {
        return Err(format!("response.patchType must be JSONPatch, not {}", response["patchType"]));
    }
    Ok(response.clone())
}

/// The `AdmissionReview` that is sent.
fn review(uid: &str, request: &WriteRequest, found: &Match, object: &Value) -> Value {
    let kind = &request.kind;
    let versioned = |value: &Value| {
        let mut value = value.clone();
        if value.is_object() {
            value["apiVersion"] = found.api_version().into();
        }
        value
    };
    let (new, old) = match request.operation {
        Operation::Delete => (Value::Null, versioned(object)),
        _ => (versioned(object), request.old.as_deref().map(versioned).unwrap_or_default()),
    };
    let name = match request.name.as_str() {
        "" => crate::object::meta(object, "name"),
        name => name,
    };
    let mut body = json!({
        "uid": uid,
        "kind": {"group": kind.group, "version": found.version, "kind": kind.kind},
        "resource": {"group": kind.group, "version": found.version, "resource": kind.plural},
        "requestKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "requestResource": {"group": kind.group, "version": kind.version, "resource": kind.plural},
        "name": name,
        "operation": request.operation.name(),
        "userInfo": user(&request.user),
        "object": new,
        "oldObject": old,
        "dryRun": request.dry_run,
        "options": request.options,
    });
    if !request.namespace.is_empty() {
        body["namespace"] = request.namespace.as_str().into();
    } else if kind.group.is_empty() && kind.plural == "namespaces" {
        body["namespace"] = name.into();
    }
    if let Some(subresource) = request.subresource {
        body["subResource"] = subresource.into();
        body["requestSubResource"] = subresource.into();
    }
    json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": body})
}

fn user(user: &UserInfo) -> Value {
    let mut info = Map::new();
    info.insert("username".to_owned(), user.name.as_str().into());
    if !user.uid.is_empty() {
        info.insert("uid".to_owned(), user.uid.as_str().into());
    }
    if !user.groups.is_empty() {
        info.insert("groups".to_owned(), json!(user.groups));
    }
    if !user.extra.is_empty() {
        let extra: Map<String, Value> =
            user.extra.iter().map(|(key, values)| (key.clone(), json!(values))).collect();
        info.insert("extra".to_owned(), extra.into());
    }
    Value::Object(info)
}
