//! Access logs: lines are rendered by workers and written by one thread a file, off the request path.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use lateen_dataplane::format::Source;
use lateen_dataplane::listener::{AccessLog, LogFormat};
use parking_lot::Mutex;

/// Lines that may wait for a slow disk; beyond that they are dropped rather than delay requests.
const QUEUE: usize = 16 * 1024;

/// Where one access log writes.
#[derive(Debug, Clone)]
pub struct LogSink {
    log: AccessLog,
    lines: SyncSender<Message>,
}

#[derive(Debug)]
enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

impl LogSink {
    /// Renders and queues a line.
    pub fn log(&self, source: &Source<'_>, random: u64) {
        if self.log.filter.as_ref().is_some_and(|filter| !filter.passes(source, random)) {
            return;
        }
        let mut line = Vec::with_capacity(320);
        match &self.log.format {
            LogFormat::Text(format) => format.write(source, &mut line),
            LogFormat::Json(fields) => {
                let mut object = serde_json::Map::new();
                for (name, format) in fields {
                    let mut value = Vec::new();
                    format.write(source, &mut value);
                    let value = match value.as_slice() {
                        b"-" => serde_json::Value::Null,
                        text => String::from_utf8_lossy(text).into_owned().into(),
                    };
                    object.insert(name.to_string(), value);
                }
                line = serde_json::Value::Object(object).to_string().into_bytes();
                line.push(b'\n');
            }
        }
        let _ = self.lines.try_send(Message::Line(line));
    }
}

/// The files of a proxy.
#[derive(Debug, Default)]
pub struct LogFiles {
    writers: Mutex<HashMap<Arc<str>, SyncSender<Message>>>,
}

impl LogFiles {
    /// A sink for a log; logs of one path share a writer.
    pub fn sink(&self, log: &AccessLog) -> LogSink {
        let mut writers = self.writers.lock();
        let lines =
            writers.entry(Arc::clone(&log.path)).or_insert_with(|| start_writer(Arc::clone(&log.path)));
        LogSink { log: log.clone(), lines: lines.clone() }
    }

    /// Waits until everything queued so far is written.
    pub fn flush(&self) {
        let writers: Vec<_> = self.writers.lock().values().cloned().collect();
        for writer in writers {
            let (done, wait) = sync_channel(1);
            if writer.send(Message::Flush(done)).is_ok() {
                let _ = wait.recv_timeout(std::time::Duration::from_secs(1));
            }
        }
    }
}

fn start_writer(path: Arc<str>) -> SyncSender<Message> {
    let (sender, receiver) = sync_channel::<Message>(QUEUE);
    let run = move || {
        let mut file: Box<dyn Write> = match &*path {
            "/dev/stdout" => Box::new(std::io::stdout()),
            "/dev/stderr" => Box::new(std::io::stderr()),
            path => match std::fs::OpenOptions::new().create(true).append(true).open(path) {
                Ok(file) => Box::new(file),
                Err(error) => {
                    tracing::error!(%path, %error, "cannot open the access log; its lines are lost");
                    Box::new(std::io::sink())
                }
            },
        };
        let mut batch = Vec::new();
        // Ends when every sink is gone.
        while let Ok(first) = receiver.recv() {
            let mut waiting = Vec::new();
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    Message::Line(line) => batch.extend_from_slice(&line),
                    Message::Flush(done) => waiting.push(done),
                }
                next = if batch.len() < 64 * 1024 { receiver.try_recv().ok() } else { None };
            }
            let _ = file.write_all(&batch).and_then(|()| file.flush());
            batch.clear();
            for done in waiting {
                let _ = done.try_send(());
            }
        }
    };
    if let Err(error) = std::thread::Builder::new().name("access-log".into()).spawn(run) {
        tracing::error!(%error, "cannot start the access log's thread");
    }
    sender
}
