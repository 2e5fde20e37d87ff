//! Access logs: lines are rendered by workers and written by one thread, off the request path.
//!
//! A worker appends its line to a buffer of its own, so that workers do not wait for each other. The thread writes what
//! there is a moment after the first line, or at once when there is much; nothing is lost at the end, for then the
//! buffers are written by whoever ends the proxy.

mod file;

pub(crate) use file::can_open;

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use lateen_dataplane::access_log::AccessLog;
use lateen_dataplane::format::Source;
use parking_lot::{Condvar, Mutex};

use crate::stats::{FilesystemStats, SharedShard, Stats};
use file::LogFile;

/// How long a line may wait for others. Envoy's default are ten seconds, which makes following a log a test of patience.
const INTERVAL: Duration = Duration::from_millis(250);

/// Where one access log writes.
#[derive(Debug, Clone)]
pub struct LogSink {
    log: AccessLog,
    file: Arc<LogFile>,
}

thread_local! {
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl LogSink {
    /// Renders and keeps a line.
    pub fn log(&self, source: &Source<'_>, random: u64) {
        if self.log.filter.as_ref().is_some_and(|filter| !filter.passes(source, random)) {
            return;
        }
        LINE.with_borrow_mut(|line| {
            line.clear();
            self.log.format.write(source, line);
            self.file.append(line);
        });
    }
}

/// What the writing thread waits for.
#[derive(Debug, Default)]
struct Signal {
    state: Mutex<Wanted>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Wanted {
    /// There are lines.
    soon: bool,
    /// There are many.
    now: bool,
    end: bool,
}

impl Signal {
    fn soon(&self) {
        self.state.lock().soon = true;
        self.changed.notify_one();
    }

    fn now(&self) {
        self.state.lock().now = true;
        self.changed.notify_one();
    }
}

/// What counts bytes and lines.
#[derive(Debug, Clone)]
struct Meter {
    shard: SharedShard,
    stats: FilesystemStats,
}

/// The files of a proxy.
#[derive(Debug)]
pub struct LogFiles {
    files: Arc<Mutex<HashMap<Arc<str>, Arc<LogFile>>>>,
    signal: Arc<Signal>,
    meter: Meter,
}

impl LogFiles {
    /// No file yet.
    pub fn new(stats: &Stats) -> Self {
        let meter = Meter { shard: stats.common(), stats: FilesystemStats::new(stats, "") };
        Self { files: Arc::default(), signal: Arc::default(), meter }
    }

    /// A sink for a log; logs of one path share a file.
    pub fn sink(&self, log: &AccessLog) -> LogSink {
        let mut files = self.files.lock();
        if files.is_empty() {
            self.start_writer();
        }
        let file = files.entry(Arc::clone(&log.path)).or_insert_with(|| {
            Arc::new(LogFile::open(Arc::clone(&log.path), Arc::clone(&self.signal), self.meter.clone()))
        });
        LogSink { log: log.clone(), file: Arc::clone(file) }
    }

    /// Writes everything that is kept.
    pub fn flush(&self) {
        let files: Vec<_> = self.files.lock().values().cloned().collect();
        for file in files {
            file.write_out();
        }
    }

    /// Opens all files anew, after they were moved away.
    pub fn reopen(&self) {
        let files: Vec<_> = self.files.lock().values().cloned().collect();
        for file in files {
            file.reopen();
        }
    }

    fn start_writer(&self) {
        let (files, signal) = (Arc::clone(&self.files), Arc::clone(&self.signal));
        let timer = self.meter.clone();
        let run = move || {
            loop {
                let (end, full) = {
                    let mut wanted = signal.state.lock();
                    while !wanted.soon && !wanted.now && !wanted.end {
                        signal.changed.wait(&mut wanted);
                    }
                    if !wanted.now && !wanted.end {
                        signal.changed.wait_for(&mut wanted, INTERVAL);
                    }
                    let full = wanted.now;
                    (wanted.soon, wanted.now) = (false, false);
                    (wanted.end, full)
                };
                if !full {
                    timer.shard.increment(timer.stats.flushed_by_timer);
                }
                let open: Vec<_> = files.lock().values().cloned().collect();
                for file in &open {
                    file.write_out();
                }
                drop(open);
                if end {
                    return;
                }
                // A file that no listener names any more is closed; one that stays has the map's own holder alone.
                files.lock().retain(|_, file| Arc::strong_count(file) > 1 || !file.is_idle());
            }
        };
        if let Err(error) = std::thread::Builder::new().name("access-log".into()).spawn(run) {
            tracing::error!(%error, "cannot start the access log's thread; lines are written when the proxy ends");
        }
    }
}

impl Drop for LogFiles {
    fn drop(&mut self) {
        self.flush();
        self.signal.state.lock().end = true;
        self.signal.changed.notify_one();
    }
}
