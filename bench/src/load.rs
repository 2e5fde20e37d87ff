//! As many requests as go: `wrk` for HTTP/1.1, TLS and TCP, `h2load` for HTTP/2.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

use crate::process::{Machine, placed};
use crate::scenario::{Down, Load};

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub struct Done {
    /// Answers.
    pub requests: u64,
    /// In which time.
    pub seconds: f64,
    /// What failed.
    pub errors: u64,
    /// Of the time to an answer, where requests came at a rate.
    pub p50_us: Option<f64>,
    /// As above.
    pub p99_us: Option<f64>,
}

/// Runs a load.
pub fn run(load: &Load, port: u16, seconds: f64, folder: &Path, machine: &Machine) -> anyhow::Result<Done> {
    let scheme = if load.down == Down::Tls { "https" } else { "http" };
    let url = format!("{scheme}://127.0.0.1:{port}{}", load.path);
    // Both tools count whole seconds.
    let seconds = seconds.ceil() as u64;
    if load.down == Down::Http2 {
        h2load(load, &url, seconds, folder, machine)
    } else {
        wrk(load, &url, seconds, machine)
    }
}

fn output(command: &mut Command, machine: &Machine) -> anyhow::Result<String> {
    let name = command.get_program().display().to_string();
    let output = placed(machine.others, || command.output())
        .with_context(|| format!("cannot run {name}; `make bench` installs it"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{name}: {text}{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(text)
}

fn wrk(load: &Load, url: &str, seconds: u64, machine: &Machine) -> anyhow::Result<Done> {
    let mut command = Command::new("wrk");
    command.args(["-t1", "-c", &load.connections.to_string(), "-d", &format!("{seconds}s")]);
    if load.close {
        command.args(["-H", "Connection: close"]);
    }
    let text = output(command.arg(url), machine)?;
    // `123456 requests in 2.00s, 40.00MB read`
    let line = text.lines().find(|line| line.contains(" requests in ")).context("wrk's output")?;
    let (requests, rest) = line.trim().split_once(" requests in ").context("wrk's output")?;
    let time = rest.split(',').next().unwrap_or_default();
    let time = time.strip_suffix('s').context("wrk's output")?;
    let number_after = |mark: &str| -> Option<u64> {
        let rest = text.split_once(mark)?.1;
        rest.split(|character: char| !character.is_ascii_digit()).find(|part| !part.is_empty())?.parse().ok()
    };
    // `Socket errors: connect 0, read 1, write 0, timeout 0`: a read error is usual where each request closes.
    let errors: u64 = ["Non-2xx or 3xx responses:", "Socket errors: connect"]
        .iter()
        .filter_map(|mark| number_after(mark))
        .sum();
    Ok(Done { requests: requests.parse()?, seconds: time.parse()?, errors, p50_us: None, p99_us: None })
}

fn h2load(load: &Load, url: &str, seconds: u64, folder: &Path, machine: &Machine) -> anyhow::Result<Done> {
    let mut command = Command::new("h2load");
    command.args(["-t1", "-c", &load.connections.to_string(), "-m", &load.streams.to_string()]);
    command.args(["-D", &seconds.to_string()]);
    if load.post {
        let message = folder.join("message");
        // A gRPC message: not compressed, length, content.
        std::fs::write(&message, [&[0, 0, 0, 0, 59][..], &[b'x'; 59]].concat())?;
        command.arg("-d").arg(message).args(["-H", "content-type: application/grpc", "-H", "te: trailers"]);
    }
    let text = output(command.arg(url), machine)?;
    // `requests: 9 total, 9 started, 9 done, 9 succeeded, 0 failed, 0 errored, 0 timeout`
    let line = text.lines().find_map(|line| line.strip_prefix("requests: ")).context("h2load's output")?;
    let of = |what: &str| -> Option<u64> {
        let part = line.split(", ").find(|part| part.ends_with(what))?;
        part.split(' ').next()?.parse().ok()
    };
    let statuses = text.lines().find_map(|line| line.strip_prefix("status codes: ")).unwrap_or_default();
    let good: u64 = statuses.split(' ').next().and_then(|count| count.parse().ok()).unwrap_or(0);
    let requests = of(" done").context("h2load's output")?;
    let errors = of(" failed").unwrap_or(0).max(requests.saturating_sub(good));
    Ok(Done { requests, seconds: seconds as f64, errors, p50_us: None, p99_us: None })
}
