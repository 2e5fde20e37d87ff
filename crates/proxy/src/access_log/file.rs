//! One file of access logs, with a buffer for each thread that writes.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;

use super::{Meter, Signal};

/// Buffers; a thread uses the one with its number, so that two rarely meet.
const BUFFERS: usize = 16;
/// Bytes in one buffer that are written without waiting for others.
const MANY: usize = 64 * 1024;
/// Bytes that one buffer holds while the disk takes none; more is dropped, and counted.
const MOST: usize = 16 * 1024 * 1024;

static NEXT_THREAD: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static THREAD: usize = NEXT_THREAD.fetch_add(1, Relaxed) % BUFFERS;
}

#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    lines: u64,
}

/// A file.
#[derive(Debug)]
pub(super) struct LogFile {
    path: Arc<str>,
    buffers: [Mutex<Buffer>; BUFFERS],
    waiting: AtomicBool,
    target: Mutex<Target>,
    signal: Arc<Signal>,
    meter: Meter,
}

#[derive(Debug)]
enum Target {
    Stdout,
    Stderr,
    File(File),
    /// It could not be opened.
    Nowhere,
}

impl Target {
    fn open(path: &str) -> std::io::Result<Self> {
        Ok(match path {
            "/dev/stdout" => Self::Stdout,
            "/dev/stderr" => Self::Stderr,
            path => Self::File(std::fs::OpenOptions::new().create(true).append(true).open(path)?),
        })
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Stdout => {
                let mut out = std::io::stdout().lock();
                out.write_all(bytes).and_then(|()| out.flush())
            }
            Self::Stderr => std::io::stderr().lock().write_all(bytes),
            Self::File(file) => file.write_all(bytes),
            Self::Nowhere => Err(std::io::ErrorKind::NotFound.into()),
        }
    }
}

/// Whether lines could be written to a file. It is made where it is not there.
pub(crate) fn can_open(path: &str) -> std::io::Result<()> {
    Target::open(path).map(drop)
}

impl LogFile {
    pub(super) fn open(path: Arc<str>, signal: Arc<Signal>, meter: Meter) -> Self {
        let target = Target::open(&path).unwrap_or_else(|error| {
            tracing::error!(%path, %error, "cannot open the access log; its lines are lost");
            Target::Nowhere
        });
        Self {
            path,
            buffers: Default::default(),
            waiting: AtomicBool::new(false),
            target: Mutex::new(target),
            signal,
            meter,
        }
    }

    pub(super) fn append(&self, line: &[u8]) {
        let many = {
            let mut buffer = self.buffers[THREAD.with(|thread| *thread)].lock();
            if buffer.bytes.len() > MOST {
                self.meter.shard.increment(self.meter.stats.write_failed);
                return;
            }
            let before = buffer.bytes.len();
            buffer.bytes.extend_from_slice(line);
            buffer.lines += 1;
            before < MANY && buffer.bytes.len() >= MANY
        };
        if many {
            self.signal.now();
        } else if !self.waiting.load(Relaxed) && !self.waiting.swap(true, Relaxed) {
            self.signal.soon();
        }
    }

    /// Whether nothing waits.
    pub(super) fn is_idle(&self) -> bool {
        self.buffers.iter().all(|buffer| buffer.lock().bytes.is_empty())
    }

    /// Writes what waits.
    pub(super) fn write_out(&self) {
        // Held over everything, so that lines of one thread keep their order.
        let mut target = self.target.lock();
        self.waiting.store(false, Relaxed);
        for buffer in &self.buffers {
            let taken = std::mem::take(&mut *buffer.lock());
            if taken.bytes.is_empty() {
                continue;
            }
            let Meter { shard, stats } = &self.meter;
            shard.add(stats.write_buffered, taken.lines);
            match target.write(&taken.bytes) {
                Ok(()) => shard.increment(stats.write_completed),
                Err(error) => {
                    shard.increment(stats.write_failed);
                    tracing::debug!(path = %self.path, %error, "access log");
                }
            }
            // The memory is used again, unless it grew.
            let mut bytes = taken.bytes;
            bytes.clear();
            let mut buffer = buffer.lock();
            if buffer.bytes.is_empty() && bytes.capacity() <= 2 * MANY {
                buffer.bytes = bytes;
            }
        }
    }

    pub(super) fn reopen(&self) {
        self.write_out();
        match Target::open(&self.path) {
            Ok(target) => *self.target.lock() = target,
            Err(error) => {
                self.meter.shard.increment(self.meter.stats.reopen_failed);
                tracing::error!(path = %self.path, %error, "cannot open the access log anew; the old file goes on");
            }
        }
    }
}
