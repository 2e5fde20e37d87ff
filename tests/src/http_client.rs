//! A keep-alive HTTP/1.1 client for requests to the gateway.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// No answer of the demo may take longer, faults included.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Requests to one address.
#[derive(Debug, Clone)]
pub struct HttpClient {
    client: Client<HttpConnector, Empty<Bytes>>,
    address: SocketAddr,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Head and body.
    pub response: Response<Bytes>,
    /// From sending the request to the last byte.
    pub duration: Duration,
}

impl Answer {
    /// The status code as a number.
    pub fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// The body as JSON.
    pub fn json(&self) -> anyhow::Result<serde_json::Value> {
        serde_json::from_slice(self.response.body())
            .with_context(|| format!("not JSON: {}", String::from_utf8_lossy(self.response.body())))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.response.body()).into_owned()
    }
}

impl HttpClient {
    /// A client for `address`.
    pub fn new(address: SocketAddr) -> Self {
        Self { client: Client::builder(TokioExecutor::new()).build_http(), address }
    }

    /// `GET path`, as `user` where one is given (header `end-user`).
    pub async fn get(&self, path: &str, user: Option<&str>) -> anyhow::Result<Answer> {
        let mut request = Request::get(format!("http://{}{path}", self.address));
        if let Some(user) = user {
            request = request.header("end-user", user);
        }
        let begun = Instant::now();
        let exchange = async {
            let response = self.client.request(request.body(Empty::new())?).await?;
            let (head, body) = response.into_parts();
            anyhow::Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
        };
        let response = tokio::time::timeout(TIMEOUT, exchange).await.context("no answer in time")??;
        Ok(Answer { response, duration: begun.elapsed() })
    }
}
