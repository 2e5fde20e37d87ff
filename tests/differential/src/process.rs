//! A proxy as a process, and its admin listener.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::client::Reply;
use crate::http1::{Connection, Framing};

/// Which proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Envoy.
    Envoy,
    /// `lateen-proxy`.
    Ours,
}

impl std::fmt::Display for Side {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Envoy => "envoy",
            Self::Ours => "ours",
        })
    }
}

/// Where the two programs are.
#[derive(Debug, Clone)]
pub struct Programs {
    /// Envoy.
    pub envoy: PathBuf,
    /// `lateen-proxy`.
    pub ours: PathBuf,
}

impl Programs {
    fn of(&self, side: Side) -> &Path {
        match side {
            Side::Envoy => &self.envoy,
            Side::Ours => &self.ours,
        }
    }
}

/// A running proxy. It dies with this value, and with the thread that started it.
#[derive(Debug)]
pub struct Proxy {
    child: Child,
    admin: SocketAddr,
}

/// What starting came to.
#[derive(Debug)]
pub enum Started {
    /// It serves.
    Serving(Box<Proxy>),
    /// It ended: the configuration is refused.
    Refused,
}

impl Proxy {
    /// Starts a proxy on a bootstrap and waits until it is ready; its output goes to `output`.
    pub async fn start(
        programs: &Programs,
        side: Side,
        bootstrap: &Path,
        output: &Path,
        admin: SocketAddr,
    ) -> Result<Started> {
        let file = std::fs::File::create(output)?;
        let program = programs.of(side);
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).arg("-c").arg(bootstrap);
        command.args(["--concurrency", "1", "--disable-hot-restart", "-l", "warning"]);
        command.args(["--drain-time-s", "1", "--file-flush-interval-msec", "20"]);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let limit = Instant::now() + Duration::from_secs(20);
        loop {
            if child.try_wait()?.is_some() {
                return Ok(Started::Refused);
            }
            if let Ok(reply) = ask(admin, "GET", "/ready").await
                && reply.status == 200
            {
                return Ok(Started::Serving(Box::new(Self { child, admin })));
            }
            if Instant::now() > limit {
                bail!("{side} is not ready after 20 s; its output is in {}", output.display());
            }
            sleep(Duration::from_millis(8)).await;
        }
    }

    /// Asks the admin listener.
    pub async fn ask(&self, method: &str, path: &str) -> Result<Reply> {
        ask(self.admin, method, path).await
    }

    /// Counters and gauges.
    pub async fn stats(&self) -> Result<Vec<(String, String)>> {
        let reply = self.ask("GET", "/stats").await?;
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        Ok(text
            .lines()
            .filter_map(|line| line.split_once(": "))
            .filter(|(_, value)| value.parse::<u64>().is_ok())
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect())
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        if let Some(id) = self.child.id() {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(id as i32),
                nix::sys::signal::Signal::SIGTERM,
            );
        }
    }

    /// Waits for the end after [`Self::terminate`]; says how it ended.
    pub async fn end(mut self, patience: Duration) -> String {
        match timeout(patience, self.child.wait()).await {
            Ok(Ok(status)) => status.code().map_or_else(|| status.to_string(), |code| format!("exit {code}")),
            _ => {
                let _ = self.child.kill().await;
                "killed".to_owned()
            }
        }
    }
}

async fn ask(admin: SocketAddr, method: &str, path: &str) -> Result<Reply> {
    let exchange = async {
        let mut connection = Connection::new(TcpStream::connect(admin).await?);
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        );
        connection.stream().write_all(request.as_bytes()).await?;
        let Ok(head) = connection.head().await else { bail!("no answer") };
        let body = connection.body(Framing::of_response(&head, method)).await;
        Ok(Reply {
            status: head.status().unwrap_or(0),
            fields: head.fields,
            body: body.bytes,
            end: body.end.to_string(),
            ..Reply::default()
        })
    };
    timeout(Duration::from_secs(5), exchange).await.context("the admin listener does not answer")?
}
