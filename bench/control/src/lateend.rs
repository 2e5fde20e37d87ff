//! The process under test, and what the kernel says of it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// `lateend run`, which ends with this value.
pub struct Lateend {
    process: Child,
    pid: u32,
    folder: PathBuf,
    program: PathBuf,
    kubeconfig: PathBuf,
    ports: [u16; 5],
}

impl Lateend {
    /// Starts it and waits until it is ready.
    pub async fn start(program: &Path, kubeconfig: &Path, folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let ports = free_ports()?;
        let process = spawn(program, kubeconfig, folder, ports)?;
        let pid = process.id().context("it has ended at once")?;
        let (folder, program) = (folder.to_owned(), program.to_owned());
        let mut started = Self { process, pid, folder, program, kubeconfig: kubeconfig.to_owned(), ports };
        started.ready().await?;
        Ok(started)
    }

    /// Ends it and starts it again on the same ports, without waiting for readiness.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        kill(Pid::from_raw(i32::try_from(self.pid)?), Signal::SIGKILL)?;
        self.process.wait().await?;
        self.process = spawn(&self.program, &self.kubeconfig, &self.folder, self.ports)?;
        self.pid = self.process.id().context("it has ended at once")?;
        Ok(())
    }

    /// Where xDS is served without TLS.
    pub fn xds(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports[0]).into()
    }

    /// Waits until it serves.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        for _ in 0..2400 {
            if let Some(status) = self.process.try_wait()? {
                anyhow::bail!("lateend ends with {status}; see {}", self.folder.join("log").display());
            }
            if self.get(self.ports[3], "/ready").await.is_ok_and(|page| page.starts_with("HTTP/1.1 200")) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::bail!("lateend is not ready after two minutes; see {}", self.folder.join("log").display())
    }

    /// The value of a metric without labels.
    pub async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let page = self.get(self.ports[4], "/metrics").await?;
        // With labels, all of them together.
        let value = |line: &str| -> Option<f64> {
            let rest = line.strip_prefix(name)?;
            if !rest.starts_with(['{', ' ']) {
                return None;
            }
            rest.rsplit(' ').next()?.trim().parse().ok()
        };
        let values: Vec<f64> = page.lines().filter_map(value).collect();
        anyhow::ensure!(!values.is_empty(), "there is no metric {name}");
        Ok(values.iter().sum())
    }

    async fn get(&self, port: u16, path: &str) -> anyhow::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut page = String::new();
        stream.read_to_string(&mut page).await?;
        Ok(page)
    }

    /// Resident memory in kilobytes.
    pub fn resident_kb(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
    }

    /// Time on a processor since it started, all threads together.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        let mut total = 0;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.pid))? {
            let text = std::fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
            total += text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0_u64);
        }
        Ok(Duration::from_nanos(total))
    }
}

fn spawn(program: &Path, kubeconfig: &Path, folder: &Path, ports: [u16; 5]) -> anyhow::Result<Child> {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("log"))?;
    let [plaintext, xds, webhooks, debug, monitoring] = ports.map(|port| port.to_string());
    Command::new(program)
        .arg("run")
        .arg("--state-dir")
        .arg(folder.join("state"))
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .args(["--address", "127.0.0.1", "--advertised-address", "127.0.0.1", "--plaintext-xds"])
        .args(["--plaintext-xds-port", &plaintext, "--xds-port", &xds, "--webhooks-port", &webhooks])
        .args(["--debug-port", &debug, "--monitoring-port", &monitoring])
        .env("RUST_LOG", "warn")
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))
}

/// Ports that nobody listens on at this moment.
fn free_ports() -> anyhow::Result<[u16; 5]> {
    let listeners: Vec<TcpListener> =
        (0..5).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<Result<_, _>>()?;
    let mut ports = [0; 5];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}
