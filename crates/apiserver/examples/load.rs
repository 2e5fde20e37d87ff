//! The API server under load: writes at a fixed rate, watchers spread over namespaces, and some that do not read.
//!
//! `load [--writes PER-SECOND] [--watchers N] [--namespaces N] [--seconds N]` starts a server in a process of its own,
//! drives it over TLS, and prints a table. `make bench-api` runs it.

#![allow(clippy::print_stdout, clippy::print_stderr)] // The table, and how far it is.

use futures::StreamExt;
use lateen_apiserver::{ApiServer, Config};
use lateen_base::drain;
use lateen_testkit::Authority;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Watches of one client. Over HTTP/1.1, which this client speaks, each has a connection nevertheless.
const PER_CONNECTION: usize = 100;
/// Objects of a namespace that are written again and again.
const OBJECTS: usize = 10;
/// Watchers that never read.
const SLOW: usize = 5;
const MARK: &[u8] = b"\"at\":\"";

struct Load {
    writes: u64,
    watchers: usize,
    namespaces: usize,
    seconds: u64,
}

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if let [first, folder] = arguments.as_slice()
        && first == "serve"
    {
        return runtime.block_on(serve(Path::new(folder)));
    }
    let number = |name: &str, otherwise: u64| -> Result<u64, Error> {
        match arguments.iter().position(|argument| argument == name) {
            Some(at) => Ok(arguments.get(at + 1).ok_or("a number is missing")?.parse()?),
            None => Ok(otherwise),
        }
    };
    let load = Load {
        writes: number("--writes", 1000)?,
        watchers: usize::try_from(number("--watchers", 1000)?)?,
        namespaces: usize::try_from(number("--namespaces", 100)?)?,
        seconds: number("--seconds", 10)?,
    };
    let folder = std::env::temp_dir().join(format!("lateen-load-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let result = runtime.block_on(drive(&folder, &load));
    std::fs::remove_dir_all(&folder)?;
    result
}

async fn serve(folder: &Path) -> Result<(), Error> {
    let read = |name: &str| std::fs::read_to_string(folder.join(name));
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let mut config =
        Config::new(vec![listener], folder.join("store.redb"), read("chain.pem")?, read("key.pem")?);
    config.client_ca = Some(read("root.pem")?);
    let (_trigger, watch) = drain::channel();
    let _server = ApiServer::start(config, watch).await?;
    println!("{address}");
    std::future::pending::<()>().await;
    Ok(())
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(0))
}

/// Microseconds of processor time and bytes of memory of a process.
fn cost(pid: u32) -> Option<(u64, u64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some((ticks * 10_000, kilobytes << 10))
}

#[derive(Default)]
struct Measured {
    events: AtomicU64,
    expired: AtomicU64,
    writes: Mutex<Vec<u64>>,
    delays: Mutex<Vec<u64>>,
    failed: AtomicU64,
}

async fn drive(folder: &Path, load: &Load) -> Result<(), Error> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let authority = Authority::new("lateen");
    let root = authority.pem();
    let serving = authority.leaf(&["127.0.0.1"]);
    for (name, text) in [("root.pem", &root), ("chain.pem", &serving.chain), ("key.pem", &serving.key)] {
        std::fs::write(folder.join(name), text)?;
    }
    let identity = authority.user("admin", &["system:masters"]).identity();
    let client = || -> Result<reqwest::Client, Error> {
        Ok(reqwest::Client::builder()
            .tls_certs_only([reqwest::Certificate::from_pem(root.as_bytes())?])
            .identity(reqwest::Identity::from_pem(identity.as_bytes())?)
            .no_proxy()
            .build()?)
    };
    let mut server =
        Command::new(std::env::current_exe()?).arg("serve").arg(folder).stdout(Stdio::piped()).spawn()?;
    let mut address = String::new();
    let out = server.stdout.take().ok_or("no output")?;
    BufReader::new(out).read_line(&mut address)?;
    let base = format!("https://{}", address.trim());
    let result = run(&base, server.id(), client, load).await;
    server.kill()?;
    server.wait()?;
    result
}

async fn run(
    base: &str,
    pid: u32,
    client: impl Fn() -> Result<reqwest::Client, Error>,
    load: &Load,
) -> Result<(), Error> {
    let measured = Arc::new(Measured::default());
    let writer = client()?;
    let body =
        |name: &str| json!({"metadata": {"name": name}, "data": {"at": "0", "text": "x".repeat(1500)}});
    for namespace in 0..load.namespaces {
        post(
            &writer,
            &format!("{base}/api/v1/namespaces"),
            &json!({"metadata": {"name": format!("n{namespace}")}}),
        )
        .await?;
    }
    futures::stream::iter(0..load.namespaces * OBJECTS)
        .map(|index| {
            let path = format!("{base}/api/v1/namespaces/n{}/configmaps", index % load.namespaces);
            let (writer, body) = (writer.clone(), body(&format!("m{}", index / load.namespaces)));
            async move { post(&writer, &path, &body).await }
        })
        .buffer_unordered(32)
        .collect::<Vec<_>>()
        .await
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    eprintln!("{} objects in {} namespaces are there", load.namespaces * OBJECTS, load.namespaces);
    let mut connection = client()?;
    for index in 0..load.watchers {
        if index % PER_CONNECTION == 0 {
            connection = client()?;
        }
        let path = format!("{base}/api/v1/namespaces/n{}/configmaps", index % load.namespaces);
        let revision = revision(&connection, &path).await?;
        let response = connection.get(format!("{path}?watch=1&resourceVersion={revision}")).send().await?;
        tokio::spawn(follow(response, measured.clone()));
    }
    eprintln!("{} watchers are there", load.watchers);
    let mut slow = Vec::new();
    for _ in 0..SLOW {
        // A connection of its own: a window that is full holds up nobody else.
        slow.push(client()?.get(format!("{base}/api/v1/configmaps?watch=1")).send().await?);
    }
    let before = cost(pid).ok_or("the server is gone")?;
    let began = Instant::now();
    let total = load.writes * load.seconds;
    let mut tick = tokio::time::interval(Duration::from_micros(1_000_000 / load.writes));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let permits = Arc::new(tokio::sync::Semaphore::new(256));
    for count in 0..total {
        tick.tick().await;
        let index = usize::try_from(count)?;
        let (namespace, object) = (index % load.namespaces, index / load.namespaces % OBJECTS);
        let path = format!("{base}/api/v1/namespaces/n{namespace}/configmaps/m{object}");
        let (writer, measured) = (writer.clone(), measured.clone());
        let permit = permits.clone().acquire_owned().await?;
        tokio::spawn(async move {
            let start = Instant::now();
            let sent = writer
                .patch(path)
                .header("content-type", "application/merge-patch+json")
                .body(json!({"data": {"at": now().to_string()}}).to_string())
                .send()
                .await;
            let good = match sent {
                Ok(response) if response.status().is_success() => response.bytes().await.is_ok(),
                _ => false,
            };
            drop(permit);
            if good {
                let elapsed = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
                measured.writes.lock().unwrap_or_else(|lock| lock.into_inner()).push(elapsed);
            } else {
                measured.failed.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let _ = permits.acquire_many(256).await?;
    let took = began.elapsed();
    eprintln!("all is written");
    let expect = total * u64::try_from(load.watchers / load.namespaces)?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while measured.events.load(Ordering::Relaxed) < expect && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let delivered = began.elapsed();
    let after = cost(pid).ok_or("the server is gone")?;
    eprintln!("all is delivered, or late");
    // Who reads at last is told that it is too late.
    let told = futures::future::join_all(slow.into_iter().map(|mut response| async move {
        let all = async {
            // The end of one chunk and the beginning of the next, where the word may be split.
            let mut tail = Vec::new();
            while let Ok(Some(chunk)) = response.chunk().await {
                tail.extend_from_slice(&chunk);
                if String::from_utf8_lossy(&tail).contains("\"code\":410") {
                    return true;
                }
                tail.drain(..tail.len().saturating_sub(32));
            }
            false
        };
        tokio::time::timeout(Duration::from_secs(10), all).await.unwrap_or(false)
    }));
    let told = told.await.into_iter().map(u64::from).sum();
    print(load, &measured, expect, took, delivered, before, after, told);
    Ok(())
}

#[allow(clippy::too_many_arguments)]
fn print(
    load: &Load,
    measured: &Measured,
    expect: u64,
    took: Duration,
    delivered: Duration,
    before: (u64, u64),
    after: (u64, u64),
    told: u64,
) {
    let spread = |list: &Mutex<Vec<u64>>| -> String {
        let mut list = list.lock().unwrap_or_else(|lock| lock.into_inner()).clone();
        list.sort_unstable();
        let at = |part: f64| {
            list.get(((list.len() as f64) * part) as usize).map_or(0.0, |micros| *micros as f64 / 1e3)
        };
        format!("{:.1} / {:.1} / {:.1} ms", at(0.5), at(0.99), at(0.999))
    };
    let writes = measured.writes.lock().unwrap_or_else(|lock| lock.into_inner()).len();
    let events = measured.events.load(Ordering::Relaxed);
    let rows = [
        ("watchers, namespaces", format!("{}, {}", load.watchers, load.namespaces)),
        ("writes acknowledged a second", format!("{:.0}", writes as f64 / took.as_secs_f64())),
        ("writes failed", measured.failed.load(Ordering::Relaxed).to_string()),
        ("write, 50 / 99 / 99.9 %", spread(&measured.writes)),
        ("events delivered a second", format!("{:.0}", events as f64 / delivered.as_secs_f64())),
        ("events delivered, of", format!("{events}, {expect}")),
        ("from write to watcher, 50 / 99 / 99.9 %", spread(&measured.delays)),
        ("watchers that were told 410 unasked", measured.expired.load(Ordering::Relaxed).to_string()),
        ("slow watchers that were told 410, of", format!("{told}, {SLOW}")),
        (
            "processor of the server",
            format!("{:.2} cores", (after.0 - before.0) as f64 / 1e6 / delivered.as_secs_f64()),
        ),
        (
            "processor of the server for a write and its events",
            format!("{:.0} us", (after.0 - before.0) as f64 / writes.max(1) as f64),
        ),
        ("memory of the server, before and after", format!("{} MB, {} MB", before.1 >> 20, after.1 >> 20)),
    ];
    println!("| what | value |\n|---|---:|");
    for (what, value) in rows {
        println!("| {what} | {value} |");
    }
}

async fn post(client: &reqwest::Client, path: &str, body: &Value) -> Result<(), Error> {
    let response =
        client.post(path).header("content-type", "application/json").body(body.to_string()).send().await?;
    match response.status().is_success() {
        true => Ok(()),
        false => Err(response.text().await?.into()),
    }
}

async fn revision(client: &reqwest::Client, path: &str) -> Result<String, Error> {
    let text = client.get(format!("{path}?limit=1")).send().await?.text().await?;
    let list: Value = serde_json::from_str(&text)?;
    Ok(list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned())
}

/// Reads a watch, and measures how old what it brings is.
async fn follow(mut response: reqwest::Response, measured: Arc<Measured>) {
    let mut rest: Vec<u8> = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        rest.extend_from_slice(&chunk);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            if line.starts_with(b"{\"type\":\"ERROR\"") {
                measured.expired.fetch_add(1, Ordering::Relaxed);
                return;
            }
            let Some(at) = line.windows(MARK.len()).position(|window| window == MARK) else { continue };
            let digits = line[at + MARK.len()..].iter().take_while(|byte| byte.is_ascii_digit());
            let written = digits.fold(0_u64, |number, digit| number * 10 + u64::from(digit - b'0'));
            measured.events.fetch_add(1, Ordering::Relaxed);
            let delay = now().saturating_sub(written);
            measured.delays.lock().unwrap_or_else(|lock| lock.into_inner()).push(delay);
        }
    }
}
