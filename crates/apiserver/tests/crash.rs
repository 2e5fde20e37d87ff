//! What was acknowledged over HTTP survives: a server that is killed again and again, and a disk that is full.
//!
//! The server runs in a child process, which is this test's own executable started with [`FOLDER`] set.

#![allow(clippy::unwrap_used)] // Helpers of tests may panic as tests do.
#![allow(clippy::print_stdout)] // The child says where it listens; what was skipped.

mod support;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, Patch, PatchParams, PostParams};
use lateen_apiserver::{ApiServer, Config};
use lateen_base::drain;
use rand::Rng;
use serde_json::json;
use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::Cluster;

const FOLDER: &str = "LATEEN_APISERVER_CRASH";
const READY: &str = "serving at ";
const PATIENCE: Duration = Duration::from_secs(30);
const ROUNDS: usize = 4;
const LANES: usize = 6;

/// The child: serves from a folder until it is killed.
#[test]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let folder = Path::new(&folder);
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut config =
            Config::new(vec![listener], folder.join("store/store.redb"), read("chain.pem"), read("key.pem"));
        config.client_ca = Some(read("root.pem"));
        let (_trigger, watch) = drain::channel();
        let _server = ApiServer::start(config, watch).await.unwrap();
        println!("\n{READY}{address}");
        std::future::pending::<()>().await;
    });
}

/// Writes the certificates of a server into a folder.
fn certificates(folder: &Path) -> Cluster {
    let cluster = Cluster::new();
    let serving = cluster.authority.leaf(&["127.0.0.1"]);
    for (name, text) in
        [("root.pem", &cluster.authority.pem()), ("chain.pem", &serving.chain), ("key.pem", &serving.key)]
    {
        std::fs::write(folder.join(name), text).unwrap();
    }
    cluster
}

/// Starts the server; answers with it and its address.
fn start(folder: &Path) -> (Child, String) {
    // A write beyond the limit of a file's size is to be an error, not a signal that ends the process.
    let mut child = Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$0\" child --exact --nocapture --test-threads=1"])
        .arg(std::env::current_exe().unwrap())
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address = loop {
        let line = lines.next().expect("the server says where it listens").unwrap();
        if let Some(address) = line.strip_prefix(READY) {
            break address.to_owned();
        }
    };
    // The pipe must not fill up.
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
    (child, address)
}

async fn maps(address: &str, cluster: &Cluster) -> Api<ConfigMap> {
    Api::default_namespaced(cluster.client(address.parse().unwrap()).await)
}

fn map(name: &str, value: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": {"value": value}})).unwrap()
}

fn value(map: &ConfigMap) -> &str {
    map.data.as_ref().and_then(|data| data.get("value")).map(String::as_str).unwrap_or_default()
}

type Acknowledged = Arc<Mutex<HashMap<String, u64>>>;

/// Writes one count after the other until the server is gone.
async fn lane(maps: Api<ConfigMap>, name: String, acknowledged: Acknowledged) {
    let next = acknowledged.lock().unwrap().get(&name).map_or(0, |last| last + 1);
    for count in next.. {
        let body = json!({"data": {"value": count.to_string()}});
        let written = match count {
            0 => maps.create(&PostParams::default(), &map(&name, "0")).await.map(drop),
            _ => maps.patch(&name, &PatchParams::default(), &Patch::Merge(&body)).await.map(drop),
        };
        match written {
            Ok(()) => drop(acknowledged.lock().unwrap().insert(name.clone(), count)),
            // Created, but not acknowledged, when the server was last killed.
            Err(kube::Error::Api(status)) if status.code == 409 && count == 0 => {}
            Err(_) => return,
        }
    }
}

#[test]
fn kill_9_at_any_moment_loses_nothing_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let credentials = certificates(folder.path());
    let acknowledged: Acknowledged = Arc::default();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for round in 0..=ROUNDS {
        let (mut child, address) = start(folder.path());
        let maps = runtime.block_on(maps(&address, &credentials));
        runtime.block_on(async {
            let expect = acknowledged.lock().unwrap().clone();
            for (name, count) in expect {
                let found =
                    maps.get(&name).await.unwrap_or_else(|error| panic!("round {round}, {name}: {error}"));
                let found: u64 = value(&found).parse().unwrap();
                assert!(found >= count, "round {round}, {name}: {found} after {count} was acknowledged");
                assert!(found <= count + 1, "round {round}, {name}: {found} was never asked for");
            }
        });
        if round < ROUNDS {
            let lanes = (0..LANES).map(|lane_number| {
                let name = format!("lane-{lane_number}");
                runtime.spawn(lane(maps.clone(), name, acknowledged.clone()))
            });
            let lanes: Vec<_> = lanes.collect();
            // Not before something has been written, then at any moment.
            let before: u64 = acknowledged.lock().unwrap().values().sum();
            let deadline = Instant::now() + PATIENCE;
            while acknowledged.lock().unwrap().values().sum::<u64>() < before + 20 {
                assert!(Instant::now() < deadline, "nothing is written");
                std::thread::sleep(Duration::from_millis(5));
            }
            std::thread::sleep(Duration::from_millis(rand::rng().random_range(0..120)));
            child.kill().unwrap();
            child.wait().unwrap();
            runtime.block_on(async {
                for lane in lanes {
                    tokio::time::timeout(PATIENCE, lane).await.expect("a lane ends").unwrap();
                }
            });
        }
        let _ = child.kill();
        child.wait().unwrap();
    }
    assert_eq!(acknowledged.lock().unwrap().len(), LANES);
}

fn limit(child: &Child, bytes: &str) -> bool {
    let line = [format!("--pid={}", child.id()), format!("--fsize={bytes}:unlimited")];
    Command::new("prlimit").args(line).status().is_ok_and(|status| status.success())
}

#[test]
fn a_full_disk_refuses_writes_keeps_reading_and_recovers() {
    let folder = tempfile::tempdir().unwrap();
    let credentials = certificates(folder.path());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (mut child, address) = start(folder.path());
    let size = std::fs::metadata(folder.path().join("store/store.redb")).unwrap().len();
    if !limit(&child, &(size + (4 << 20)).to_string()) {
        println!("prlimit does not work here: the test of a full disk is skipped");
        child.kill().unwrap();
        child.wait().unwrap();
        return;
    }
    let large = "x".repeat(900_000);
    let names = runtime.block_on(async {
        let maps = maps(&address, &credentials).await;
        let mut names = Vec::new();
        let refused = loop {
            let name = format!("large-{}", names.len());
            match maps.create(&PostParams::default(), &map(&name, &large)).await {
                Ok(_) => names.push(name),
                Err(kube::Error::Api(status)) => break status,
                Err(error) => panic!("{error}"),
            }
            assert!(names.len() < 200, "the disk never fills up");
        };
        assert_eq!(refused.code, 507, "{refused:?}");
        assert!(refused.message.contains("no room left for the store"), "{refused:?}");
        // What is there is still read, and more is still refused.
        for name in &names {
            assert_eq!(value(&maps.get(name).await.unwrap()).len(), large.len(), "{name}");
        }
        let again = maps.create(&PostParams::default(), &map("again", &large)).await;
        assert!(matches!(again, Err(kube::Error::Api(status)) if status.code >= 500));
        assert!(limit(&child, "unlimited"));
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = maps.create(&PostParams::default(), &map("after", &large)).await {
            assert!(Instant::now() < deadline, "it never recovers: {error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        names.push("after".to_owned());
        names
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let (mut child, address) = start(folder.path());
    runtime.block_on(async {
        let maps = maps(&address, &credentials).await;
        for name in &names {
            assert_eq!(value(&maps.get(name).await.unwrap()).len(), large.len(), "{name}");
        }
        assert!(maps.get("again").await.is_err());
    });
    child.kill().unwrap();
    child.wait().unwrap();
}
