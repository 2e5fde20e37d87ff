//! Servers that say who they are, and a client that asks.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A server that answers with its name.
pub struct Backend {
    pub address: SocketAddr,
    _serving: JoinSet<()>,
}

impl Backend {
    pub async fn start(name: &'static str) -> Self {
        Self::at(name, (Ipv4Addr::LOCALHOST, 0).into()).await.unwrap()
    }

    /// On 127.0.0.LAST.
    pub async fn start_on(name: &'static str, last: u8) -> Self {
        Self::at(name, (Ipv4Addr::new(127, 0, 0, last), 0).into()).await.unwrap()
    }

    /// Three with the same port on addresses of their own.
    pub async fn start_beside(
        first: &'static str,
        second: &'static str,
        third: &'static str,
    ) -> (Self, Self, Self) {
        let address = |last: u8| IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
        for _ in 0..100 {
            let one = Self::at(first, (address(2), 0).into()).await.unwrap();
            let port = one.address.port();
            let others = (
                Self::at(second, (address(3), port).into()).await,
                Self::at(third, (address(4), port).into()).await,
            );
            if let (Ok(two), Ok(three)) = others {
                return (one, two, three);
            }
        }
        panic!("no port is free on three addresses");
    }

    async fn at(name: &'static str, address: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, move |_| async move { Some((String::new(), name.to_owned())) }));
            }
        });
        Ok(Self { address, _serving: serving })
    }
}

/// Reads one request and answers with headers and a body; none closes the connection.
pub async fn answer<F: Future<Output = Option<(String, String)>>>(
    mut stream: TcpStream,
    answer: impl FnOnce(String) -> F,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let Some((headers, body)) = answer(String::from_utf8_lossy(&head).into_owned()).await else { return };
    let length = body.len();
    let text =
        format!("HTTP/1.1 200 OK\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}");
    let _ = stream.write_all(text.as_bytes()).await;
}

/// The body of an answer, or its first line where it is no good one.
pub async fn get(server: SocketAddr, host: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(server).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
    let first = head.lines().next().unwrap_or_default();
    Ok(if first.contains(" 200 ") { body.to_owned() } else { first.to_owned() })
}
