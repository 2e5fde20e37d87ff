//! Requests at a rate, at random moments, whether or not the answers keep up: nearer to what a sidecar sees than as many
//! as go, where a proxy handles several requests each time it wakes up.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use rand::{Rng, SeedableRng};

use crate::load::Done;

/// A connection and, while it waits, when its request was due.
struct Connection {
    stream: TcpStream,
    due: Option<Instant>,
    received: usize,
    /// Bytes of an answer; they are all alike.
    length: usize,
}

/// Sends GETs over connections that are kept, one at a time on each.
pub fn run(port: u16, path: &str, rate: u32, time: Duration) -> anyhow::Result<Done> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: bench.local\r\n\r\n");
    let mut random = rand::rngs::SmallRng::seed_from_u64(7);
    let mut connections: Vec<Connection> = Vec::new();
    for _ in 0..32 {
        connections.push(connect(port, &request)?);
    }
    let mut latencies: Vec<Duration> = Vec::new();
    let begin = Instant::now();
    let mut due = begin;
    let mut sent = 0u64;
    loop {
        let now = Instant::now();
        while due <= now && due < begin + time {
            if connections.iter().all(|connection| connection.due.is_some()) {
                connections.push(connect(port, &request)?);
            }
            let idle = connections.iter_mut().find(|connection| connection.due.is_none());
            let connection = idle.context("no connection")?;
            connection.stream.write_all(request.as_bytes())?;
            connection.due = Some(due);
            sent += 1;
            // Poisson: the time between two is exponential.
            let pause = -(1.0 - random.random::<f64>()).ln() / f64::from(rate);
            due += Duration::from_secs_f64(pause);
        }
        let over = due >= begin + time;
        if over && latencies.len() as u64 == sent {
            break;
        }
        wait(&connections, due.saturating_duration_since(Instant::now()))?;
        for connection in connections.iter_mut().filter(|connection| connection.due.is_some()) {
            receive(connection, &mut latencies)?;
        }
    }
    latencies.sort_unstable();
    let quantile = |part: f64| {
        let index = (latencies.len() as f64 * part) as usize;
        latencies.get(index.min(latencies.len().saturating_sub(1))).map(|time| time.as_secs_f64() * 1e6)
    };
    Ok(Done {
        requests: sent,
        seconds: time.as_secs_f64(),
        errors: 0,
        p50_us: quantile(0.5),
        p99_us: quantile(0.99),
    })
}

/// Makes a connection and learns how long an answer is.
fn connect(port: u16, request: &str) -> anyhow::Result<Connection> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    let length = loop {
        let count = stream.read(&mut part)?;
        anyhow::ensure!(count > 0, "the connection was closed");
        answer.extend_from_slice(&part[..count]);
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, _)) = text.split_once("\r\n\r\n") {
            let body = head
                .lines()
                .find_map(|line| {
                    line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok()
                })
                .unwrap_or(0);
            let length: usize = head.len() + 4 + body;
            if answer.len() >= length {
                break length;
            }
        }
    };
    stream.set_nonblocking(true)?;
    Ok(Connection { stream, due: None, received: 0, length })
}

/// Until an answer comes, or for that long.
fn wait(connections: &[Connection], time: Duration) -> anyhow::Result<()> {
    let mut waiting: Vec<PollFd<'_>> = connections
        .iter()
        .filter(|connection| connection.due.is_some())
        .map(|connection| PollFd::new(connection.stream.as_fd(), PollFlags::POLLIN))
        .collect();
    match ppoll(&mut waiting, Some(TimeSpec::from_duration(time.min(Duration::from_secs(1)))), None) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn receive(connection: &mut Connection, latencies: &mut Vec<Duration>) -> anyhow::Result<()> {
    let mut part = [0; 4096];
    match connection.stream.read(&mut part) {
        Ok(0) => anyhow::bail!("a connection was closed"),
        Ok(count) => connection.received += count,
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
        Err(error) => return Err(error.into()),
    }
    // The `date` is always as long; a time in a header may be a digit shorter or longer.
    if connection.received + 3 >= connection.length {
        connection.received = 0;
        latencies.extend(connection.due.take().map(|due| due.elapsed()));
    }
    Ok(())
}
