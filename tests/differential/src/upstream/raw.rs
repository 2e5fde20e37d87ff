//! Upstreams that do not speak HTTP, and what comes before any protocol.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Shared;
use crate::case::Upstream;
use crate::http1::{Connection, End};

/// Sends back what comes.
pub(super) async fn echo(mut connection: Connection, spec: &Upstream, shared: &Shared, number: usize) {
    if let Some(greeting) = &spec.greeting {
        let _ = connection.stream().write_all(greeting.as_bytes()).await;
    }
    let mut seen = 0;
    let end = loop {
        let bytes = connection.take_buffer();
        if !bytes.is_empty() {
            seen += bytes.len();
            let _ = connection.stream().write_all(&bytes).await;
            let _ = connection.stream().flush().await;
            shared.on_connection(number, |connection| connection.bytes.extend_from_slice(&bytes));
        }
        if spec.close_after.is_some_and(|limit| seen >= limit) {
            let _ = connection.stream().shutdown().await;
            break End::Complete;
        }
        match connection.fill().await {
            End::Complete => {}
            end => break end,
        }
    };
    shared.on_connection(number, |connection| connection.end = end.to_string());
    let _ = connection.stream().shutdown().await;
}

/// Reads and never answers.
pub(super) async fn silent(mut connection: Connection, shared: &Shared, number: usize) {
    let end = loop {
        let bytes = connection.take_buffer();
        shared.on_connection(number, |connection| connection.bytes.extend_from_slice(&bytes));
        match connection.fill().await {
            End::Complete => {}
            end => break end,
        }
    };
    shared.on_connection(number, |connection| connection.end = end.to_string());
}

/// Reads a PROXY protocol header of either version and tells it as text.
pub(super) async fn proxy_header(stream: &mut TcpStream) -> String {
    let mut head = [0; 16];
    if stream.read_exact(&mut head[..6]).await.is_err() {
        return "none".to_owned();
    }
    if &head[..6] == b"PROXY " {
        let mut line = head[..6].to_vec();
        while !line.ends_with(b"\r\n") && line.len() < 200 {
            match stream.read_u8().await {
                Ok(byte) => line.push(byte),
                Err(_) => break,
            }
        }
        return String::from_utf8_lossy(&line).trim_end().to_owned();
    }
    if stream.read_exact(&mut head[6..]).await.is_err() || &head[..12] != b"\r\n\r\n\0\r\nQUIT\n" {
        return "not a header".to_owned();
    }
    let mut rest = vec![0; usize::from(u16::from_be_bytes([head[14], head[15]]))];
    let _ = stream.read_exact(&mut rest).await;
    let (command, family) = (head[12], head[13]);
    match (family, rest.len()) {
        (0x11, 12..) => {
            let port = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
            let ip = |at: usize| format!("{}.{}.{}.{}", rest[at], rest[at + 1], rest[at + 2], rest[at + 3]);
            let more: String = rest[12..].iter().map(|byte| format!("{byte:02x}")).collect();
            format!("v2 {command:02x} {}:{} {}:{} {more}", ip(0), port(8), ip(4), port(10))
        }
        _ => format!("v2 {command:02x} family {family:02x}, {} bytes", rest.len()),
    }
}
