//! From an HTTP request to its answer: authentication, routing, authorization, verbs.

mod answer;
mod convert;
mod delete;
mod logs;
mod node;
mod port_forward;
mod protobuf;
mod proxy;
mod read;
mod request;
mod reviews;
mod scale;
mod watch;
mod write;

pub use answer::Body;
pub(crate) use delete::{DeleteOptions, Propagation, delete_object};
pub(crate) use write::{Circumstances, Place, create_object, expected_revision, modify};

use crate::api::Api;
use crate::auth::{Action, authenticate, authorize, impersonate};
use crate::seam::{KindInfo, UserInfo};
use crate::status::Status;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, LOCATION};
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use request::{Query, Request, Target};
use serde_json::json;
use std::sync::Arc;
use std::time::Instant;

/// The largest body that is read, as in Kubernetes.
const BODY_LIMIT: usize = 3 << 20;
/// The Kubernetes release whose API this server follows.
const KUBERNETES: (&str, &str, &str) = ("1", "32", "v1.32.0+lateen");

/// Answers a request; `certificate` is the user of the connection's client certificate.
pub async fn handle(
    api: Arc<Api>,
    certificate: Option<Arc<UserInfo>>,
    mut request: http::Request<hyper::body::Incoming>,
) -> Response<Body> {
    let upgrade = hyper::upgrade::on(&mut request);
    let (parts, body) = request.into_parts();
    let (start, method, uri) = (Instant::now(), parts.method.clone(), parts.uri.clone());
    if let Some(response) = health(&api, parts.uri.path()) {
        return response;
    }
    let result = async {
        let user = authenticate(&api, certificate.as_deref(), &parts.headers)?;
        let user = impersonate(&api, user, &parts.headers)?;
        let body = Limited::new(body, BODY_LIMIT).collect().await.map_err(|error| {
            let text = format!("the body cannot be read, or is larger than {BODY_LIMIT} bytes: {error}");
            Status::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", text)
        })?;
        let mut body = body.to_bytes();
        let mut headers = parts.headers;
        let content_type =
            headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let proxied = || Target::parse(uri.path()).is_some_and(|target| target.proxied.is_some());
        if content_type.starts_with(protobuf::MEDIA_TYPE) && !body.is_empty() && !proxied() {
            body = protobuf::to_json(&body)?;
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let request = Request {
            method: parts.method,
            path: parts.uri.path().to_owned(),
            query: Query::parse(parts.uri.query().unwrap_or_default()),
            headers,
            user,
            body,
            upgrade,
        };
        route(&api, request).await
    };
    let response = result.await.unwrap_or_else(|status| answer::status(&status));
    tracing::debug!(%method, %uri, code = response.status().as_u16(), elapsed = ?start.elapsed(), "request");
    response
}

/// Probes need no credentials.
fn health(api: &Api, path: &str) -> Option<Response<Body>> {
    let probe = ["/healthz", "/livez", "/readyz"];
    if !probe
        .iter()
        .any(|known| path == *known || path.strip_prefix(known).is_some_and(|rest| rest.starts_with('/')))
    {
        return None;
    }
    let ready = !(path.starts_with("/readyz") && api.drain.is_signaled());
    let (code, text) =
        if ready { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "shutting down") };
    Some(answer::bytes(code, "text/plain; charset=utf-8", text))
}

async fn route(api: &Arc<Api>, request: Request) -> Result<Response<Body>, Status> {
    if let Some(target) = Target::parse(&request.path)
        && !request.path.starts_with("/openapi")
    {
        return resource(api, request, target).await;
    }
    let verb = request.method.as_str().to_ascii_lowercase();
    authorize(api, &request.user, &Action::Path { verb: &verb, path: &request.path })?;
    if !matches!(request.method, Method::GET | Method::HEAD) {
        return Err(Status::method_not_allowed());
    }
    if request.path.trim_end_matches('/') == "/version" {
        return Ok(answer::json(StatusCode::OK, &version()));
    }
    let path = match request.path.trim_end_matches('/') {
        "" => {
            return Ok(answer::json(
                StatusCode::OK,
                &json!({"paths": [
            "/api", "/api/v1", "/apis", "/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]}),
            ));
        }
        path => path,
    };
    let document = api
        .schema
        .document(path, request.query.raw(), request.header(ACCEPT))
        .unwrap_or_else(|| Err(Status::no_such_path()))?;
    if let Some(place) = document.redirect {
        let mut response = answer::bytes(StatusCode::MOVED_PERMANENTLY, "text/plain", "");
        if let Ok(place) = HeaderValue::from_str(&place) {
            response.headers_mut().insert(LOCATION, place);
        }
        return Ok(response);
    }
    let unchanged = document.etag.as_deref().is_some_and(|etag| request.header(IF_NONE_MATCH).contains(etag));
    let mut response =
        Response::new(answer::whole(if unchanged { bytes::Bytes::new() } else { document.body }));
    if unchanged {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = [
        (CONTENT_TYPE, Some(document.content_type)),
        (ETAG, document.etag),
        (CACHE_CONTROL, document.cache_control.map(str::to_owned)),
        (http::header::VARY, Some("Accept".to_owned())),
    ];
    for (name, value) in headers {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(&value).ok()) {
            response.headers_mut().insert(name, value);
        }
    }
    Ok(response)
}

async fn resource(api: &Arc<Api>, request: Request, target: Target) -> Result<Response<Body>, Status> {
    let verb = verb_of(&request, &target)?;
    let action = Action::Resource {
        verb,
        group: &target.group,
        plural: &target.plural,
        subresource: target.subresource.as_deref(),
        // A request for a namespace is one in that namespace, so that a Role can allow it.
        namespace: target.namespace.as_deref().or_else(|| {
            let itself = target.group.is_empty() && target.plural == "namespaces";
            target.name.as_deref().filter(|_| itself)
        }),
        name: target.name.as_deref().unwrap_or_default(),
    };
    authorize(api, &request.user, &action)?;
    if verb == "create"
        && target.name.is_none()
        && let Some(answer) = reviews::review(api, &request, &target)
    {
        return answer;
    }
    let kinds = api.schema.kinds();
    let kind = kinds
        .find(&target.group, &target.version, &target.plural)
        .cloned()
        .ok_or_else(Status::no_such_path)?;
    if (target.namespace.is_some() && !kind.namespaced)
        || (kind.namespaced && target.namespace.is_none() && target.name.is_some())
    {
        return Err(Status::no_such_path());
    }
    let warning = kind.deprecation_warning.clone();
    let result = match target.subresource.clone() {
        None => main(api, request, &target, kind, verb).await,
        Some(name) => subresource(api, request, &target, kind, verb, &name).await,
    };
    result.map(|mut response| {
        answer::warn(&mut response, warning.as_slice());
        response
    })
}

/// The verb of a request, as authorization and discovery name it.
fn verb_of(request: &Request, target: &Target) -> Result<&'static str, Status> {
    let named = target.name.is_some();
    Ok(match (&request.method, named) {
        (&Method::GET | &Method::HEAD, _) if target.subresource.is_none() && request.query.flag("watch") => {
            "watch"
        }
        (&Method::GET | &Method::HEAD, true) => "get",
        (&Method::GET | &Method::HEAD, false) => "list",
        (&Method::POST, _) => "create",
        (&Method::PUT, true) => "update",
        (&Method::PATCH, true) => "patch",
        (&Method::DELETE, true) => "delete",
        (&Method::DELETE, false) => "deletecollection",
        _ => return Err(Status::method_not_allowed()),
    })
}

async fn main(
    api: &Arc<Api>,
    request: Request,
    target: &Target,
    kind: Arc<KindInfo>,
    verb: &str,
) -> Result<Response<Body>, Status> {
    if !kind.verbs.contains(&verb) {
        return Err(Status::method_not_allowed());
    }
    match verb {
        "get" => read::get(api, &request, target, &kind).await,
        "list" => read::list(api, &request, target, &kind).await,
        "watch" => watch::watch(api, request, target, kind).await,
        "create" if target.name.is_some() => Err(Status::method_not_allowed()),
        "create" => write::create(api, &request, target, kind).await,
        "update" => write::update(api, &request, target, kind).await,
        "patch" => write::patch(api, &request, target, kind).await,
        "delete" => delete::delete(api, &request, target, kind).await,
        "deletecollection" => delete::delete_collection(api, &request, target, kind).await,
        _ => Err(Status::method_not_allowed()),
    }
}

async fn subresource(
    api: &Arc<Api>,
    request: Request,
    target: &Target,
    kind: Arc<KindInfo>,
    verb: &str,
    name: &str,
) -> Result<Response<Body>, Status> {
    let namespace = kind.group.is_empty() && kind.plural == "namespaces";
    if !(kind.has_subresource(name) || (namespace && name == "finalize")) {
        return Err(Status::no_such_path());
    }
    match (name, verb) {
        ("status", "get") => read::get(api, &request, target, &kind).await,
        ("scale", "get") => {
            let place = target.namespace.as_deref().unwrap_or_default();
            let object = target.name.as_deref().unwrap_or_default();
            let stored = api.store.read(&crate::store::table_name(kind.resource()), place, object);
            let stored = stored.ok_or_else(|| Status::not_found(&kind.group, &kind.plural, object))?;
            let stored = convert::shown(api, &kind, &stored).await?;
            Ok(answer::json(StatusCode::OK, &scale::of(&kind, &stored.value)?))
        }
        ("status" | "scale" | "finalize", "update") => write::update(api, &request, target, kind).await,
        ("status" | "scale", "patch") => write::patch(api, &request, target, kind).await,
        ("log", "get") => logs::get(api, &request, target).await,
        ("portforward", "get" | "create") => port_forward::start(api, request, target).await,
        ("proxy", _) => proxy::forward(api, request, target).await,
        ("token", "create") => reviews::token(api, &request, target),
        _ => Err(Status::method_not_allowed()),
    }
}

fn version() -> serde_json::Value {
    let (major, minor, version) = KUBERNETES;
    json!({
        "major": major,
        "minor": minor,
        "gitVersion": version,
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}
