//! Asking the proxy's admin pages on 127.0.0.1.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// The admin pages of the proxy beside the agent.
#[derive(Debug, Clone, Copy)]
pub struct AdminClient {
    port: u16,
}

impl AdminClient {
    /// Pages on `port` of 127.0.0.1.
    pub fn new(port: u16) -> Self {
        Self { port }
    }

    /// Sends one request and returns status and body.
    pub async fn request(&self, method: Method, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, format!("127.0.0.1:{}", self.port))
            .body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        driver.abort();
        Ok((status, body))
    }

    /// Whether the proxy has its configuration and serves.
    pub async fn is_ready(&self) -> bool {
        matches!(self.request(Method::GET, "/ready").await, Ok((StatusCode::OK, _)))
    }

    /// The connections that clients have open, over all listeners but the admin's; `None` where the proxy is gone.
    pub async fn active_connections(&self) -> Option<u64> {
        let path = "/stats?filter=^listener\\..*\\.downstream_cx_active$";
        let (status, body) = self.request(Method::GET, path).await.ok()?;
        let text = std::str::from_utf8(&body).ok().filter(|_| status == StatusCode::OK)?;
        let of_listeners = text.lines().filter(|line| !line.starts_with("listener.admin."));
        Some(of_listeners.filter_map(|line| line.rsplit_once(": ")?.1.parse::<u64>().ok()).sum())
    }
}
