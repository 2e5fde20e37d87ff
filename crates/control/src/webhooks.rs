//! The admission webhooks: `/inject` adds the sidecar to Pods, `/validate` judges the mesh's own objects.
//!
//! Both speak `admission.k8s.io/v1` (<https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/>).

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use lateen_base::drain;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::metrics::Metrics;

/// Larger than any object that the API server takes.
const MAX_REVIEW: usize = 16 << 20;

/// What answers a review: the patched object and the warnings, or why it is refused.
pub(crate) struct Answer {
    pub(crate) patch: Option<json_patch::Patch>,
    pub(crate) warnings: Vec<String>,
    pub(crate) refusal: Option<String>,
}

impl Answer {
    /// Yes, as it is.
    pub(crate) fn accepted() -> Self {
        Self { patch: None, warnings: Vec::new(), refusal: None }
    }

    /// No, for this reason.
    pub(crate) fn refused(reason: String) -> Self {
        Self { refusal: Some(reason), ..Self::accepted() }
    }
}

/// Judges one `AdmissionReview.request`.
pub(crate) type Judge = dyn Fn(Value) -> BoxFuture<'static, Answer> + Send + Sync;

/// The two judges.
pub(crate) struct Webhooks {
    pub(crate) inject: Box<Judge>,
    pub(crate) validate: Box<Judge>,
}

/// Serves the webhooks until the drain begins.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    webhooks: Arc<Webhooks>,
    metrics: Metrics,
    drain: drain::Watch,
) {
    let acceptor = TlsAcceptor::from(tls);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!("webhook connection: {error}");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = drain.signaled() => return,
        };
        let (acceptor, webhooks, drain) = (acceptor.clone(), Arc::clone(&webhooks), drain.clone());
        let metrics = metrics.clone();
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = hyper::service::service_fn(|request| {
                let answer = answer(&webhooks, request);
                let count = |answer: Result<Response<Full<Bytes>>, std::convert::Infallible>| {
                    let status = answer.as_ref().map_or(StatusCode::OK, Response::status);
                    if !status.is_success() {
                        metrics.webhook_error(status.as_u16());
                    }
                    answer
                };
                answer.map(count)
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service);
            tokio::pin!(connection);
            tokio::select! {
                _ = connection.as_mut() => {}
                () = drain.signaled() => {
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.await;
                }
            }
        });
    }
}

async fn answer(
    webhooks: &Webhooks,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    let judge = match (request.method(), request.uri().path()) {
        // Istio's webhook paths carry parameters after the name.
        (&Method::POST, path) if path == "/inject" || path.starts_with("/inject/") => &webhooks.inject,
        (&Method::POST, path) if path == "/validate" || path.starts_with("/validate/") => &webhooks.validate,
        _ => return Ok(reply(StatusCode::NOT_FOUND, "not found".into())),
    };
    let body = match Limited::new(request.into_body(), MAX_REVIEW).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return Ok(reply(StatusCode::BAD_REQUEST, error.to_string().into())),
    };
    Ok(match serde_json::from_slice::<Value>(&body) {
        Ok(review) if review["request"].is_object() => {
            let uid = review["request"]["uid"].clone();
            let answer = judge(review["request"].clone()).await;
            reply(StatusCode::OK, response(&uid, answer).to_string().into())
        }
        Ok(_) => reply(StatusCode::BAD_REQUEST, "an AdmissionReview has a request".into()),
        Err(error) => reply(StatusCode::BAD_REQUEST, format!("not an AdmissionReview: {error}").into()),
    })
}

fn reply(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

fn response(uid: &Value, answer: Answer) -> Value {
    let mut response = json!({"uid": uid, "allowed": answer.refusal.is_none()});
    if let Some(message) = answer.refusal {
        response["status"] = json!({"code": 400, "reason": "Invalid", "message": message});
    }
    if !answer.warnings.is_empty() {
        response["warnings"] = json!(answer.warnings);
    }
    if let Some(patch) = answer.patch {
        response["patchType"] = json!("JSONPatch");
        response["patch"] = json!(BASE64_STANDARD.encode(json!(patch).to_string()));
    }
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_the_form_of_the_api() {
        let uid = json!("42");
        let answer =
            Answer { warnings: vec!["old".to_owned()], ..Answer::refused("spec.hosts: missing".to_owned()) };
        let refused = response(&uid, answer);
        assert_eq!(refused["response"]["uid"], "42");
        assert_eq!(refused["response"]["allowed"], false);
        assert_eq!(refused["response"]["status"]["message"], "spec.hosts: missing");
        assert_eq!(refused["response"]["warnings"], json!(["old"]));

        let patch = json_patch::diff(&json!({"a": 1}), &json!({"a": 2}));
        let patched = response(&uid, Answer { patch: Some(patch), ..Answer::accepted() });
        assert_eq!(patched["response"]["allowed"], true);
        let bytes = BASE64_STANDARD.decode(patched["response"]["patch"].as_str().unwrap()).unwrap();
        let patch: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(patch, json!([{"op": "replace", "path": "/a", "value": 2}]));
    }
}
