//! One measurement of one program: start it, wait for its first answer, load it, ask the kernel what it cost.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::bootstrap::{Hop, bootstrap};
use crate::certificates::Certificates;
use crate::load;
use crate::memory;
use crate::paced;
use crate::process::{Machine, Process, Program, busy_seconds};
use crate::report::Figures;
use crate::scenario::{Down, Kind, Load, Scenario};
use crate::upstream::Upstream;

/// What all measurements share.
pub struct Bench<'a> {
    /// For files.
    pub folder: &'a Path,
    /// The processors.
    pub machine: &'a Machine,
    /// Certificates.
    pub certificates: &'a Certificates,
    /// The upstream.
    pub upstream: &'a Upstream,
    /// Of each load.
    pub seconds: u32,
}

impl Bench<'_> {
    /// Measures; nothing where this program or round is left out.
    pub fn measure(
        &self,
        scenario: &Scenario,
        program: &Program,
        round: usize,
    ) -> anyhow::Result<Option<Figures>> {
        if round >= scenario.rounds(round + 1) {
            return Ok(None);
        }
        match &scenario.kind {
            // Stock Envoy has not got Istio's filters.
            Kind::Load(Load { telemetry: true, .. }) if matches!(program, Program::Envoy(_)) => Ok(None),
            Kind::Load(load) => self.load(load, program).map(Some),
            Kind::Start => memory::start(self, program).map(Some),
            Kind::Clusters(count) => memory::clusters(self, program, *count).map(Some),
            Kind::IdleConnections(count) => memory::connections(self, program, *count).map(Some),
        }
    }

    /// Starts a program with a bootstrap and waits for its port.
    pub fn start(&self, program: &Program, port: u16, bootstrap: &Value) -> anyhow::Result<Process> {
        let file = self.folder.join(format!("{}-{port}.json", program.name()));
        std::fs::write(&file, bootstrap.to_string())?;
        let mut process = program.start(&file, self.machine)?;
        wait_for_port(port, &mut process).with_context(|| {
            let log = std::fs::read_to_string(file.with_extension("log")).unwrap_or_default();
            format!("{} does not listen; it said:\n{log}", program.name())
        })?;
        Ok(process)
    }

    fn load(&self, load: &Load, program: &Program) -> anyhow::Result<Figures> {
        let port = free_port()?;
        let next = if load.http2_upstream { self.upstream.http2 } else { self.upstream.http1 };
        let hops = if load.pair {
            Hop::pair(port, free_port()?, next).to_vec()
        } else {
            vec![Hop::only(load, port, next)]
        };
        let mut processes = Vec::new();
        // The last one first, so that the first finds it.
        for hop in hops.iter().rev() {
            let bootstrap = bootstrap(load, hop, self.certificates);
            processes.push(self.start(program, hop.port, &bootstrap)?);
        }
        if load.down == Down::Http1 {
            first_answer(port, load.path)?;
        }
        let cpu = |processes: &[Process]| -> anyhow::Result<f64> {
            processes.iter().map(Process::cpu_seconds).sum()
        };
        let run = |seconds| match load.rate {
            Some(rate) => paced::run(port, load.path, rate, Duration::from_secs_f64(seconds)),
            None => load::run(load, port, seconds, self.folder, self.machine),
        };
        run(0.5)?;
        let (cpu_before, busy_before, began) = (cpu(&processes)?, busy_seconds()?, Instant::now());
        let done = run(f64::from(self.seconds))?;
        let (taken, elapsed) = (cpu(&processes)? - cpu_before, began.elapsed().as_secs_f64());
        let busy = (busy_seconds()? - busy_before) / elapsed;
        if done.requests == 0 || done.errors * 1000 > done.requests {
            bail!("{} requests, {} of them failed", done.requests, done.errors);
        }
        if load.telemetry {
            // Filters that were left out would be the cheapest ones.
            for process in &processes {
                let page = process.admin_page("/stats/prometheus")?;
                let counted = page
                    .lines()
                    .filter(|line| line.starts_with("istio_requests_total{"))
                    .filter_map(|line| line.rsplit(' ').next()?.trim().parse::<u64>().ok())
                    .sum::<u64>();
                if counted < done.requests {
                    bail!("the filters counted {counted} requests of {}", done.requests);
                }
            }
        }
        let resident: f64 = processes.iter().map(Process::resident_kib).sum::<anyhow::Result<f64>>()?;
        let units = done.requests as f64 * if load.path == "/16m" { 16.0 } else { 1.0 };
        Ok(Figures {
            value: taken * 1e6 / units,
            requests_per_second: Some(done.requests as f64 / done.seconds),
            cpus: Some(taken / elapsed),
            cpus_of_all: Some(busy),
            p50_us: done.p50_us,
            p99_us: done.p99_us,
            resident_mib: Some(resident / 1024.0),
        })
    }
}

/// A port that nobody has at the moment.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Waits until a port takes connections.
pub fn wait_for_port(port: u16, process: &mut Process) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(180);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if !process.is_running() {
            bail!("it ended");
        }
        if Instant::now() > deadline {
            bail!("nothing listens on port {port}");
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    Ok(())
}

/// Asks until there is a 200.
pub fn first_answer(port: u16, path: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !answers(port, path).unwrap_or(false) {
        if Instant::now() > deadline {
            bail!("no answer with status 200");
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    Ok(())
}

fn answers(port: u16, path: &str) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: bench.local\r\n\r\n").as_bytes())?;
    let mut begin = [0; 12];
    stream.read_exact(&mut begin)?;
    Ok(&begin == b"HTTP/1.1 200")
}
