//! What a peer does not take holds back who sends it: the proxy keeps no more than its buffers.

#![allow(clippy::unwrap_used)]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use lateen_testkit::eventually;
use serde_json::{Value, json};
use support::{Running, cluster, listener};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// More than the kernel's and the proxy's buffers together, by far.
const MUCH: usize = 160 << 20;

/// What all buffers on the way may hold: those of the kernel on two connections are most of it.
const BUFFERS: u64 = 48 << 20;

fn limited(routes: Value) -> Value {
    let mut listener = listener(routes);
    listener["per_connection_buffer_limit_bytes"] = 32_768.into();
    listener
}

/// Waits until a number stands still, and returns it.
async fn still(count: &AtomicU64) -> u64 {
    let mut last = (count.load(Relaxed), 0);
    for _ in 0..2000 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let now = count.load(Relaxed);
        last = if now == last.0 && now > 0 { (now, last.1 + 1) } else { (now, 0) };
        if last.1 >= 30 {
            return now;
        }
    }
    panic!("it does not stand still: {}", last.0);
}

/// Writes zeros as long as somebody takes them, and counts them.
async fn write_much(stream: &mut (impl tokio::io::AsyncWrite + Unpin), written: &AtomicU64) {
    let chunk = vec![0; 64 * 1024];
    for _ in 0..MUCH / chunk.len() {
        if stream.write_all(&chunk).await.is_err() {
            return;
        }
        written.fetch_add(chunk.len() as u64, Relaxed);
    }
}

/// An upstream that answers with very much; and one that takes nothing until it is told to.
async fn serve(read: bool, go: Arc<tokio::sync::Notify>) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&count);
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = vec![0; 64 * 1024];
        if read {
            // The head; then nothing, until it is time.
            while !buffer.windows(4).any(|part| part == b"\r\n\r\n") {
                let _ = stream.read(&mut buffer).await.unwrap();
            }
            go.notified().await;
            while let Ok(taken @ 1..) = stream.read(&mut buffer).await {
                counter.fetch_add(taken as u64, Relaxed);
            }
        } else {
            let _ = stream.read(&mut buffer).await.unwrap();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {MUCH}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            write_much(&mut stream, &counter).await;
        }
    });
    (address, count)
}

fn start(upstream: SocketAddr) -> Running {
    let routes = json!([{"match": {"prefix": "/"}, "route": {"cluster": "c", "timeout": "0s"}}]);
    Running::start(limited(routes), json!([cluster("c", &[upstream])]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read() {
    let (upstream, written) = serve(false, Arc::default()).await;
    let proxy = start(upstream);
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let held = still(&written).await;
    assert!(held < BUFFERS, "{held}");
    // Everything comes once it reads.
    let mut buffer = vec![0; 256 * 1024];
    let mut read = 0;
    while read < MUCH {
        read += client.read(&mut buffer).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_http2_that_does_not_read() {
    let (upstream, written) = serve(false, Arc::default()).await;
    let proxy = start(upstream);
    let stream = TcpStream::connect(proxy.address).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    let request = http::Request::get("http://a/").body(()).unwrap();
    let (response, _) = sender.send_request(request, true).unwrap();
    let mut body = response.await.unwrap().into_body();
    let held = still(&written).await;
    assert!(held < BUFFERS, "{held}");
    let mut read = 0;
    while read < MUCH {
        let chunk = body.data().await.unwrap().unwrap();
        body.flow_control().release_capacity(chunk.len()).unwrap();
        read += chunk.len();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_does_not_read() {
    let go = Arc::new(tokio::sync::Notify::new());
    let (upstream, taken) = serve(true, Arc::clone(&go)).await;
    let proxy = start(upstream);
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {MUCH}\r\n\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    let written = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&written);
    tokio::spawn(async move { write_much(&mut client, &counter).await });
    let held = still(&written).await;
    assert!(held < BUFFERS, "{held}");
    go.notify_one();
    eventually("the upstream takes it", async || taken.load(Relaxed) > BUFFERS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_does_not_read_from_http2() {
    let go = Arc::new(tokio::sync::Notify::new());
    let (upstream, taken) = serve(true, Arc::clone(&go)).await;
    let proxy = start(upstream);
    let stream = TcpStream::connect(proxy.address).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    let request = http::Request::post("http://a/").body(()).unwrap();
    let (_response, mut body) = sender.send_request(request, false).unwrap();
    let written = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&written);
    tokio::spawn(async move {
        let chunk = Bytes::from(vec![0; 16 * 1024]);
        for _ in 0..MUCH / chunk.len() {
            body.reserve_capacity(chunk.len());
            while body.capacity() < chunk.len() {
                match std::future::poll_fn(|context| body.poll_capacity(context)).await {
                    Some(Ok(_)) => {}
                    _ => return,
                }
            }
            body.send_data(chunk.clone(), false).unwrap();
            counter.fetch_add(chunk.len() as u64, Relaxed);
        }
    });
    let held = still(&written).await;
    assert!(held < BUFFERS, "{held}");
    go.notify_one();
    eventually("the upstream takes it", async || taken.load(Relaxed) > BUFFERS).await;
}
