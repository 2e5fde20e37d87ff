//! Probes and life cycle hooks: requests to a Pod's address from the node's namespace, and commands in a container.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, LifecycleHandler, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use nix::sys::signal::Signal;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::logs;
use super::worker::Event;
use crate::sandbox::client::Sandbox;
use crate::sandbox::protocol::{Exit, Process, Root};

/// What a probe decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProbeKind {
    /// Whether the container has started; the others wait for it.
    Startup,
    /// Whether it must be restarted.
    Liveness,
    /// Whether it takes traffic.
    Readiness,
}

/// A running container, so far as probes and hooks need it.
#[derive(Debug, Clone)]
pub struct Target {
    /// The Pod's namespaces.
    pub sandbox: Arc<Sandbox>,
    /// The container's process.
    pub token: u64,
    /// How it was started: commands run with the same rights and environment.
    pub process: Process,
    /// The Pod's address.
    pub address: IpAddr,
    /// Named ports.
    pub ports: HashMap<String, u16>,
}

impl Target {
    /// The named ports of a container.
    pub fn ports_of(container: &Container) -> HashMap<String, u16> {
        let ports = container.ports.iter().flatten();
        ports
            .filter_map(|port| Some((port.name.clone()?, u16::try_from(port.container_port).ok()?)))
            .collect()
    }

    fn port(&self, port: &IntOrString) -> Result<u16, String> {
        match port {
            IntOrString::Int(number) => {
                u16::try_from(*number).map_err(|_| format!("port {number} is no port"))
            }
            IntOrString::String(name) => match self.ports.get(name) {
                Some(number) => Ok(*number),
                None => name.parse().map_err(|_| format!("the container has no port named {name}")),
            },
        }
    }

    /// Runs a command in the container; the error is its output.
    pub async fn exec(&self, command: &[String], limit: Duration) -> Result<(), String> {
        let (output, text) = logs::collect(4096).map_err(|error| error.to_string())?;
        let errors = output.try_clone().map_err(|error| error.to_string())?;
        let process = Process { command: command.to_vec(), ..self.process.clone() };
        let root = Root::Of { token: self.token };
        let started = self.sandbox.start(process, root, output, errors).await;
        let started = started.map_err(|error| error.to_string())?;
        match tokio::time::timeout(limit, started.exit).await {
            Ok(Ok(Exit::Code(0))) => Ok(()),
            Ok(Ok(exit)) => {
                let text = tokio::time::timeout(Duration::from_millis(200), text).await;
                let text = text.ok().and_then(Result::ok).unwrap_or_default();
                Err(format!("command ended with {}: {}", exit.code(), text.trim()))
            }
            Ok(Err(_)) => Err("the Pod has ended".to_owned()),
            Err(_) => {
                let _ = self.sandbox.signal(started.token, Signal::SIGKILL, false).await;
                Err(format!("command timed out after {limit:?}"))
            }
        }
    }

    async fn http(&self, get: &HTTPGetAction, limit: Duration) -> Result<(), String> {
        let port = self.port(&get.port)?;
        let host =
            get.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| self.address.to_string());
        if get.scheme.as_deref() == Some("HTTPS") {
            // The certificate is not looked at in any case; that the port answers is what can be told without TLS.
            return self.tcp(&host, port, limit).await;
        }
        let path = get.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let mut request =
            http::Request::get(&path).header("user-agent", "kube-probe/1.34").header("accept", "*/*");
        let mut has_host = false;
        for header in get.http_headers.iter().flatten() {
            has_host |= header.name.eq_ignore_ascii_case("host");
            request = request.header(&header.name, &header.value);
        }
        if !has_host {
            request = request.header("host", format!("{host}:{port}"));
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
        let exchange = async {
            let stream =
                TcpStream::connect((host.as_str(), port)).await.map_err(|error| error.to_string())?;
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
                .await
                .map_err(|error| error.to_string())?;
            let connection = tokio::spawn(connection);
            let answer = sender.send_request(request).await.map_err(|error| error.to_string());
            let result = match answer {
                Ok(answer) if answer.status().as_u16() < 400 => Ok(()),
                Ok(answer) => {
                    let status = answer.status();
                    let body =
                        answer.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                    let text = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
                    Err(format!("HTTP probe failed with statuscode: {} {text}", status.as_u16()))
                }
                Err(error) => Err(error),
            };
            connection.abort();
            result
        };
        match tokio::time::timeout(limit, exchange).await {
            Ok(result) => result.map_err(|error| format!("Get \"http://{host}:{port}{path}\": {error}")),
            Err(_) => Err(format!("Get \"http://{host}:{port}{path}\": no answer within {limit:?}")),
        }
    }

    async fn tcp(&self, host: &str, port: u16, limit: Duration) -> Result<(), String> {
        match tokio::time::timeout(limit, TcpStream::connect((host, port))).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(format!("dial tcp {host}:{port}: {error}")),
            Err(_) => Err(format!("dial tcp {host}:{port}: no answer within {limit:?}")),
        }
    }

    /// One attempt of a probe.
    pub async fn probe(&self, probe: &Probe) -> Result<(), String> {
        let limit = seconds(probe.timeout_seconds, 1);
        if let Some(get) = &probe.http_get {
            return self.http(get, limit).await;
        }
        if let Some(tcp) = &probe.tcp_socket {
            let host =
                tcp.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| self.address.to_string());
            return self.tcp(&host, self.port(&tcp.port)?, limit).await;
        }
        if let Some(exec) = &probe.exec {
            return self.exec(exec.command.as_deref().unwrap_or_default(), limit).await;
        }
        if let Some(grpc) = &probe.grpc {
            // The health service needs a gRPC client; that the port answers is what is checked.
            let port = u16::try_from(grpc.port).map_err(|_| format!("port {} is no port", grpc.port))?;
            return self.tcp(&self.address.to_string(), port, limit).await;
        }
        Ok(())
    }

    /// Runs a hook.
    pub async fn hook(&self, handler: &LifecycleHandler, limit: Duration) -> Result<(), String> {
        if let Some(exec) = &handler.exec {
            return self.exec(exec.command.as_deref().unwrap_or_default(), limit).await;
        }
        if let Some(get) = &handler.http_get {
            return self.http(get, limit).await;
        }
        if let Some(sleep) = &handler.sleep {
            tokio::time::sleep(Duration::from_secs(sleep.seconds.max(0) as u64).min(limit)).await;
            return Ok(());
        }
        if let Some(tcp) = &handler.tcp_socket {
            let host = tcp.host.clone().unwrap_or_else(|| self.address.to_string());
            return self.tcp(&host, self.port(&tcp.port)?, limit).await;
        }
        Ok(())
    }
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(value.filter(|value| *value > 0).map_or(default, |value| value as u64))
}

/// Counts successes and failures in a row against the thresholds (Kubernetes' documentation page on probes).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    success_threshold: u32,
    failure_threshold: u32,
    row: u32,
    last: Option<bool>,
    decided: Option<bool>,
}

impl Verdict {
    /// With the probe's thresholds.
    pub fn new(probe: &Probe) -> Self {
        let at_least_one = |value: Option<i32>, default| {
            value.filter(|value| *value > 0).map_or(default, |value| value as u32)
        };
        Self {
            success_threshold: at_least_one(probe.success_threshold, 1),
            failure_threshold: at_least_one(probe.failure_threshold, 3),
            row: 0,
            last: None,
            decided: None,
        }
    }

    /// Takes a result in; the answer is the verdict where it is new.
    pub fn observe(&mut self, success: bool) -> Option<bool> {
        self.row = if self.last == Some(success) { self.row.saturating_add(1) } else { 1 };
        self.last = Some(success);
        let threshold = if success { self.success_threshold } else { self.failure_threshold };
        if self.row < threshold || self.decided == Some(success) {
            return None;
        }
        self.decided = Some(success);
        Some(success)
    }
}

/// Probes until the task is aborted, and tells the worker each new verdict. Before the first success it tries more often
/// than the period says, without counting those failures, so that a container is known to be ready soon after it is.
pub async fn run_probe(
    kind: ProbeKind,
    probe: Probe,
    target: Target,
    slot: usize,
    events: mpsc::UnboundedSender<Event>,
) {
    let period = seconds(probe.period_seconds, 10);
    let delay = probe.initial_delay_seconds.unwrap_or(0).max(0) as u64;
    tokio::time::sleep(Duration::from_secs(delay)).await;
    let mut verdict = Verdict::new(&probe);
    let mut eager = Duration::from_millis(25);
    let mut counted = tokio::time::Instant::now();
    let mut succeeded = kind == ProbeKind::Liveness;
    loop {
        let result = target.probe(&probe).await;
        let success = result.is_ok();
        succeeded |= success;
        let due = tokio::time::Instant::now() >= counted;
        if success || due {
            counted = tokio::time::Instant::now() + period;
            let message = result.err();
            if let Some(message) = &message {
                tracing::debug!(?kind, message, "probe");
            }
            if let Some(success) = verdict.observe(success) {
                let token = target.token;
                if events.send(Event::Probe { slot, token, kind, success, message }).is_err() {
                    return;
                }
                if kind == ProbeKind::Startup && success {
                    return;
                }
            }
        }
        let wait = if succeeded { period } else { eager.min(period) };
        eager = (eager * 2).min(period);
        tokio::time::sleep(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds() {
        let check = |name: &str, success: i32, failure: i32, results: &str, expected: &str| {
            let probe = Probe {
                success_threshold: Some(success),
                failure_threshold: Some(failure),
                ..Probe::default()
            };
            let mut verdict = Verdict::new(&probe);
            let got: String = results
                .chars()
                .map(|result| match verdict.observe(result == '+') {
                    Some(true) => 'S',
                    Some(false) => 'F',
                    None => '.',
                })
                .collect();
            assert_eq!(got, expected, "{name}");
        };
        check("first success counts", 1, 3, "+++", "S..");
        check("three failures in a row", 1, 3, "+--+---+", "S.....FS");
        check("failures from the start", 1, 3, "----", "..F.");
        check("two successes", 2, 1, "-+-++", "F...S");
    }
}
