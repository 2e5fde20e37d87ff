//! A standalone mesh, started as a user would start it.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::http_client::HttpClient;
use crate::leftovers;

/// The programs of a mesh.
const BINARIES: [&str; 4] = ["lateen", "lateend", "lateen-agent", "bookinfo"];
/// A user without a name, a group or a privilege.
const UNPRIVILEGED: u32 = 12_345;
/// How long a start may take on a busy machine.
const START: Duration = Duration::from_secs(120);

/// Who starts the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// The user that runs the tests, root.
    Root,
    /// Somebody with one uid, no capability and a home of their own.
    Unprivileged,
}

/// The data plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proxy {
    /// Our own.
    Lateen,
    /// Envoy, from `$ENVOY_BIN`.
    Envoy,
}

/// A place for a mesh: binaries, home and state, which outlive a run of it.
#[derive(Debug)]
pub struct Place {
    folder: TempDir,
    /// Who starts it.
    pub user: User,
    /// The data plane.
    pub proxy: Proxy,
}

/// A mesh that runs.
#[derive(Debug)]
pub struct Mesh<'a> {
    place: &'a Place,
    up: Child,
    /// Where the ingress gateway answers.
    pub ingress: SocketAddr,
    /// From the start of the command to its summary.
    pub started_in: Duration,
}

impl Place {
    /// Makes one, with copies of the binaries that `user` can read.
    pub fn new(user: User, proxy: Proxy) -> anyhow::Result<Self> {
        let binaries = PathBuf::from(
            std::env::var_os("LATEEN_BIN_DIR")
                .context("set LATEEN_BIN_DIR to the folder of the built programs (`make process` does)")?,
        );
        // Root's programs lie in root's home, as after `make demo`: other users of a Pod must reach them all the same.
        let parent = match user {
            User::Root => std::env::home_dir().context("there is no home")?,
            User::Unprivileged => PathBuf::from("/tmp"),
        };
        let folder = tempfile::Builder::new().prefix("lateen-").tempdir_in(parent)?;
        let place = Self { folder, user, proxy };
        for sub in ["bin", "home"] {
            std::fs::create_dir(place.path(sub))?;
        }
        for name in BINARIES {
            std::fs::copy(binaries.join(name), place.path("bin").join(name))
                .with_context(|| format!("{} is not built", binaries.join(name).display()))?;
        }
        if let Some(envoy) = std::env::var_os("ENVOY_BIN") {
            std::fs::copy(envoy, place.path("bin/envoy"))?;
        }
        if user == User::Unprivileged {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(place.folder.path(), std::fs::Permissions::from_mode(0o755))?;
            std::os::unix::fs::chown(place.path("home"), Some(UNPRIVILEGED), Some(UNPRIVILEGED))?;
        }
        Ok(place)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// How long rules are changed under load: a minute for each data plane and for each user once, less for the other two
    /// of the four.
    pub fn patience(&self) -> Duration {
        match (self.user, self.proxy) {
            (User::Root, Proxy::Envoy) | (User::Unprivileged, Proxy::Lateen) => Duration::from_secs(60),
            _ => Duration::from_secs(15),
        }
    }

    /// The folder of the binaries; nothing else runs from it.
    pub fn binaries(&self) -> PathBuf {
        self.path("bin")
    }

    /// The kubeconfig that the mesh writes.
    pub fn kubeconfig(&self) -> PathBuf {
        self.path("home/.local/state/lateen/kubeconfig")
    }

    /// The folder of the logs.
    pub fn logs(&self) -> PathBuf {
        self.path("home/.local/state/lateen/logs")
    }

    /// A command that `lateen` runs as, as the place's user.
    pub fn lateen(&self, arguments: &[&str]) -> Command {
        let program = self.path("bin/lateen");
        let mut command = match self.user {
            User::Root => Command::new(program),
            User::Unprivileged => {
                let mut command = Command::new("setpriv");
                command
                    .arg(format!("--reuid={UNPRIVILEGED}"))
                    .arg(format!("--regid={UNPRIVILEGED}"))
                    .args(["--clear-groups", "--bounding-set=-all", "--inh-caps=-all"])
                    .arg(program);
                command
            }
        };
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path("home"))
            .env("ENVOY_BIN", self.path("bin/envoy"))
            .envs(std::env::var_os("LATEEN_CORPORA").map(|corpora| ("LATEEN_CORPORA", corpora)))
            .current_dir(self.path("home"));
        command
    }

    /// The arguments that start `command` with the place's data plane.
    pub fn start_arguments<'a>(&self, command: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let proxy = match self.proxy {
            Proxy::Lateen => "lateen",
            Proxy::Envoy => "envoy",
        };
        [&[command, "--proxy", proxy], more].concat()
    }

    /// Starts `lateen COMMAND` and waits for its summary.
    pub fn start(&self, command: &str) -> anyhow::Result<Mesh<'_>> {
        let begun = Instant::now();
        let mut up = self
            .lateen(&self.start_arguments(command, &[]))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (lines, received) = mpsc::channel();
        for stream in [
            up.stdout.take().map(|stream| Box::new(stream) as Box<dyn std::io::Read + Send>),
            up.stderr.take().map(|stream| Box::new(stream) as Box<dyn std::io::Read + Send>),
        ]
        .into_iter()
        .flatten()
        {
            let lines = lines.clone();
            // Reads to the end, so that the command never waits for a full pipe.
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    println!("    {line}");
                    let _ = lines.send(line);
                }
            });
        }
        drop(lines);
        match wait_for_summary(&received, begun) {
            Ok(ingress) => Ok(Mesh { place: self, up, ingress, started_in: begun.elapsed() }),
            Err(error) => {
                let _ = kill(Pid::from_raw(up.id().cast_signed()), Signal::SIGTERM);
                let _ = up.wait();
                Err(error.context(self.log_tails()))
            }
        }
    }

    /// The last lines of every log, for the message of a failed test.
    pub fn log_tails(&self) -> String {
        let mut text = String::new();
        for entry in std::fs::read_dir(self.logs()).into_iter().flatten().flatten() {
            let log = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(40)..].join("\n");
            text.push_str(&format!("--- {}\n{tail}\n", entry.path().display()));
        }
        text
    }

    /// Kills everything that was started from this place, with SIGKILL and in no order.
    pub fn kill_everything(&self) {
        for process in leftovers::processes(&self.binaries()) {
            if let Some(pid) = process.split(' ').next().and_then(|pid| pid.parse().ok()) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }

    /// The real `kubectl`, speaking to this mesh.
    pub fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let kubectl = std::env::var_os("KUBECTL").unwrap_or_else(|| "kubectl".into());
        let output = Command::new(kubectl)
            .args(arguments)
            .env("KUBECONFIG", self.kubeconfig())
            .env("HOME", self.folder.path())
            .output()
            .context("cannot run kubectl")?;
        Ok(output)
    }

    /// [`Self::kubectl`] that must succeed; its standard output.
    pub fn kubectl_ok(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.kubectl(arguments)?;
        ensure!(
            output.status.success(),
            "kubectl {}: {}{}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// [`Self::kubectl`] that must fail; its standard error.
    pub fn kubectl_refused(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.kubectl(arguments)?;
        ensure!(!output.status.success(), "kubectl {} was not refused", arguments.join(" "));
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// The gateway's address in a summary: a line of its own after "The mesh runs", `http://ADDRESS...`.
pub fn gateway_in(summary: &str) -> anyhow::Result<SocketAddr> {
    let lines = summary.lines().skip_while(|line| !line.contains("The mesh runs"));
    let address = lines
        .filter_map(|line| line.trim().strip_prefix("http://"))
        .find_map(|rest| rest.split('/').next())
        .with_context(|| format!("no gateway in {summary:?}"))?;
    Ok(address.parse()?)
}

/// Waits for the line of the summary that names the gateway.
fn wait_for_summary(lines: &mpsc::Receiver<String>, begun: Instant) -> anyhow::Result<SocketAddr> {
    let mut summary = String::new();
    loop {
        let left = START.checked_sub(begun.elapsed()).context("the mesh was not ready in time")?;
        let line = match lines.recv_timeout(left) {
            Ok(line) => line,
            Err(mpsc::RecvTimeoutError::Timeout) => bail!("the mesh was not ready in time"),
            Err(mpsc::RecvTimeoutError::Disconnected) => bail!("the command ended before the mesh was ready"),
        };
        summary.push_str(&line);
        summary.push('\n');
        if let Ok(address) = gateway_in(&summary) {
            return Ok(address);
        }
    }
}

impl Mesh<'_> {
    /// A client for the gateway.
    pub fn client(&self) -> HttpClient {
        HttpClient::new(self.ingress)
    }

    /// Sends `signal` to the command, as Ctrl-C does with SIGINT, and waits for its end.
    pub fn stop(mut self, signal: Signal) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        kill(Pid::from_raw(self.up.id().cast_signed()), signal)?;
        self.up.wait()?;
        Ok(begun.elapsed())
    }

    /// Kills everything at once.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.place.kill_everything();
        self.up.wait()?;
        Ok(())
    }

    /// Process ids, as the host counts them, of processes whose command line contains `text`.
    pub fn processes(&self, text: &str) -> Vec<Pid> {
        leftovers::processes(&self.place.binaries())
            .iter()
            .filter(|process| process.contains(text))
            .filter_map(|process| process.split(' ').next()?.parse().ok())
            .map(Pid::from_raw)
            .collect()
    }
}

impl Drop for Mesh<'_> {
    fn drop(&mut self) {
        // A test that failed half-way leaves nothing running.
        if matches!(self.up.try_wait(), Ok(None)) {
            let _ = kill(Pid::from_raw(self.up.id().cast_signed()), Signal::SIGTERM);
            let _ = self.up.wait();
        }
    }
}

/// Waits until `probe` says yes; fails with `what` after `limit`.
pub async fn eventually<T>(
    what: &str,
    limit: Duration,
    mut probe: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let begun = Instant::now();
    loop {
        let result = probe().await;
        match result {
            Ok(Some(value)) => return Ok(value),
            Ok(None) if begun.elapsed() < limit => {}
            Ok(None) => bail!("{what}: not after {limit:?}"),
            Err(error) if begun.elapsed() >= limit => return Err(error.context(what.to_owned())),
            Err(_) => {}
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// One of the sample files by its path below Istio's `samples/bookinfo`: Istio's own where they are at hand, else ours of
/// the same name.
pub fn sample(path: &str) -> PathBuf {
    let corpora = std::env::var_os("LATEEN_CORPORA")
        .map(|corpora| Path::new(&corpora).join("samples/bookinfo").join(path));
    let name = path.rsplit('/').next().unwrap_or(path);
    corpora.filter(|path| path.exists()).unwrap_or_else(|| {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/bookinfo/manifests").join(name)
    })
}
