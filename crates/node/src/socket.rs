//! `run/node.sock`: what the API server asks the node, over HTTP.
//!
//! `/containerLogs/NAMESPACE/POD/CONTAINER?follow&tailLines&previous&timestamps&sinceSeconds&sinceTime&limitBytes` (the
//! kubelet's path and parameters), `/portForward/NAMESPACE/POD?port=N` ([`crate::port_forward`]), `/pods`, `/healthz`.

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use tokio::net::UnixListener;
use tokio::sync::mpsc;

use crate::cluster::ObjectKey;
use crate::port_forward;
use crate::runner::logs::{Query, Reader, file_of};
use crate::runner::{Runner, Shown};

/// How long after a container's end its last output may take to reach the file.
const LAST_LINES: std::time::Duration = std::time::Duration::from_millis(100);

pub(crate) type Body = BoxBody<Bytes, Infallible>;

/// Serves until the process ends.
pub(crate) async fn serve(path: &Path, runner: Runner) -> io::Result<()> {
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path)?;
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        let runner = runner.clone();
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let runner = runner.clone();
                async move {
                    Ok::<_, Infallible>(match port_forward::is_path(request.uri().path()) {
                        true => port_forward::answer(&runner, request).await,
                        false => answer(&runner, &request),
                    })
                }
            });
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "node socket");
            }
        });
    }
}

fn answer(runner: &Runner, request: &Request<Incoming>) -> Response<Body> {
    let parts: Vec<&str> = request.uri().path().trim_matches('/').split('/').collect();
    match parts.as_slice() {
        ["healthz"] => text(StatusCode::OK, "ok"),
        ["pods"] => text(StatusCode::OK, runner.list().to_string()),
        ["containerLogs", namespace, pod, container] => {
            let Some(shown) = runner.find(&ObjectKey::new(*namespace, *pod)) else {
                return text(StatusCode::NOT_FOUND, format!("pod {pod} does not run on this node"));
            };
            match parameters(request.uri().query().unwrap_or_default()) {
                Ok(parameters) => container_logs(&shown, pod, container, parameters),
                Err(message) => text(StatusCode::BAD_REQUEST, message),
            }
        }
        _ => text(StatusCode::NOT_FOUND, "no such path"),
    }
}

#[derive(Debug, PartialEq, Default)]
struct Parameters {
    query: Query,
    follow: bool,
    previous: bool,
}

fn parameters(query: &str) -> Result<Parameters, String> {
    let mut parameters = Parameters::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, "true"));
        let value = value.replace("%3A", ":").replace("%3a", ":").replace("%2B", "+").replace("%2b", "+");
        let number = || value.parse::<u64>().map_err(|_| format!("{name}: \"{value}\" is not a number"));
        let yes = value == "true" || value == "1";
        match name {
            "follow" => parameters.follow = yes,
            "previous" => parameters.previous = yes,
            "timestamps" => parameters.query.timestamps = yes,
            "tailLines" => parameters.query.tail = Some(number()? as usize),
            "limitBytes" => parameters.query.limit = Some(number()? as usize),
            "sinceSeconds" => {
                let seconds = i64::try_from(number()?).unwrap_or(i64::MAX / 1000);
                let since = jiff::Timestamp::now().checked_sub(jiff::SignedDuration::from_secs(seconds));
                parameters.query.since = since.ok();
            }
            "sinceTime" => {
                let time = value.parse().map_err(|_| format!("{name}: \"{value}\" is not a time"))?;
                parameters.query.since = Some(time);
            }
            _ => {}
        }
    }
    Ok(parameters)
}

fn container_logs(shown: &Arc<Shown>, pod: &str, container: &str, parameters: Parameters) -> Response<Body> {
    let run = shown.runs.lock().get(container).copied();
    let wanted = match (run, parameters.previous) {
        (Some(run), false) => run,
        (Some(run @ 1..), true) => run - 1,
        (_, true) => {
            let message = format!("previous terminated container \"{container}\" in pod \"{pod}\" not found");
            return text(StatusCode::BAD_REQUEST, message);
        }
        (None, false) => {
            let message = format!("container \"{container}\" in pod \"{pod}\" is waiting to start");
            return text(StatusCode::BAD_REQUEST, message);
        }
    };
    let mut reader = Reader::new(file_of(&shown.logs, container, wanted), parameters.query);
    let mut grown = shown.grown.subscribe();
    grown.mark_unchanged();
    let first = match reader.first() {
        Ok(first) => first,
        Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    if !parameters.follow || parameters.previous {
        return text(StatusCode::OK, first);
    }
    let (sender, receiver) = mpsc::channel::<Bytes>(16);
    // Weak: following does not keep the Pod's files, its end ends the stream.
    let alive = Arc::downgrade(shown);
    let container = container.to_owned();
    tokio::spawn(async move {
        let mut chunk = first;
        loop {
            if !chunk.is_empty() && sender.send(Bytes::from(chunk)).await.is_err() {
                return;
            }
            let is_over = || match alive.upgrade() {
                Some(shown) => shown.running.lock().get(&container) != Some(&wanted),
                None => true,
            };
            let over = is_over();
            if over {
                // What the container wrote last may still be on its way through the pipe.
                tokio::time::sleep(LAST_LINES).await;
            } else {
                tokio::select! {
                    changed = grown.changed() => if changed.is_err() { return },
                    () = sender.closed() => return,
                }
            }
            let Ok(more) = reader.more() else { return };
            if over && more.is_empty() {
                return;
            }
            chunk = more;
        }
    });
    let stream = tokio_stream(receiver).map(|bytes| Ok(Frame::data(bytes)));
    Response::new(BodyExt::boxed(StreamBody::new(stream)))
}

fn tokio_stream(receiver: mpsc::Receiver<Bytes>) -> impl futures::Stream<Item = Bytes> {
    futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|bytes| (bytes, receiver))
    })
}

pub(crate) fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(BodyExt::boxed(Full::new(body.into())));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_a_request() {
        let check =
            |query: &str, expected: Parameters| assert_eq!(parameters(query).unwrap(), expected, "{query}");
        check("", Parameters::default());
        check("follow=true", Parameters { follow: true, ..Default::default() });
        check("follow&previous=1", Parameters { follow: true, previous: true, ..Default::default() });
        let query = Query { tail: Some(5), timestamps: true, ..Default::default() };
        check("tailLines=5&timestamps=true", Parameters { query, ..Default::default() });
        let since: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let query = Query { since: Some(since), ..Default::default() };
        check("sinceTime=2026-01-01T00%3A00%3A00Z", Parameters { query, ..Default::default() });
        assert!(parameters("tailLines=x").unwrap_err().contains("tailLines"));
    }
}
