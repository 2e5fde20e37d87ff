//! `pods/NAME/log`: asked of the node over its Unix socket, passed on as it comes.

use super::answer::{self, Body};
use super::node::NodeConnection;
use super::request::{Request, Target};
use crate::api::Api;
use crate::seam::Resource;
use crate::status::Status;
use crate::store::table_name;
use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use serde_json::Value;
use std::time::Duration;

/// How long the node may take to begin its answer.
const NODE_TIMEOUT: Duration = Duration::from_secs(10);
/// What of a refusal of the node is passed on.
const REFUSAL_LIMIT: usize = 16 << 10;

/// Answers GET of a Pod's log.
pub(super) async fn get(api: &Api, request: &Request, target: &Target) -> Result<Response<Body>, Status> {
    let namespace = target.namespace.as_deref().unwrap_or_default();
    let name = target.name.as_deref().unwrap_or_default();
    let pod = api
        .store
        .read(&table_name(Resource::new("", "pods")), namespace, name)
        .ok_or_else(|| Status::not_found("", "pods", name))?;
    let container = container_of(&pod.value, request.query.get("container"))?;
    if pod.value["spec"]["nodeName"].as_str().unwrap_or_default().is_empty() {
        return Err(Status::bad_request(format!("pod {name} does not have a host assigned")));
    }
    let mut path = format!("/containerLogs/{namespace}/{name}/{container}?");
    for parameter in
        ["follow", "tailLines", "previous", "timestamps", "sinceSeconds", "sinceTime", "limitBytes"]
    {
        let value = request.query.get(parameter);
        if !value.is_empty() {
            path.push_str(&format!("{parameter}={}&", value.replace('+', "%2B").replace('&', "%26")));
        }
    }
    let answer = tokio::time::timeout(NODE_TIMEOUT, ask_node(api, path.trim_end_matches(['?', '&'])))
        .await
        .map_err(|_| Status::unavailable("the node does not answer a request for logs"))??;
    let status = answer.status();
    if status != StatusCode::OK {
        let body = http_body_util::Limited::new(answer.into_body(), REFUSAL_LIMIT).collect().await;
        let text =
            body.map(|body| String::from_utf8_lossy(&body.to_bytes()).trim().to_owned()).unwrap_or_default();
        return Err(match status {
            StatusCode::NOT_FOUND => Status::new(StatusCode::NOT_FOUND, "NotFound", text),
            StatusCode::BAD_REQUEST => Status::bad_request(text),
            _ => Status::internal(format!("the node answered {status}: {text}")),
        });
    }
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(16);
    let drain = api.drain.clone();
    tokio::spawn(async move {
        let mut body = answer.into_body();
        loop {
            let frame = tokio::select! {
                frame = body.frame() => frame,
                () = sender.closed() => return,
                () = drain.signaled() => return,
            };
            let Some(Ok(frame)) = frame else { return };
            if let Ok(data) = frame.into_data()
                && sender.send(data).await.is_err()
            {
                return;
            }
        }
    });
    Ok(answer::stream("text/plain", tokio_stream::wrappers::ReceiverStream::new(receiver)))
}

async fn ask_node(api: &Api, path: &str) -> Result<Response<hyper::body::Incoming>, Status> {
    let socket = api
        .node_socket
        .as_deref()
        .ok_or_else(|| Status::unavailable("this server has no node to ask for logs"))?;
    let mut node = NodeConnection::open(socket, "logs").await?;
    let request = http::Request::get(path)
        .header(http::header::HOST, "node")
        .body(Empty::<Bytes>::new())
        .map_err(|error| Status::bad_request(format!("the parameters of the log request: {error}")))?;
    node.send(request).await
}

/// The container asked for: the default one of a Pod with several is the first, as `kubectl` has it.
fn container_of(pod: &Value, asked: &str) -> Result<String, Status> {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let names = |list: &str| -> Vec<&str> {
        let list = pod["spec"][list].as_array().into_iter().flatten();
        list.filter_map(|container| container["name"].as_str()).collect()
    };
    let (containers, init) = (names("containers"), names("initContainers"));
    if asked.is_empty() {
        return match containers.as_slice() {
            [one] => Ok((*one).to_owned()),
            _ => Err(Status::bad_request(format!(
                "a container name must be specified for pod {name}, choose one of: {containers:?}"
            ))),
        };
    }
    if containers.iter().chain(&init).any(|known| *known == asked) {
        return Ok(asked.to_owned());
    }
    Err(Status::bad_request(format!("container {asked} is not valid for pod {name}")))
}
