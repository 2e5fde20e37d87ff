//! The API server alone, for tests that drive it with `kubectl`.
//!
//! `apiserver FOLDER` keeps its objects, certificates and a `kubeconfig` in FOLDER, listens on a free port of
//! 127.0.0.1, prints `ready https://127.0.0.1:PORT` when it serves, and ends at SIGTERM or SIGINT. An optional second
//! argument names the node's socket for logs.

#![allow(clippy::print_stdout)]

use lateen_apiserver::{ApiServer, Config, kubeconfig};
use lateen_base::drain;
use lateen_testkit::Authority;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

type Error = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let mut arguments = std::env::args_os().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("usage: apiserver FOLDER [NODE-SOCKET]")?);
    std::fs::create_dir_all(&folder)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let server = format!("https://{}", listener.local_addr()?);

    let authority = Authority::new("lateen");
    let root = authority.pem();
    let serving = authority.leaf(&["127.0.0.1", "localhost"]);
    let admin = authority.user("admin", &["system:masters"]);

    let mut config = Config::new(vec![listener], folder.join("store.redb"), serving.chain, serving.key);
    config.client_ca = Some(root.clone());
    config.root_certificates = root.clone();
    config.advertised = Some(server.trim_start_matches("https://").parse()?);
    config.node_socket = arguments.next().map(PathBuf::from);
    let (trigger, watch) = drain::channel();
    let running = ApiServer::start(config, watch).await?;

    let text = kubeconfig::render(&server, &root, &admin.chain, &admin.key);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(folder.join("kubeconfig"))?;
    file.write_all(text.as_bytes())?;
    println!("ready {server}");
    drain::termination_signal().await?;
    drop(running);
    trigger.drain(Duration::from_secs(10)).await;
    Ok(())
}
