//! The end of HTTP/2 connections, frame by frame: clients are told in two steps (RFC 9113, 6.8).

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use serde_json::json;
use support::{Running, cluster, listener_with, upstream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u32;
    let mut out = length.to_be_bytes()[1..].to_vec();
    out.extend([kind, flags, 0, 0, 0, 0]);
    out.extend_from_slice(payload);
    out
}

/// The next frame: kind, flags, payload. None at the end of the connection.
async fn next(stream: &mut TcpStream) -> Option<(u8, u8, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    stream.read_exact(&mut payload).await.ok()?;
    Some((head[3], head[4], payload))
}

/// What a client sees of the end of a connection that becomes too old: streams named by GOAWAY frames, and whether it
/// was asked for an answer after the first.
async fn end(answers: bool) -> (Vec<u32>, bool) {
    let a = upstream("a").await;
    let table = json!({"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"],
        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "c"}}]}]});
    let manager = json!({"route_config": table, "drain_timeout": "0.4s",
        "common_http_protocol_options": {"max_connection_duration": "0.2s"}});
    let proxy = Running::start(listener_with(manager), json!([cluster("c", &[a.address])]));
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&frame(SETTINGS, 0, &[])).await.unwrap();
    let (mut streams, mut asked) = (Vec::new(), false);
    let frames = async {
        while let Some((kind, flags, payload)) = next(&mut stream).await {
            match kind {
                SETTINGS if flags & ACK == 0 => {
                    stream.write_all(&frame(SETTINGS, ACK, &[])).await.unwrap();
                }
                PING if flags & ACK == 0 => {
                    asked = streams.len() == 1;
                    if answers {
                        stream.write_all(&frame(PING, ACK, &payload)).await.unwrap();
                    }
                }
                GOAWAY => streams.push(u32::from_be_bytes(payload[..4].try_into().unwrap())),
                _ => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), frames).await.expect("the connection ends");
    (streams, asked)
}

#[tokio::test]
async fn a_client_that_answers_is_told_twice() {
    assert_eq!(end(true).await, (vec![0x7fff_ffff, 0], true));
}

#[tokio::test]
async fn a_client_that_does_not_answer_is_told_twice_all_the_same() {
    assert_eq!(end(false).await, (vec![0x7fff_ffff, 0], true));
}
