//! Answers over HTTP/1.

use tokio::io::AsyncWriteExt;

use super::{Shared, pause};
use crate::case::{ResetAt, Response};
use crate::http1::{Body, Connection, End, Framing, Head, write_chunked, write_head};

pub(super) async fn serve(mut connection: Connection, shared: &Shared, number: usize) {
    loop {
        let head = match connection.head().await {
            Ok(head) => head,
            Err(end) => {
                let rest = connection.take_buffer();
                shared.on_connection(number, |connection| {
                    connection.bytes = rest;
                    connection.end = end.to_string();
                });
                return;
            }
        };
        let index = shared.arrived(number, head.clone());
        let mut words = head.line.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (response, name) = shared.response(target);
        let exchange = Exchange { shared, index, head: &head, method, response, name };
        if !exchange.answer(&mut connection).await {
            let _ = connection.stream().shutdown().await;
            return;
        }
    }
}

struct Exchange<'a> {
    shared: &'a Shared,
    index: usize,
    head: &'a Head,
    method: &'a str,
    response: Response,
    name: String,
}

impl Exchange<'_> {
    /// Answers; says whether the connection goes on.
    async fn answer(&self, connection: &mut Connection) -> bool {
        let framing = Framing::of_request(self.head);
        if self.response.tunnel {
            return self.tunnel(connection).await;
        }
        let mut body = None;
        if !self.response.early {
            if self.head.field("expect").is_some() {
                let _ = connection.stream().write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await;
                let _ = connection.stream().flush().await;
            }
            let read = connection.body(framing).await;
            self.shared.finished(self.index, read.clone());
            if read.end != End::Complete {
                return false;
            }
            body = Some(read);
        }
        // A proxy that gives up ends the connection while this waits.
        let going_on = tokio::select! {
            going_on = self.respond(connection, body.as_ref()) => going_on,
        };
        if body.is_none() {
            let read = connection.body(framing).await;
            let complete = read.end == End::Complete;
            self.shared.finished(self.index, read);
            return going_on && complete;
        }
        going_on
    }

    async fn respond(&self, connection: &mut Connection, request: Option<&Body>) -> bool {
        let response = &self.response;
        if let Some(end) = wait(connection, response.delay_ms).await {
            self.shared.record(self.index, |record| record.end = format!("{} while waiting", end));
            return false;
        }
        let stream = connection.stream();
        if response.reset == Some(ResetAt::Head) {
            return false;
        }
        for interim in &response.interim {
            let line = format!("HTTP/1.1 {} {}", interim.status, reason(interim.status));
            let _ = stream.write_all(&write_head(&line, &interim.headers.0)).await;
            let _ = stream.flush().await;
        }
        if let Some(raw) = &response.raw {
            let sent = stream.write_all(raw.as_bytes()).await.is_ok();
            let _ = stream.flush().await;
            return sent && !response.close && !response.until_close;
        }
        let body = match (&response.body, request) {
            (_, Some(request)) if response.echo => request.bytes.clone(),
            (Some(body), _) => body.bytes(),
            (None, _) => self.name.clone().into_bytes(),
        };
        let (head, body) = self.message(&body);
        if stream.write_all(&head).await.is_err() {
            return false;
        }
        let _ = stream.flush().await;
        pause(response.body_delay_ms).await;
        if response.reset == Some(ResetAt::Body) {
            let _ = stream.write_all(&body[..body.len() / 2]).await;
            let _ = stream.flush().await;
            return false;
        }
        let sent = stream.write_all(&body).await.is_ok() && stream.flush().await.is_ok();
        sent && !response.close && !response.until_close
    }

    /// Head and framed body.
    fn message(&self, body: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let response = &self.response;
        let status = response.status.unwrap_or(200);
        let mut fields = response.headers.0.clone();
        let bodiless = status == 204 || status == 304;
        let chunked = response.chunked || !response.trailers.0.is_empty();
        let own = fields.iter().any(|(name, _)| {
            name.eq_ignore_ascii_case("content-length") || name.eq_ignore_ascii_case("transfer-encoding")
        });
        if chunked {
            fields.push(("transfer-encoding".to_owned(), "chunked".to_owned()));
        } else if !own && !response.until_close && !bodiless {
            fields.push(("content-length".to_owned(), body.len().to_string()));
        }
        if response.close {
            fields.push(("connection".to_owned(), "close".to_owned()));
        }
        let head = write_head(&format!("HTTP/1.1 {status} {}", reason(status)), &fields);
        let body = match () {
            () if self.method == "HEAD" || bodiless => Vec::new(),
            () if chunked => write_chunked(body, &response.trailers.0),
            () => body.to_vec(),
        };
        (head, body)
    }

    async fn tunnel(&self, connection: &mut Connection) -> bool {
        let line =
            if self.method == "CONNECT" { "HTTP/1.1 200 OK" } else { "HTTP/1.1 101 Switching Protocols" };
        let mut fields = self.response.headers.0.clone();
        if self.method != "CONNECT" {
            fields.push(("connection".to_owned(), "upgrade".to_owned()));
            let protocol = self.head.field("upgrade").unwrap_or("websocket").to_owned();
            fields.push(("upgrade".to_owned(), protocol));
        }
        let _ = connection.stream().write_all(&write_head(line, &fields)).await;
        let _ = connection.stream().flush().await;
        let end = loop {
            let bytes = connection.take_buffer();
            let _ = connection.stream().write_all(&bytes).await;
            let _ = connection.stream().flush().await;
            self.shared.record(self.index, |record| record.body.extend_from_slice(&bytes));
            match connection.fill().await {
                End::Complete => {}
                end => break end,
            }
        };
        self.shared.record(self.index, |record| record.end = format!("tunnel {end}"));
        false
    }
}

/// Waits; says how the connection ended if it did meanwhile.
async fn wait(connection: &mut Connection, milliseconds: u64) -> Option<End> {
    if milliseconds == 0 {
        return None;
    }
    let ended = async {
        loop {
            match connection.fill().await {
                End::Complete => {}
                end => return end,
            }
        }
    };
    tokio::select! {
        () = pause(milliseconds) => None,
        end = ended => Some(end),
    }
}

fn reason(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Other")
}
