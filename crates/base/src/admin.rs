//! A small HTTP/1.1 listener for health, metrics and debugging, for processes that are not proxies.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

use crate::drain;

/// The answer to one request.
pub type Reply = Response<Full<Bytes>>;

/// Turns a request into an answer; shared by all connections.
pub type Handler =
    Arc<dyn Fn(Request<Incoming>) -> Pin<Box<dyn Future<Output = Reply> + Send>> + Send + Sync>;

/// An answer of `status` with a text body.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    typed(status, "text/plain; charset=UTF-8", body)
}

/// An answer of 200 with a JSON body.
pub fn json(body: impl Into<Bytes>) -> Reply {
    typed(StatusCode::OK, "application/json", body)
}

fn typed(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    reply.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    reply
}

/// Serves `handler` on `listener` until the drain begins, then finishes the requests that are under way.
pub async fn serve(listener: TcpListener, handler: Handler, drain: drain::Watch) -> io::Result<()> {
    accept(|context| listener.poll_accept(context).map_ok(|(stream, _)| stream), handler, drain).await
}

/// As [`serve`], on a Unix socket.
pub async fn serve_unix(listener: UnixListener, handler: Handler, drain: drain::Watch) -> io::Result<()> {
    accept(|context| listener.poll_accept(context).map_ok(|(stream, _)| stream), handler, drain).await
}

async fn accept<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    mut poll_accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<S>>,
    handler: Handler,
    drain: drain::Watch,
) -> io::Result<()> {
    loop {
        let accepted = tokio::select! {
            accepted = std::future::poll_fn(&mut poll_accept) => accepted,
            () = drain.signaled() => return Ok(()),
        };
        let Ok(stream) = accepted else {
            // Out of descriptors or a connection that died in the queue: neither is a reason to stop listening.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        tokio::spawn(connection(stream, Arc::clone(&handler), drain.clone()));
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    handler: Handler,
    drain: drain::Watch,
) {
    {
        {
            let service = hyper::service::service_fn(move |request| {
                let reply = handler(request);
                async move { Ok::<_, std::convert::Infallible>(reply.await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(std::time::Duration::from_secs(10))
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
                tracing::debug!(%error, "admin connection");
            }
        }
    }
}
