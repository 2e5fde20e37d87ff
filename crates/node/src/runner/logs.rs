//! Containers' output: from their pipes to files, and back for `kubectl logs`.
//!
//! A line in a file is `TIME STREAM F TEXT`, the format of Kubernetes' container runtimes. Each run of a container has a
//! file, numbered by its restarts; the last two are kept. A file that grows too large is moved to `N.log.1` and begun
//! again.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::sync::watch;

/// Where a file is begun anew.
const LARGEST: u64 = 10 * 1024 * 1024;
/// Longer lines are cut into pieces.
const LONGEST_LINE: usize = 256 * 1024;

/// The file of run number `run`.
pub fn file_of(folder: &Path, container: &str, run: i32) -> PathBuf {
    folder.join(container).join(format!("{run}.log"))
}

/// The write ends of a container's two streams, copied to its file until the last holder closes them. `grown` counts.
pub fn capture(
    folder: &Path,
    container: &str,
    run: i32,
    grown: watch::Sender<u64>,
) -> io::Result<(OwnedFd, OwnedFd)> {
    let path = file_of(folder, container, run);
    std::fs::create_dir_all(path.parent().unwrap_or(folder))?;
    if run >= 2 {
        let old = file_of(folder, container, run - 2);
        let _ = std::fs::remove_file(old.with_extension("log.1"));
        let _ = std::fs::remove_file(old);
    }
    let file = Arc::new(Mutex::new(LogFile::open(path)?));
    let stream = |name: &'static str| -> io::Result<OwnedFd> {
        let (write, read) = pipe::pipe()?;
        tokio::spawn(copy(read, name, Arc::clone(&file), grown.clone()));
        write.into_blocking_fd()
    };
    Ok((stream("stdout")?, stream("stderr")?))
}

/// A pipe whose content is read to its end, at most `limit` bytes of it kept; for hooks and probes that run a command.
pub fn collect(limit: usize) -> io::Result<(OwnedFd, tokio::task::JoinHandle<String>)> {
    use tokio::io::AsyncReadExt;
    let (write, mut read) = pipe::pipe()?;
    let collected = tokio::spawn(async move {
        let (mut kept, mut chunk) = (Vec::new(), [0u8; 4096]);
        while let Ok(count @ 1..) = read.read(&mut chunk).await {
            let room = limit.saturating_sub(kept.len()).min(count);
            kept.extend_from_slice(&chunk[..room]);
        }
        String::from_utf8_lossy(&kept).into_owned()
    });
    Ok((write.into_blocking_fd()?, collected))
}

async fn copy(
    read: pipe::Receiver,
    stream: &'static str,
    file: Arc<Mutex<LogFile>>,
    grown: watch::Sender<u64>,
) {
    let mut reader = BufReader::with_capacity(64 * 1024, read);
    let mut line = Vec::new();
    loop {
        let (used, complete) = match reader.fill_buf().await {
            Ok([]) | Err(_) => break,
            Ok(bytes) => match bytes.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    line.extend_from_slice(&bytes[..end]);
                    (end + 1, true)
                }
                None => {
                    line.extend_from_slice(bytes);
                    (bytes.len(), line.len() >= LONGEST_LINE)
                }
            },
        };
        reader.consume(used);
        if complete {
            write_line(&file, stream, &mut line, &grown);
        }
    }
    if !line.is_empty() {
        write_line(&file, stream, &mut line, &grown);
    }
}

fn write_line(file: &Mutex<LogFile>, stream: &str, line: &mut Vec<u8>, grown: &watch::Sender<u64>) {
    if let Err(error) = file.lock().write(stream, line) {
        tracing::warn!(%error, "a container's output is lost");
    }
    line.clear();
    grown.send_modify(|count| *count += 1);
}

struct LogFile {
    path: PathBuf,
    file: File,
    size: u64,
}

impl LogFile {
    fn open(path: PathBuf) -> io::Result<Self> {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&path)?;
        let size = file.metadata()?.len();
        Ok(Self { path, file, size })
    }

    fn write(&mut self, stream: &str, line: &[u8]) -> io::Result<()> {
        if self.size >= LARGEST {
            std::fs::rename(&self.path, self.path.with_extension("log.1"))?;
            *self = Self::open(std::mem::take(&mut self.path))?;
        }
        let mut text = format!("{:.9} {stream} F ", jiff::Timestamp::now()).into_bytes();
        text.extend_from_slice(line);
        text.push(b'\n');
        self.size += text.len() as u64;
        self.file.write_all(&text)
    }
}

/// What `kubectl logs` asks for (the query of the kubelet's `containerLogs`).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Query {
    /// Only the last lines.
    pub tail: Option<usize>,
    /// Lines since then only.
    pub since: Option<jiff::Timestamp>,
    /// Each line's time before it.
    pub timestamps: bool,
    /// At most so many bytes.
    pub limit: Option<usize>,
}

/// Reads a run's lines, and later those that are added.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    file: Option<File>,
    position: u64,
    query: Query,
    rest: Vec<u8>,
}

impl Reader {
    /// A reader of the file at `path`, which may not exist yet.
    pub fn new(path: PathBuf, query: Query) -> Self {
        Self { path, file: None, position: 0, query, rest: Vec::new() }
    }

    /// The lines that are there now, `tail` applied.
    pub fn first(&mut self) -> io::Result<Vec<u8>> {
        let mut lines = Vec::new();
        if let Ok(rotated) = std::fs::read(self.path.with_extension("log.1")) {
            lines.extend(self.lines(&rotated));
        }
        let fresh = self.fresh()?;
        lines.extend(self.lines(&fresh));
        if let Some(tail) = self.query.tail {
            lines.drain(..lines.len().saturating_sub(tail));
        }
        let mut text = lines.concat();
        if let Some(limit) = self.query.limit {
            text.truncate(limit);
        }
        Ok(text)
    }

    /// The lines that were added since the last call.
    pub fn more(&mut self) -> io::Result<Vec<u8>> {
        let fresh = self.fresh()?;
        Ok(self.lines(&fresh).concat())
    }

    fn fresh(&mut self) -> io::Result<Vec<u8>> {
        use std::io::{Read, Seek, SeekFrom};
        let mut bytes = Vec::new();
        if let Some(file) = &mut self.file {
            file.seek(SeekFrom::Start(self.position))?;
            self.position += file.read_to_end(&mut bytes)? as u64;
        }
        // The file may have been begun anew meanwhile (or only now).
        if let Ok(metadata) = std::fs::metadata(&self.path) {
            use std::os::unix::fs::MetadataExt;
            let same = match &self.file {
                Some(file) => file.metadata()?.ino() == metadata.ino(),
                None => false,
            };
            if !same {
                let mut file = File::open(&self.path)?;
                self.position = file.read_to_end(&mut bytes)? as u64;
                self.file = Some(file);
            }
        }
        Ok(bytes)
    }

    /// The whole lines of `bytes`, as asked for; an unfinished one is kept for the next time.
    fn lines(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.rest.extend_from_slice(bytes);
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else { return Vec::new() };
        let whole: Vec<u8> = self.rest.drain(..=end).collect();
        whole.split_inclusive(|byte| *byte == b'\n').filter_map(|line| self.shown(line)).collect()
    }

    fn shown(&self, line: &[u8]) -> Option<Vec<u8>> {
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let (time, _stream, _flag, text) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if let Some(since) = self.query.since {
            let at: jiff::Timestamp = std::str::from_utf8(time).ok()?.parse().ok()?;
            if at < since {
                return None;
            }
        }
        Some(match self.query.timestamps {
            true => [time, b" ", text].concat(),
            false => text.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    async fn wait_for(grown: &mut watch::Receiver<u64>, count: u64) {
        let waited = grown.wait_for(|lines| *lines >= count);
        tokio::time::timeout(Duration::from_secs(10), waited).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn output_becomes_lines_and_lines_become_output() {
        let folder = tempfile::tempdir().unwrap();
        let (sender, mut grown) = watch::channel(0);
        let (out, err) = capture(folder.path(), "c", 0, sender).unwrap();
        let mut out = File::from(out);
        out.write_all(b"one\ntwo\n").unwrap();
        wait_for(&mut grown, 2).await;
        File::from(err).write_all(b"three\nunfinished").unwrap();
        wait_for(&mut grown, 4).await;
        let path = file_of(folder.path(), "c", 0);
        let all =
            |query: Query| String::from_utf8(Reader::new(path.clone(), query).first().unwrap()).unwrap();
        assert_eq!(all(Query::default()), "one\ntwo\nthree\nunfinished\n");
        assert_eq!(all(Query { tail: Some(2), ..Query::default() }), "three\nunfinished\n");
        let timed = all(Query { timestamps: true, tail: Some(1), ..Query::default() });
        assert!(timed.contains('T') && timed.ends_with("Z unfinished\n"), "{timed}");
        let future = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(60);
        assert_eq!(all(Query { since: Some(future), ..Query::default() }), "");

        let mut follower = Reader::new(path.clone(), Query { tail: Some(0), ..Query::default() });
        assert_eq!(follower.first().unwrap(), b"");
        out.write_all(b"later\n").unwrap();
        wait_for(&mut grown, 5).await;
        assert_eq!(follower.more().unwrap(), b"later\n");
    }

    #[test]
    fn a_large_file_is_begun_anew_and_still_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.log");
        let mut file = LogFile::open(path.clone()).unwrap();
        file.write("stdout", b"old").unwrap();
        let mut reader = Reader::new(path.clone(), Query::default());
        assert_eq!(reader.first().unwrap(), b"old\n");
        file.write("stdout", b"last").unwrap();
        file.size = LARGEST;
        file.write("stdout", b"new").unwrap();
        assert_eq!(reader.more().unwrap(), b"last\nnew\n");
        assert_eq!(Reader::new(path, Query::default()).first().unwrap(), b"old\nlast\nnew\n");
    }
}
