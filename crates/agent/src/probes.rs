//! Probes of the application, made on kubelet's behalf.
//!
//! A probe from outside would be intercepted like any other request. Injection therefore points probes at the agent
//! (`/app-health/CONTAINER/{readyz,livez,startupz}`) and leaves the original ones in `ISTIO_KUBE_APP_PROBERS`: an object
//! from that path to `{"httpGet" | "tcpSocket": ..., "timeoutSeconds": N}`.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, StatusCode};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// The application's own probes.
#[derive(Debug, Clone)]
pub struct Probes {
    probes: Value,
    address: IpAddr,
}

impl Probes {
    /// Probes by path, made against `address`.
    pub fn new(probes: Option<Value>, address: IpAddr) -> Self {
        Self { probes: probes.unwrap_or(Value::Null), address }
    }

    /// Makes the probe behind `path`: the application's status, or why there is none.
    pub async fn probe(&self, path: &str) -> Result<StatusCode, String> {
        let probe = self.probes.get(path).ok_or_else(|| format!("no probe is known by {path}"))?;
        let timeout = Duration::from_secs(probe["timeoutSeconds"].as_u64().unwrap_or(1).max(1));
        let made = async {
            match (&probe["httpGet"], &probe["tcpSocket"]) {
                (Value::Object(_), _) => self.get(&probe["httpGet"]).await,
                (_, Value::Object(_)) => {
                    let port = port(&probe["tcpSocket"]["port"])?;
                    self.connect(port).await.map(|_| StatusCode::OK)
                }
                _ => Err("only httpGet and tcpSocket probes can be made for the application".to_owned()),
            }
        };
        tokio::time::timeout(timeout, made).await.map_err(|_| format!("no answer within {timeout:?}"))?
    }

    /// Connects to the application.
    pub(crate) async fn connect(&self, port: u16) -> Result<TcpStream, String> {
        TcpStream::connect((self.address, port)).await.map_err(|error| format!("port {port}: {error}"))
    }

    /// Makes an `httpGet`.
    pub(crate) async fn get(&self, action: &Value) -> Result<StatusCode, String> {
        if action["scheme"].as_str().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")) {
            return Err("HTTPS probes cannot be made for the application; use a tcpSocket probe".to_owned());
        }
        let port = port(&action["port"])?;
        let stream = self.connect(port).await?;
        let text = |error: &dyn std::error::Error| format!("port {port}: {error}");
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| text(&error))?;
        let driver = tokio::spawn(connection);
        let request = request(action, self.address, port).map_err(|error| text(&error))?;
        let response = sender.send_request(request).await.map_err(|error| text(&error))?;
        driver.abort();
        Ok(response.status())
    }
}

pub(crate) fn port(value: &Value) -> Result<u16, String> {
    value
        .as_u64()
        .or_else(|| value.as_str()?.parse().ok())
        .and_then(|port| u16::try_from(port).ok())
        .ok_or_else(|| format!("{value} is no port number"))
}

fn request(action: &Value, address: IpAddr, port: u16) -> Result<Request<Empty<Bytes>>, http::Error> {
    let path = action["path"].as_str().filter(|path| !path.is_empty()).unwrap_or("/");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let mut request = Request::get(path).header(http::header::USER_AGENT, "kube-probe/lateen");
    let mut host = std::net::SocketAddr::new(address, port).to_string();
    for header in action["httpHeaders"].as_array().into_iter().flatten() {
        let (Some(name), Some(value)) = (header["name"].as_str(), header["value"].as_str()) else { continue };
        if name.eq_ignore_ascii_case("host") {
            host = value.to_owned();
        } else {
            request = request.header(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
        }
    }
    request.header(http::header::HOST, host).body(Empty::new())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn probes_are_made_as_the_pod_declared_them() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 1024];
            let length = stream.read(&mut head).await.unwrap();
            stream.write_all(b"HTTP/1.1 418 I'm a teapot\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            String::from_utf8_lossy(&head[..length]).into_owned()
        });
        let headers = json!([{"name": "Host", "value": "shop.example"}, {"name": "X-Probe", "value": "yes"}]);
        let probes = json!({
            "/app-health/shop/readyz": {"httpGet": {"path": "/ready", "port": port, "httpHeaders": headers}},
            "/app-health/shop/livez": {"tcpSocket": {"port": port}},
            "/app-health/shop/startupz": {"exec": {"command": ["true"]}},
        });
        let probes = Probes::new(Some(probes), "127.0.0.1".parse().unwrap());
        assert_eq!(probes.probe("/app-health/shop/readyz").await, Ok(StatusCode::IM_A_TEAPOT));
        let head = server.await.unwrap();
        assert!(head.starts_with("GET /ready HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("x-probe: yes") && head.contains("host: shop.example"), "{head}");
        // The listener is gone by now.
        assert!(probes.probe("/app-health/shop/livez").await.unwrap_err().contains("refused"));
        assert!(probes.probe("/app-health/shop/startupz").await.unwrap_err().contains("only httpGet"));
        assert!(probes.probe("/app-health/other/readyz").await.unwrap_err().contains("no probe"));
    }
}
