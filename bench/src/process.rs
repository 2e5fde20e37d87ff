//! Programs under test and what the kernel says of them.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Which of the two.
#[derive(Debug, Clone)]
pub enum Program {
    /// The measure.
    Envoy(PathBuf),
    /// Ours.
    Ours(PathBuf),
}

impl Program {
    /// For tables.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Envoy(_) => "envoy",
            Self::Ours(_) => "lateen",
        }
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Envoy(path) | Self::Ours(path) => path,
        }
    }

    /// Starts it with one worker.
    pub fn start(&self, bootstrap: &Path, machine: &Machine) -> anyhow::Result<Process> {
        let admin = bootstrap.with_extension("admin");
        let mut arguments: Vec<&OsStr> =
            vec!["-c".as_ref(), bootstrap.as_os_str(), "--concurrency".as_ref(), "1".as_ref()];
        arguments.extend(["--admin-address-path".as_ref(), admin.as_os_str()]);
        if matches!(self, Self::Envoy(_)) {
            arguments.extend(["--disable-hot-restart", "-l", "error"].map(OsStr::new));
        } else {
            arguments.extend(["-l", "error"].map(OsStr::new));
        }
        let mut process =
            Process::start(self.path(), &arguments, machine.proxy, &bootstrap.with_extension("log"))?;
        process.admin = admin;
        Ok(process)
    }
}

/// The processors, and who runs on which.
#[derive(Debug)]
pub struct Machine {
    /// Of the proxy: the last one.
    proxy: Option<CpuSet>,
    /// Of clients and the upstream: all others.
    pub others: Option<CpuSet>,
}

impl Machine {
    /// This one.
    pub fn new() -> Self {
        let none = Self { proxy: None, others: None };
        let Ok(all) = sched_getaffinity(Pid::from_raw(0)) else { return none };
        let usable: Vec<usize> = (0..CpuSet::count()).filter(|cpu| all.is_set(*cpu) == Ok(true)).collect();
        let [others @ .., last] = usable.as_slice() else { return none };
        if others.is_empty() {
            return none;
        }
        let set = |cpus: &[usize]| {
            let mut set = CpuSet::new();
            cpus.iter().try_for_each(|cpu| set.set(*cpu)).ok().map(|()| set)
        };
        Self { proxy: set(&[*last]), others: set(others) }
    }
}

/// Makes a process on these processors: a child runs where the thread runs that makes it.
pub fn placed<R>(cpus: Option<CpuSet>, make: impl FnOnce() -> R) -> R {
    let this = Pid::from_raw(0);
    let before = sched_getaffinity(this);
    if let Some(cpus) = cpus {
        let _ = sched_setaffinity(this, &cpus);
    }
    let made = make();
    if let Ok(before) = before {
        let _ = sched_setaffinity(this, &before);
    }
    made
}

/// A child; it ends with this value.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// Where it says its admin address, if it is a proxy.
    admin: PathBuf,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// Starts a program whose output goes to a file.
    pub fn start(
        program: &Path,
        arguments: &[&OsStr],
        cpus: Option<CpuSet>,
        log: &Path,
    ) -> anyhow::Result<Self> {
        let log = File::create(log)?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = placed(cpus, || command.spawn());
        let child = child.with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { child, admin: PathBuf::new() })
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks it to end in its own way.
    pub fn terminate(&mut self) {
        let pid = Pid::from_raw(self.child.id() as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
    }

    /// A page of its admin interface.
    pub fn admin_page(&self, path: &str) -> anyhow::Result<String> {
        let address = fs::read_to_string(&self.admin).context("the admin address")?;
        let mut stream = TcpStream::connect(address.trim())?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", address.trim())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// Seconds on a processor so far.
    pub fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat")?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        Ok(ticks as f64 / ticks_per_second())
    }

    /// Resident memory in KiB.
    pub fn resident_kib(&self) -> anyhow::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        Ok(line.trim().trim_end_matches("kB").trim().parse()?)
    }
}

fn ticks_per_second() -> f64 {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK);
    ticks.ok().flatten().map_or(100.0, |ticks| ticks as f64)
}

/// Seconds that all processors together have worked, for whomever.
pub fn busy_seconds() -> anyhow::Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("/proc/stat")?;
    let ticks: Vec<f64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq; what guests use is in the first two.
    let busy = [0, 1, 2, 5, 6].iter().filter_map(|index| ticks.get(*index)).sum::<f64>();
    Ok(busy / ticks_per_second())
}

/// The model of the processors, and the kernel.
pub fn describe() -> (String, String) {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or_else(|| "an unknown processor".to_owned(), |(_, model)| model.trim().to_owned());
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    (format!("{count} x {model}"), kernel.trim().to_owned())
}
