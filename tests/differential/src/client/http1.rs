//! Requests over HTTP/1, and bytes as they are.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::Reply;
use crate::case::{Content, Read, Step};
use crate::config::Names;
use crate::http1::{Connection, End, Framing, write_chunked, write_head};

/// How long writing may take before reading begins: a proxy may answer without having read everything.
const WRITING: Duration = Duration::from_secs(2);

/// Sends a request and reads its response.
pub(super) async fn exchange(connection: &mut Connection, step: &Step, names: &Names) -> Reply {
    let Some((method, target)) = step.request_line() else { return Reply::default() };
    let mut fields: Vec<(String, String)> =
        step.headers.0.iter().map(|(name, value)| (name.clone(), names.substitute(value))).collect();
    if !fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        let host = names.substitute(step.host.as_deref().unwrap_or("test"));
        fields.insert(0, ("host".to_owned(), host));
    }
    let body = step.body.as_ref().map(Content::bytes);
    let chunked = step.chunked || !step.trailers.0.is_empty();
    let framed = match body {
        _ if chunked => {
            fields.push(("transfer-encoding".to_owned(), "chunked".to_owned()));
            write_chunked(&body.unwrap_or_default(), &step.trailers.0)
        }
        Some(body) => {
            if !fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
                fields.push(("content-length".to_owned(), body.len().to_string()));
            }
            body
        }
        None => Vec::new(),
    };
    let mut message = write_head(&format!("{method} {} HTTP/1.1", names.substitute(&target)), &fields);
    message.extend_from_slice(&framed);
    write(connection, &message).await;
    response(connection, &method).await
}

async fn write(connection: &mut Connection, bytes: &[u8]) {
    // What cannot be written shows in what is read.
    let _ = timeout(WRITING, async {
        connection.stream().write_all(bytes).await?;
        connection.stream().flush().await
    })
    .await;
}

async fn response(connection: &mut Connection, method: &str) -> Reply {
    let mut reply = Reply::default();
    loop {
        let head = match connection.head().await {
            Ok(head) => head,
            Err(end) => {
                reply.body = connection.take_buffer();
                reply.end = end.to_string();
                return reply;
            }
        };
        let status = head.status().unwrap_or(0);
        if (100..200).contains(&status) && status != 101 {
            reply.interim.push(describe(status, &head.fields));
            continue;
        }
        let body = connection.body(Framing::of_response(&head, method)).await;
        reply.status = status;
        reply.fields = head.fields;
        if !head.line.starts_with("HTTP/1.1 ") {
            let version = head.line.split(' ').next().unwrap_or_default().to_owned();
            reply.fields.push(("(version)".to_owned(), version));
        }
        reply.body = body.bytes;
        reply.trailers = body.trailers;
        reply.end = body.end.to_string();
        return reply;
    }
}

fn describe(status: u16, fields: &[(String, String)]) -> String {
    let fields: Vec<String> = fields.iter().map(|(name, value)| format!(" {name}={value}")).collect();
    format!("{status}{}", fields.concat())
}

/// Sends bytes and reads what the step says.
pub(super) async fn raw(connection: &mut Connection, step: &Step, names: &Names) -> Vec<Reply> {
    let bytes = match (&step.raw, &step.raw_hex) {
        (Some(text), _) => names.substitute(text).into_bytes(),
        (_, Some(hex)) => Content::Hex { hex: hex.clone() }.bytes(),
        _ => Vec::new(),
    };
    write(connection, &bytes).await;
    let method = String::from_utf8_lossy(&bytes).split(' ').next().unwrap_or_default().to_owned();
    match step.read.as_ref().unwrap_or(&Read::Responses(1)) {
        Read::Nothing => Vec::new(),
        Read::Responses(count) => {
            let mut replies = Vec::new();
            for _ in 0..*count {
                let reply = response(connection, &method).await;
                let over = reply.status == 0;
                replies.push(reply);
                if over {
                    break;
                }
            }
            replies
        }
        Read::Bytes(size) => {
            let mut end = End::Complete;
            let mut body = Vec::new();
            while body.len() < *size && end == End::Complete {
                body.append(&mut connection.take_buffer());
                if body.len() < *size {
                    end = connection.fill().await;
                }
            }
            vec![Reply { body, end: end.to_string(), ..Reply::default() }]
        }
        Read::Closed => {
            let mut end = End::Complete;
            let limit = tokio::time::Instant::now() + super::CLOSING;
            while end == End::Complete {
                match tokio::time::timeout_at(limit, connection.fill()).await {
                    Ok(next) => end = next,
                    Err(_) => break,
                }
            }
            let end = if end == End::Complete { "open".to_owned() } else { end.to_string() };
            vec![Reply { body: connection.take_buffer(), end, ..Reply::default() }]
        }
    }
}
