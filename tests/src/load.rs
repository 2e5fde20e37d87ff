//! A steady stream of requests, and what became of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::{JoinHandle, JoinSet};

use crate::http_client::HttpClient;

/// Requests at a fixed rate, until stopped. An answer other than 200 is a failure, and so is none at all.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    failures: Arc<Mutex<Vec<String>>>,
    generator: JoinHandle<()>,
}

/// The end of a [`Load`].
#[derive(Debug)]
pub struct Report {
    /// Requests sent.
    pub sent: usize,
    /// What went wrong, a line a request.
    pub failures: Vec<String>,
}

impl Load {
    /// Begins to ask for `path`, `rate` times a second, whether or not earlier answers have come.
    pub fn start(client: HttpClient, path: &'static str, rate: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicUsize::new(0));
        let failures = Arc::new(Mutex::new(Vec::new()));
        let generator = tokio::spawn(generate(
            client,
            path,
            rate,
            Arc::clone(&stop),
            Arc::clone(&sent),
            Arc::clone(&failures),
        ));
        Self { stop, sent, failures, generator }
    }

    /// Requests sent so far.
    pub fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }

    /// Stops, waits for the answers that are under way, and reports.
    pub async fn stop(self) -> anyhow::Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        self.generator.await?;
        let failures = std::mem::take(&mut *self.failures.lock().await);
        Ok(Report { sent: self.sent.load(Ordering::Relaxed), failures })
    }
}

async fn generate(
    client: HttpClient,
    path: &'static str,
    rate: u32,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    failures: Arc<Mutex<Vec<String>>>,
) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
    let begun = std::time::Instant::now();
    let mut requests = JoinSet::new();
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        sent.fetch_add(1, Ordering::Relaxed);
        let (client, failures) = (client.clone(), Arc::clone(&failures));
        requests.spawn(async move {
            let at = begun.elapsed();
            let failure = match client.get(path, None).await {
                Ok(answer) if answer.status() == 200 => return,
                Ok(answer) => format!("{at:.1?}: {} {}", answer.status(), answer.text()),
                Err(error) => format!("{at:.1?}: {error:#}"),
            };
            failures.lock().await.push(failure);
        });
        while requests.try_join_next().is_some() {}
    }
    requests.join_all().await;
}

impl Report {
    /// Fails unless every request was answered with 200.
    pub fn assert_clean(&self, what: &str) {
        assert!(
            self.failures.is_empty(),
            "{what}: {} of {} requests failed:\n{}",
            self.failures.len(),
            self.sent,
            self.failures.iter().take(20).cloned().collect::<Vec<_>>().join("\n")
        );
        println!("{what}: {} requests, none failed", self.sent);
    }
}
