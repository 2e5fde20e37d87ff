//! Serving pages to callers whose addresses count.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use lateen_base::admin::{self, Reply};
use lateen_base::drain;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use super::access::{self, Ends};
use super::{Debug, Query};
use crate::metrics::Metrics;
use crate::replicas;

/// More than any question between replicas has.
const MAX_QUESTION: usize = 16 << 20;

/// What answers a request.
pub(crate) type Pages = Arc<dyn Fn(Ends, Request<Incoming>) -> BoxFuture<'static, Reply> + Send + Sync>;

/// The pages of port 8080: readiness and debugging.
pub(crate) fn debug_pages(debug: Arc<Debug>) -> Pages {
    Arc::new(move |ends, request| {
        let debug = Arc::clone(&debug);
        Box::pin(async move {
            match request.uri().path() {
                "/ready" => super::ready(&debug.readiness),
                _ => guarded(&debug, ends, request).await,
            }
        })
    })
}

/// The pages of port 15014: metrics, version, and debugging too, as istiod has it.
pub(crate) fn monitoring_pages(metrics: Metrics, debug: Arc<Debug>) -> Pages {
    Arc::new(move |ends, request| {
        let (metrics, debug) = (metrics.clone(), Arc::clone(&debug));
        Box::pin(async move {
            match (request.method(), request.uri().path()) {
                (&Method::GET, "/metrics") => admin::text(StatusCode::OK, page(&metrics, &debug)),
                (&Method::GET, "/version") => {
                    admin::json(json!({"version": lateen_base::VERSION}).to_string())
                }
                (_, path) if path == "/debug" || path.starts_with("/debug/") => {
                    guarded(&debug, ends, request).await
                }
                _ => {
                    admin::text(StatusCode::NOT_FOUND, "not found; /metrics, /version and /debug are here\n")
                }
            }
        })
    })
}

fn page(metrics: &Metrics, debug: &Debug) -> String {
    metrics.render(&debug.discovery.snapshot(), &*debug.platforms)
}

/// A page, if the caller may see it.
async fn guarded(debug: &Debug, ends: Ends, request: Request<Incoming>) -> Reply {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    if path == replicas::PATH && parts.method == Method::POST {
        return question(debug, &parts.headers, body).await;
    }
    let acts = path == "/debug/force_disconnect";
    if acts != (parts.method == Method::POST) || !acts && parts.method != Method::GET {
        let text = if acts { "this acts: POST to it\n" } else { "this page is only read\n" };
        return admin::text(StatusCode::METHOD_NOT_ALLOWED, text);
    }
    let query = Query::parse(parts.uri.query());
    let allowed =
        access::check(&debug.callers, &debug.root_namespace, ends, &parts.headers, path, &query).await;
    match allowed {
        Ok(()) => pretty(debug.page(path, &query).await, &query).await,
        Err(refusal) => refusal,
    }
}

/// Another replica asks; it shows that it is one by itself.
async fn question(debug: &Debug, headers: &http::HeaderMap, body: Incoming) -> Reply {
    let body = match Limited::new(body, MAX_QUESTION).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return admin::text(StatusCode::BAD_REQUEST, format!("{error}\n")),
    };
    match debug.replicas.answer(headers, &body).await {
        Ok(answer) => admin::json(answer),
        Err(error) => admin::text(StatusCode::FORBIDDEN, format!("{error:#}\n")),
    }
}

/// With `?pretty`, for people.
async fn pretty(reply: Reply, query: &Query<'_>) -> Reply {
    let (mut parts, body) = reply.into_parts();
    // A body that is there already is collected without fail.
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let is_json = parts.headers.get(http::header::CONTENT_TYPE).is_some_and(|of| of == "application/json");
    if is_json
        && query.has("pretty")
        && let Ok(value) = serde_json::from_slice::<Value>(&body)
        && let Ok(text) = serde_json::to_string_pretty(&value)
    {
        parts.headers.remove(http::header::CONTENT_LENGTH);
        return Reply::from_parts(parts, Bytes::from(text + "\n").into());
    }
    Reply::from_parts(parts, body.into())
}

/// Serves until the drain begins, then finishes the requests that are under way.
pub(crate) async fn serve(listener: TcpListener, pages: Pages, drain: drain::Watch) {
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::debug!("debug pages: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = drain.signaled() => return,
        };
        tokio::spawn(connection(stream, Arc::clone(&pages), drain.clone()));
    }
}

async fn connection(stream: TcpStream, pages: Pages, drain: drain::Watch) {
    let (Ok(peer), Ok(local)) = (stream.peer_addr(), stream.local_addr()) else { return };
    let ends = Ends { peer, local };
    let service = hyper::service::service_fn(move |request| {
        let reply = pages(ends, request);
        async move { Ok::<_, std::convert::Infallible>(reply.await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(10))
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = drain.signaled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("debug pages: {error}");
    }
}
