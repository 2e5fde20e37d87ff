//! The health of an application that no kubelet probes: on machines outside of Kubernetes the agent makes the probe of
//! the WorkloadGroup (`readinessProbe` of ProxyConfig) and reports what comes of it to the control plane.

use std::net::IpAddr;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use lateen_base::drain;
use lateen_xds::relay::Report;
use serde_json::Value;
use tokio::process::Command;
use tokio::sync::watch;

use crate::probes::{Probes, port};

/// The type by which health is reported.
pub const HEALTH_INFORMATION: &str = "type.googleapis.com/istio.v1.HealthInformation";

/// A probe, and when it is made.
#[derive(Debug, Clone)]
pub struct Prober {
    probe: Value,
    address: IpAddr,
    initial_delay: Duration,
    timeout: Duration,
    period: Duration,
    success_threshold: u64,
    failure_threshold: u64,
}

/// How the last probes went.
#[derive(Debug, Default)]
struct Streak {
    good: u64,
    bad: u64,
    healthy: Option<bool>,
}

impl Prober {
    /// Reads `istio.networking.v1.ReadinessProbe` in its JSON form. Defaults are Kubernetes'. `address` is asked where
    /// the probe names no host.
    pub fn new(probe: Value, address: IpAddr) -> Self {
        let number =
            |field: &str, default: u64| probe[field].as_u64().filter(|number| *number > 0).unwrap_or(default);
        Self {
            address,
            initial_delay: Duration::from_secs(number("initialDelaySeconds", 0)),
            timeout: Duration::from_secs(number("timeoutSeconds", 1)),
            period: Duration::from_secs(number("periodSeconds", 10)),
            success_threshold: number("successThreshold", 1),
            failure_threshold: number("failureThreshold", 3),
            probe,
        }
    }

    /// Probes until the drain begins, and reports every change.
    pub async fn run(self, reports: watch::Sender<Option<Report>>, drain: drain::Watch) {
        let probing = async {
            tokio::time::sleep(self.initial_delay).await;
            let mut streak = Streak::default();
            loop {
                let result = self.probe().await;
                if let Some(report) = self.note(&mut streak, result) {
                    match &report.error {
                        None => tracing::info!("the application is healthy"),
                        Some(error) => tracing::warn!("the application is not healthy: {error}"),
                    }
                    reports.send_replace(Some(report));
                }
                tokio::time::sleep(self.period).await;
            }
        };
        tokio::select! {
            () = probing => {}
            () = drain.signaled() => {}
        }
    }

    /// Counts a result; says what is to be reported if that makes a difference.
    fn note(&self, streak: &mut Streak, result: Result<(), String>) -> Option<Report> {
        let report = |error| Some(Report { type_url: HEALTH_INFORMATION, error });
        match result {
            Ok(()) => {
                (streak.good, streak.bad) = (streak.good + 1, 0);
                let news = streak.good >= self.success_threshold && streak.healthy != Some(true);
                news.then(|| streak.healthy = Some(true)).and_then(|()| report(None))
            }
            Err(error) => {
                (streak.good, streak.bad) = (0, streak.bad + 1);
                let news = streak.bad >= self.failure_threshold && streak.healthy != Some(false);
                news.then(|| streak.healthy = Some(false)).and_then(|()| report(Some(error)))
            }
        }
    }

    async fn probe(&self) -> Result<(), String> {
        tokio::time::timeout(self.timeout, self.attempt())
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {:?}", self.timeout)))
    }

    async fn attempt(&self) -> Result<(), String> {
        let action = |kind: &str| Some(&self.probe[kind]).filter(|action| action.is_object());
        if let Some(action) = action("httpGet") {
            let status = self.probes(action).await?.get(action).await?;
            // As kubelet counts: redirects are fine.
            return match status.as_u16() {
                200..400 => Ok(()),
                _ => Err(format!("the application answered {status}")),
            };
        }
        if let Some(action) = action("tcpSocket") {
            return self.probes(action).await?.connect(port(&action["port"])?).await.map(drop);
        }
        if let Some(action) = action("exec") {
            return exec(&action["command"]).await;
        }
        if let Some(action) = action("grpc") {
            return self.grpc(action).await;
        }
        Err("the probe says neither httpGet nor tcpSocket, exec or grpc".to_owned())
    }

    /// Probes of the host that the action names.
    async fn probes(&self, action: &Value) -> Result<Probes, String> {
        let host = action["host"].as_str().unwrap_or_default();
        if host.is_empty() {
            return Ok(Probes::new(None, self.address));
        }
        let found = tokio::net::lookup_host((host, 0)).await.map_err(|error| format!("{host}: {error}"))?;
        let address = found.map(|address| address.ip()).next();
        address.map(|address| Probes::new(None, address)).ok_or_else(|| format!("{host} has no address"))
    }

    /// `grpc.health.v1.Health/Check` (<https://github.com/grpc/grpc/blob/master/doc/health-checking.md>).
    async fn grpc(&self, action: &Value) -> Result<(), String> {
        let authority = std::net::SocketAddr::new(self.address, port(&action["port"])?);
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{authority}"))
            .map_err(|error| error.to_string())?
            .connect()
            .await
            .map_err(|error| format!("{authority}: {error}"))?;
        let mut grpc = tonic::client::Grpc::new(channel);
        grpc.ready().await.map_err(|error| error.to_string())?;
        let service = action["service"].as_str().unwrap_or_default();
        let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
        let request = tonic::Request::new(health_request(service));
        let answer = grpc.unary(request, path, lateen_xds::RawCodec).await;
        let answer = answer.map_err(|status| format!("gRPC: {}", status.message()))?.into_inner();
        match serving_status(&answer) {
            1 => Ok(()),
            other => Err(format!("the application's gRPC status is {other}, not SERVING")),
        }
    }
}

async fn exec(command: &Value) -> Result<(), String> {
    let words: Vec<&str> = command.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let [program, arguments @ ..] = words.as_slice() else { return Err("exec names no command".to_owned()) };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // A probe that takes too long is ended with its future.
    let status = command.kill_on_drop(true).status().await.map_err(|error| format!("{program}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{program}: {status}")) }
}

/// `HealthCheckRequest{service = 1}`.
fn health_request(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        // Longer names than a byte can count do not occur in services.
        message.push(u8::try_from(service.len().min(127)).unwrap_or(127));
        message.extend_from_slice(&service.as_bytes()[..service.len().min(127)]);
    }
    message.into()
}

/// `HealthCheckResponse{status = 1}`: 1 is SERVING.
fn serving_status(message: &[u8]) -> u8 {
    match message {
        [0x08, status, ..] => *status,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn prober(probe: Value) -> Prober {
        Prober::new(probe, "127.0.0.1".parse().unwrap())
    }

    /// Answers every request with this status.
    async fn server(status: &'static str) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = vec![0; 1024];
                let _ = stream.read(&mut head).await;
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        port
    }

    #[tokio::test]
    async fn what_is_healthy() {
        let (good, moved, bad) = (server("200 OK").await, server("302 Found").await, server("500 No").await);
        for (name, probe, expected) in [
            ("200", json!({"httpGet": {"port": good, "path": "/x"}}), Ok(())),
            ("302", json!({"httpGet": {"port": moved}}), Ok(())),
            ("a host's name", json!({"httpGet": {"port": good, "host": "localhost"}}), Ok(())),
            ("500", json!({"httpGet": {"port": bad}}), Err("answered 500")),
            ("connection", json!({"tcpSocket": {"port": good}}), Ok(())),
            ("no connection", json!({"tcpSocket": {"port": 1}}), Err("port 1")),
            ("command", json!({"exec": {"command": ["true"]}}), Ok(())),
            ("failing command", json!({"exec": {"command": ["false"]}}), Err("exit status: 1")),
            ("no such command", json!({"exec": {"command": ["/nowhere"]}}), Err("/nowhere")),
            (
                "slow",
                json!({"exec": {"command": ["sleep", "60"]}, "timeoutSeconds": 1}),
                Err("no answer within"),
            ),
            ("nothing", json!({}), Err("neither httpGet")),
        ] {
            let result = prober(probe).probe().await;
            match expected {
                Ok(()) => assert_eq!(result, Ok(()), "{name}"),
                Err(reason) => {
                    let error = result.expect_err(name);
                    assert!(error.contains(reason), "{name}: {error}");
                }
            }
        }
    }

    #[test]
    fn thresholds() {
        let prober = prober(json!({"successThreshold": 2, "failureThreshold": 3}));
        let mut streak = Streak::default();
        let mut words = String::new();
        for good in "ggbbgbbbbgg".chars().map(|letter| letter == 'g') {
            let result = if good { Ok(()) } else { Err("x".to_owned()) };
            words.push(match prober.note(&mut streak, result) {
                None => '.',
                Some(Report { error: None, .. }) => 'G',
                Some(_) => 'B',
            });
        }
        assert_eq!(words, ".G.....B..G");
    }

    #[test]
    fn messages_of_grpc_health() {
        assert_eq!(health_request(""), Bytes::new());
        assert_eq!(health_request("a.B"), Bytes::from_static(b"\x0a\x03a.B"));
        assert_eq!(
            (serving_status(b"\x08\x01"), serving_status(b"\x08\x02"), serving_status(b"")),
            (1, 2, 0)
        );
    }

    #[tokio::test]
    async fn changes_are_reported_and_probing_ends_with_the_drain() {
        let (reports, mut receiver) = watch::channel(None);
        let (trigger, drain) = drain::channel();
        let port = server("200 OK").await;
        let probing = tokio::spawn(prober(json!({"tcpSocket": {"port": port}})).run(reports, drain));
        let limit = Duration::from_secs(20);
        tokio::time::timeout(limit, receiver.wait_for(Option::is_some)).await.unwrap().unwrap();
        assert_eq!(*receiver.borrow(), Some(Report { type_url: HEALTH_INFORMATION, error: None }));
        trigger.drain(Duration::ZERO).await;
        tokio::time::timeout(limit, probing).await.unwrap().unwrap();
    }
}
