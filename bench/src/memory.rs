//! Starting, and memory: without traffic, with many clusters, with many idle connections.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::bootstrap::many_clusters;
use crate::process::Program;
use crate::report::Figures;
use crate::traffic::{Bench, first_answer, free_port};

/// After which memory that was needed to start only has been given back, or never is.
const SETTLED: Duration = Duration::from_millis(1500);

/// Milliseconds from the start to the first answer.
pub fn start(bench: &Bench<'_>, program: &Program) -> anyhow::Result<Figures> {
    let port = free_port()?;
    let bootstrap = many_clusters(port, bench.upstream.http1, 1);
    let began = Instant::now();
    let _process = bench.start(program, port, &bootstrap)?;
    first_answer(port, "/small")?;
    Ok(Figures { value: began.elapsed().as_secs_f64() * 1e3, ..Figures::default() })
}

/// Resident memory with so many clusters.
pub fn clusters(bench: &Bench<'_>, program: &Program, count: u32) -> anyhow::Result<Figures> {
    let port = free_port()?;
    let process = bench.start(program, port, &many_clusters(port, bench.upstream.http1, count))?;
    first_answer(port, "/small")?;
    std::thread::sleep(SETTLED);
    Ok(Figures { value: process.resident_kib()? / 1024.0, ..Figures::default() })
}

/// Bytes for each of so many connections that had an answer and wait.
pub fn connections(bench: &Bench<'_>, program: &Program, count: u32) -> anyhow::Result<Figures> {
    let (_, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, hard, hard)?;
    let port = free_port()?;
    let process = bench.start(program, port, &many_clusters(port, bench.upstream.http1, 1))?;
    let mut open = Vec::new();
    // The first ones bring what every process needs once.
    for _ in 0..100 {
        open.push(answered(port)?);
    }
    std::thread::sleep(SETTLED);
    let before = process.resident_kib()?;
    for _ in 0..count {
        open.push(answered(port)?);
    }
    std::thread::sleep(SETTLED);
    let after = process.resident_kib()?;
    Ok(Figures { value: (after - before) * 1024.0 / f64::from(count), ..Figures::default() })
}

fn answered(port: u16) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET /small HTTP/1.1\r\nhost: bench.local\r\n\r\n")?;
    let mut answer = [0; 4096];
    anyhow::ensure!(stream.read(&mut answer)? > 0, "a connection was closed");
    Ok(stream)
}
