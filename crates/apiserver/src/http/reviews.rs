//! Requests that store nothing: tokens, and reviews of tokens and permissions.

use super::answer::{self, Body};
use super::request::{Request, Target};
use crate::api::Api;
use crate::auth::{Action, is_allowed};
use crate::object::{meta, now, put, time};
use crate::rbac;
use crate::seam::{FieldValidation, Resource, UserInfo};
use crate::status::{Cause, Status};
use crate::store::table_name;
use crate::token::{Bound, Claims, ISSUER, Reference};
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};

/// Shortest life of a token that may be asked for, as in Kubernetes.
const SHORTEST_SECONDS: i64 = 600;
/// Longest life of a token that may be asked for.
const LONGEST_SECONDS: i64 = 1 << 32;
const DEFAULT_SECONDS: i64 = 3600;

/// Answers a POST that creates a review, if the target is one.
pub(super) fn review(
    api: &Api,
    request: &Request,
    target: &Target,
) -> Option<Result<Response<Body>, Status>> {
    let answer = match (target.group.as_str(), target.version.as_str(), target.plural.as_str()) {
        ("authentication.k8s.io", "v1", "tokenreviews") => token_review,
        ("authentication.k8s.io", "v1", "selfsubjectreviews") => self_subject_review,
        ("authorization.k8s.io", "v1", "selfsubjectaccessreviews") => self_subject_access_review,
        ("authorization.k8s.io", "v1", "subjectaccessreviews") => subject_access_review,
        ("authorization.k8s.io", "v1", "localsubjectaccessreviews") => subject_access_review,
        ("authorization.k8s.io", "v1", "selfsubjectrulesreviews") => self_subject_rules_review,
        _ => return None,
    };
    let decoded = api.schema.decode(request.content_type(), &request.body, FieldValidation::Ignore);
    Some(decoded.and_then(|decoded| {
        if !decoded.object.is_object() {
            return Err(Status::bad_request("the body is not an object"));
        }
        let namespace = &decoded.object["spec"]["resourceAttributes"]["namespace"];
        if target.plural == "localsubjectaccessreviews"
            && target.namespace.as_deref() != Some(namespace.as_str().unwrap_or_default())
        {
            return Err(Status::bad_request(
                "spec.resourceAttributes.namespace must be the namespace in the path of a LocalSubjectAccessReview",
            ));
        }
        Ok(answer::json(StatusCode::CREATED, &answer(api, request, decoded.object)))
    }))
}

fn token_review(api: &Api, _request: &Request, mut review: Value) -> Value {
    let mut audiences: Vec<String> = strings(&review["spec"]["audiences"]);
    if audiences.is_empty() {
        audiences.push(ISSUER.to_owned());
    }
    let token = review["spec"]["token"].as_str().unwrap_or_default();
    review["status"] = match api.tokens.verify(token, &audiences, &api.store) {
        Ok((user, shared)) => json!({"authenticated": true, "user": user_json(&user), "audiences": shared}),
        Err(error) => json!({"authenticated": false, "user": {}, "error": error.to_string()}),
    };
    review
}

fn self_subject_review(_api: &Api, request: &Request, mut review: Value) -> Value {
    put(&mut review, &["metadata", "creationTimestamp"], now().into());
    review["status"] = json!({"userInfo": user_json(&request.user)});
    review
}

fn self_subject_access_review(api: &Api, request: &Request, mut review: Value) -> Value {
    review["status"] = access(api, &request.user, &review["spec"]);
    review
}

fn subject_access_review(api: &Api, _request: &Request, mut review: Value) -> Value {
    let spec = &review["spec"];
    let name = spec["user"].as_str().unwrap_or_default().to_owned();
    let user = UserInfo { name, groups: strings(&spec["groups"]), ..UserInfo::default() };
    review["status"] = access(api, &user, &review["spec"]);
    review
}

fn access(api: &Api, user: &UserInfo, spec: &Value) -> Value {
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let text = |field: &str| resource[field].as_str().unwrap_or_default();
    let action = if resource.is_object() {
        Action::Resource {
            verb: text("verb"),
            group: text("group"),
            plural: text("resource"),
            subresource: Some(text("subresource")).filter(|text| !text.is_empty()),
            namespace: Some(text("namespace")).filter(|text| !text.is_empty()),
            name: text("name"),
        }
    } else {
        Action::Path {
            verb: path["verb"].as_str().unwrap_or_default(),
            path: path["path"].as_str().unwrap_or_default(),
        }
    };
    json!({"allowed": is_allowed(api, user, &action)})
}

fn self_subject_rules_review(api: &Api, request: &Request, mut review: Value) -> Value {
    let namespace = review["spec"]["namespace"].as_str().filter(|namespace| !namespace.is_empty());
    let mut rules = rbac::rules_of(&api.store.snapshot(), &request.user, namespace);
    if request.user.groups.iter().any(|group| api.admin_groups.contains(group)) {
        rules.push(json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}));
        rules.push(json!({"nonResourceURLs": ["*"], "verbs": ["*"]}));
    }
    let mut seen: Vec<Value> = Vec::new();
    rules.into_iter().for_each(|rule| {
        if !seen.contains(&rule) {
            seen.push(rule)
        }
    });
    let (paths, resources): (Vec<Value>, Vec<Value>) =
        seen.into_iter().partition(|rule| rule["nonResourceURLs"].is_array());
    review["status"] = json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false});
    review
}

/// Answers `serviceaccounts/NAME/token`.
pub(super) fn token(api: &Api, request: &Request, target: &Target) -> Result<Response<Body>, Status> {
    let namespace = target.namespace.as_deref().unwrap_or_default();
    let name = target.name.as_deref().unwrap_or_default();
    let account = api
        .store
        .read(&table_name(Resource::new("", "serviceaccounts")), namespace, name)
        .ok_or_else(|| Status::not_found("", "serviceaccounts", name))?;
    let dry_run = request.query.dry_run()?;
    let mut body = api.schema.decode(request.content_type(), &request.body, FieldValidation::Ignore)?.object;
    let spec = &body["spec"];
    let mut audiences = strings(&spec["audiences"]);
    if audiences.is_empty() {
        audiences.push(ISSUER.to_owned());
    }
    let seconds = spec["expirationSeconds"].as_i64().unwrap_or(DEFAULT_SECONDS);
    if !(SHORTEST_SECONDS..=LONGEST_SECONDS).contains(&seconds) {
        let text =
            format!("may not specify a duration less than 10 minutes or more than {LONGEST_SECONDS} seconds");
        let cause = Cause::invalid("spec.expirationSeconds", &seconds.into(), text);
        return Err(Status::invalid("authentication.k8s.io", "TokenRequest", name, vec![cause]));
    }
    let (pod, node) = bound_pod(api, namespace, name, &spec["boundObjectRef"])?;
    let issued = jiff::Timestamp::now();
    let expires = issued + jiff::SignedDuration::from_secs(seconds);
    let claims = Claims {
        aud: audiences.clone(),
        exp: expires.as_second(),
        iat: issued.as_second(),
        iss: ISSUER.to_owned(),
        jti: uuid::Uuid::new_v4().to_string(),
        bound: Bound {
            namespace: namespace.to_owned(),
            node,
            pod,
            serviceaccount: Reference { name: name.to_owned(), uid: meta(&account.value, "uid").to_owned() },
        },
        nbf: issued.as_second(),
        sub: format!("system:serviceaccount:{namespace}:{name}"),
    };
    put(&mut body, &["kind"], "TokenRequest".into());
    put(&mut body, &["apiVersion"], "authentication.k8s.io/v1".into());
    let metadata = json!({"name": name, "namespace": namespace, "creationTimestamp": time(issued)});
    put(&mut body, &["metadata"], metadata);
    put(&mut body, &["spec", "audiences"], json!(audiences));
    put(&mut body, &["spec", "expirationSeconds"], seconds.into());
    let token = if dry_run { String::new() } else { api.tokens.issue(&claims).map_err(Status::internal)? };
    body["status"] = json!({"token": token, "expirationTimestamp": time(expires)});
    Ok(answer::json(StatusCode::CREATED, &body))
}

/// The Pod (and its node) that a token is to be bound to.
fn bound_pod(
    api: &Api,
    namespace: &str,
    account: &str,
    reference: &Value,
) -> Result<(Option<Reference>, Option<Reference>), Status> {
    if !reference.is_object() {
        return Ok((None, None));
    }
    let text = |field: &str| reference[field].as_str().unwrap_or_default();
    if (text("kind"), text("apiVersion")) != ("Pod", "v1") {
        return Err(Status::bad_request(format!(
            "cannot bind token for object of type {} {}; only a v1 Pod can be bound to",
            text("apiVersion"),
            text("kind")
        )));
    }
    let name = text("name");
    let pod = api
        .store
        .read(&table_name(Resource::new("", "pods")), namespace, name)
        .ok_or_else(|| Status::not_found("", "pods", name))?;
    let uid = meta(&pod.value, "uid");
    if !text("uid").is_empty() && text("uid") != uid {
        let message = format!(
            "the UID in the bound object reference ({}) does not match the UID in record ({uid})",
            text("uid")
        );
        return Err(Status::conflict("", "pods", name, message));
    }
    let owner =
        pod.value["spec"]["serviceAccountName"].as_str().filter(|name| !name.is_empty()).unwrap_or("default");
    if owner != account {
        return Err(Status::bad_request(format!(
            "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name {owner:?}"
        )));
    }
    let node = pod.value["spec"]["nodeName"].as_str().filter(|node| !node.is_empty());
    let node = node.map(|node| Reference {
        name: node.to_owned(),
        uid: api
            .store
            .read(&table_name(Resource::new("", "nodes")), "", node)
            .map(|node| meta(&node.value, "uid").to_owned())
            .unwrap_or_default(),
    });
    Ok((Some(Reference { name: name.to_owned(), uid: uid.to_owned() }), node))
}

fn user_json(user: &UserInfo) -> Value {
    let mut object = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        object["uid"] = user.uid.clone().into();
    }
    if !user.extra.is_empty() {
        object["extra"] =
            user.extra.iter().map(|(key, values)| (key.clone(), json!(values))).collect::<Map<_, _>>().into();
    }
    object
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}
