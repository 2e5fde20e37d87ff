//! Requests over HTTP/2.

use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures::future::poll_fn;
use h2::client::{ResponseFuture, SendRequest};
use http::{Request, Uri};
use tokio::task::JoinHandle;

use super::Reply;
use crate::case::{Content, Read, Step};
use crate::config::Names;
use crate::http1::Stream;
use crate::http2::{describe, fields, map, read, read_some, send, send_part};

/// A connection: requests go through `sender`, the task moves the bytes.
#[derive(Debug, Clone)]
pub(super) struct Link {
    sender: SendRequest<Bytes>,
    driver: Arc<Driver>,
}

#[derive(Debug)]
struct Driver {
    task: JoinHandle<()>,
    end: Arc<Mutex<Option<String>>>,
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    pub(super) async fn open(stream: impl Stream + 'static) -> Result<Self, String> {
        let handshake = h2::client::Builder::new().enable_push(false).handshake(stream);
        let (sender, connection) = handshake.await.map_err(|error| describe(&error))?;
        let end = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&end);
        let task = tokio::spawn(async move {
            let text = connection.await.map_or_else(|error| describe(&error), |()| "closed".to_owned());
            *slot.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(text);
        });
        Ok(Self { sender, driver: Arc::new(Driver { task, end }) })
    }

    pub(super) async fn exchange(&mut self, step: &Step, names: &Names) -> Reply {
        self.try_exchange(step, names)
            .await
            .unwrap_or_else(|error| Reply { end: describe(&error), ..Reply::default() })
    }

    async fn try_exchange(&mut self, step: &Step, names: &Names) -> Result<Reply, h2::Error> {
        let Some(request) = request(step, names) else {
            return Ok(Reply { end: "no such request in HTTP/2".to_owned(), ..Reply::default() });
        };
        let body = step.body.as_ref().map(Content::bytes).unwrap_or_default();
        let alone = body.is_empty() && step.trailers.0.is_empty() && !step.chunked;
        self.sender = self.sender.clone().ready().await?;
        let (mut response, mut stream) = self.sender.send_request(request, alone)?;
        let mut interim = Vec::new();
        let upload = async {
            if alone {
                return;
            }
            // What cannot be sent shows in the response.
            let _ = match step.read {
                Some(_) => send_part(&mut stream, &body, false).await,
                None => send(&mut stream, &body, &step.trailers.0).await,
            };
        };
        let ((), head) = tokio::join!(upload, head(&mut response, &mut interim));
        let head = match head {
            Ok(head) => head,
            Err(error) => return Ok(Reply { interim, end: describe(&error), ..Reply::default() }),
        };
        let (parts, incoming) = head.into_parts();
        let read = match step.read {
            Some(Read::Bytes(count)) => read_some(incoming, count).await,
            _ => read(incoming).await,
        };
        Ok(Reply {
            status: parts.status.as_u16(),
            fields: fields(&parts.headers),
            body: read.bytes,
            trailers: read.trailers,
            interim,
            end: read.end,
        })
    }

    /// How the proxy ends the connection.
    pub(super) async fn closing(&mut self, patience: Duration) -> String {
        let end = || self.driver.end.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let limit = tokio::time::Instant::now() + patience;
        while tokio::time::Instant::now() < limit {
            if let Some(end) = end() {
                return end;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        "open".to_owned()
    }
}

/// Waits for the response's head and notes interim ones.
async fn head(
    response: &mut ResponseFuture,
    interim: &mut Vec<String>,
) -> Result<http::Response<h2::RecvStream>, h2::Error> {
    poll_fn(|context| {
        while let Poll::Ready(Some(next)) = response.poll_informational(context) {
            match next {
                Ok(message) => {
                    let fields: Vec<String> = fields(message.headers())
                        .into_iter()
                        .map(|(name, value)| format!(" {name}={value}"))
                        .collect();
                    interim.push(format!("{}{}", message.status().as_u16(), fields.concat()));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        std::pin::Pin::new(&mut *response).poll(context)
    })
    .await
}

fn request(step: &Step, names: &Names) -> Option<Request<()>> {
    let (method, target) = step.request_line()?;
    let target = names.substitute(&target);
    let host = names.substitute(step.host.as_deref().unwrap_or("test"));
    let scheme = if step.tls.is_some() { "https" } else { "http" };
    let uri: Uri = if method == "CONNECT" {
        target.parse().ok()?
    } else {
        Uri::builder().scheme(scheme).authority(host).path_and_query(target).build().ok()?
    };
    let headers: Vec<(String, String)> =
        step.headers.0.iter().map(|(name, value)| (name.clone(), names.substitute(value))).collect();
    let method = if step.protocol.is_some() { "CONNECT".to_owned() } else { method.to_string() };
    let mut request = Request::builder().method(method.as_str()).uri(uri).body(()).ok()?;
    if let Some(protocol) = &step.protocol {
        request.extensions_mut().insert(h2::ext::Protocol::from(protocol.as_str()));
    }
    *request.headers_mut() = map(&headers);
    if let Some(body) = &step.body
        && !step.chunked
        && step.trailers.0.is_empty()
    {
        request.headers_mut().entry("content-length").or_insert(body.bytes().len().into());
    }
    Some(request)
}
