//! HTTP/1 framing: every message that another server could understand otherwise is refused, never forwarded.

#![allow(clippy::unwrap_used)]

mod support;

#[path = "framing/requests.rs"]
mod requests;
#[path = "framing/responses.rs"]
mod responses;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::json;
use support::{Running, cluster, listener};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What came.
#[derive(Default)]
struct Recorded {
    /// On each connection, byte for byte.
    connections: Vec<Vec<u8>>,
    /// Complete requests, in order.
    requests: Vec<Vec<u8>>,
}

impl Recorded {
    fn bytes(&self) -> usize {
        self.connections.iter().map(Vec::len).sum()
    }
}

type Seen = Arc<Mutex<Recorded>>;

/// An upstream that records what comes and answers as `respond` says: bytes, and whether it closes after them.
async fn recording<F>(respond: F) -> (SocketAddr, Seen)
where
    F: Fn(&[u8]) -> Option<(Vec<u8>, bool)> + Send + Sync + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Seen::default();
    let (all, respond) = (Arc::clone(&seen), Arc::new(respond));
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (all, respond) = (Arc::clone(&all), Arc::clone(&respond));
            tokio::spawn(async move {
                let at = {
                    let mut all = all.lock();
                    all.connections.push(Vec::new());
                    all.connections.len() - 1
                };
                let mut buffer = vec![0; 64 * 1024];
                let mut answered = 0;
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    let answer = {
                        let mut all = all.lock();
                        all.connections[at].extend_from_slice(&buffer[..count]);
                        let request = all.connections[at][answered..].to_vec();
                        let answer = respond(&request);
                        if answer.is_some() {
                            answered = all.connections[at].len();
                            all.requests.push(request);
                        }
                        answer
                    };
                    let Some((bytes, close)) = answer else { continue };
                    if stream.write_all(&bytes).await.is_err() || close {
                        return;
                    }
                }
            });
        }
    });
    (address, seen)
}

/// Whether a request with its body is complete, as a simple server sees it.
fn complete_body(bytes: &[u8]) -> Option<Vec<u8>> {
    let head_end = bytes.windows(4).position(|part| part == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..head_end]).to_ascii_lowercase();
    let body = &bytes[head_end..];
    if head.contains("transfer-encoding: chunked") {
        let (mut rest, mut out) = (body, Vec::new());
        loop {
            let line = rest.windows(2).position(|part| part == b"\r\n")?;
            let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).ok()?, 16).ok()?;
            if size == 0 {
                return rest.ends_with(b"\r\n\r\n").then_some(out);
            }
            out.extend_from_slice(rest.get(line + 2..line + 2 + size)?);
            rest = rest.get(line + 4 + size..)?;
        }
    }
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |length| length.parse().unwrap());
    body.get(..length).map(<[u8]>::to_vec)
}

/// Sends bytes, and reads until the end of the connection or until nothing more comes for a moment after `enough`.
async fn exchange(address: SocketAddr, bytes: &[u8], enough: impl Fn(&[u8]) -> bool) -> (Vec<u8>, bool) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(bytes).await;
    let mut out = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let wait = if enough(&out) { Duration::from_millis(20) } else { Duration::from_secs(10) };
        match tokio::time::timeout(wait, stream.read(&mut buffer)).await {
            Ok(Ok(count @ 1..)) => out.extend_from_slice(&buffer[..count]),
            Ok(_) => return (out, true),
            Err(_) => return (out, false),
        }
    }
}

fn status(answer: &[u8]) -> u16 {
    String::from_utf8_lossy(answer).split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

fn is_answered(answer: &[u8]) -> bool {
    answer.ends_with(b"ok")
}

#[tokio::test]
async fn requests() {
    use requests::Expect::{Cut, Forwarded, Refused};
    let (upstream, seen) = recording(|bytes| {
        complete_body(bytes).map(|_| (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec(), false))
    })
    .await;
    let routes = json!([{"match": {"prefix": "/"}, "route": {"cluster": "c"}}]);
    let proxy = Running::start(listener(routes), json!([cluster("c", &[upstream])]));
    assert!(requests::ROWS.len() >= 100, "{}", requests::ROWS.len());
    // What was cut off may reach the upstream after its client has heard of the end; so those rows come last.
    let mut rows: Vec<_> = requests::ROWS.iter().collect();
    rows.sort_by_key(|(_, _, expect)| match expect {
        Refused(_) => 0,
        Forwarded(_) => 1,
        Cut => 2,
    });
    let mut failures = Vec::new();
    for (name, text, expect) in rows {
        let (before, requests) = {
            let seen = seen.lock();
            (seen.bytes(), seen.requests.len())
        };
        let (answer, closed) = exchange(proxy.address, text.as_bytes(), is_answered).await;
        let text = String::from_utf8_lossy(&answer).into_owned();
        let sent = || seen.lock().bytes() > before;
        let wrong = match expect {
            Refused(expect) if status(&answer) != *expect => Some(format!("answered {text:?}")),
            Refused(_) if !closed => Some("the connection stays".to_owned()),
            Refused(_) if text.matches("HTTP/1.").count() != 1 => Some(format!("two answers {text:?}")),
            Refused(_) if sent() => Some("something went upstream".to_owned()),
            Cut if !closed || status(&answer) != 400 => Some(format!("answered {text:?}")),
            Cut => {
                (seen.lock().requests.len() > requests).then(|| "a complete message went upstream".to_owned())
            }
            Forwarded(body) => {
                let seen = seen.lock();
                let found = seen.requests.get(requests).and_then(|request| complete_body(request));
                (status(&answer) != 200 || found.as_deref() != Some(body.as_bytes()))
                    .then(|| format!("answered {text:?}, upstream saw {found:?}"))
            }
            Refused(_) => None,
        };
        if let Some(wrong) = wrong {
            failures.push(format!("{name}: {wrong}"));
        }
    }
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), requests::ROWS.len(), failures.join("\n"));
}

#[tokio::test]
async fn responses() {
    use responses::Expect::{Cut, Passed, Refused};
    let (upstream, seen) = recording(|bytes| {
        let text = String::from_utf8_lossy(bytes);
        let row: usize = text.strip_prefix("GET /")?.split(' ').next()?.parse().ok()?;
        complete_body(bytes)?;
        let (_, answer, close, _) = responses::ROWS.get(row)?;
        Some((answer.as_bytes().to_vec(), *close))
    })
    .await;
    let routes = json!([{"match": {"prefix": "/"}, "route": {"cluster": "c"}}]);
    let proxy = Running::start(listener(routes), json!([cluster("c", &[upstream])]));
    let mut failures = Vec::new();
    for (row, (name, _, _, expect)) in responses::ROWS.iter().enumerate() {
        let request = format!("GET /{row} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let (answer, _) = exchange(proxy.address, request.as_bytes(), |_| false).await;
        let text = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let chunked = head.contains("transfer-encoding: chunked");
        let right = match expect {
            Refused(expect) => status(&answer) == *expect,
            Cut if chunked => status(&answer) == 200 && !body.ends_with("0\r\n\r\n"),
            Cut => status(&answer) == 200 && body.len() < 5,
            Passed(expect, whole) if chunked => {
                let chunk = format!("{:x}\r\n{whole}\r\n0\r\n\r\n", whole.len());
                status(&answer) == *expect && body == chunk
            }
            Passed(expect, whole) => status(&answer) == *expect && body == *whole,
        };
        if !right || text.contains("smuggled") {
            failures.push(format!("{name}: expected {expect:?}, got {text:?}"));
        }
        // Whatever was left over on a connection must not answer the next request.
        let after = responses::ROWS.iter().position(|row| row.0 == "control: length").unwrap();
        let request = format!("GET /{after} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let (answer, _) = exchange(proxy.address, request.as_bytes(), |_| false).await;
        if !answer.ends_with(b"\r\n\r\nabc") {
            failures.push(format!("{name}: the next answer was {:?}", String::from_utf8_lossy(&answer)));
        }
    }
    for (row, (name, _, _, expect)) in responses::ROWS.iter().enumerate() {
        let marker = format!("GET /{row} ");
        let used_again = seen.lock().connections.iter().any(|bytes| {
            let text = String::from_utf8_lossy(bytes).into_owned();
            text.find(&marker).is_some_and(|at| text[at + 1..].contains("GET /"))
        });
        if used_again && !matches!(expect, Passed(..)) {
            failures.push(format!("{name}: the connection was used again"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
