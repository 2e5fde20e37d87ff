//! The API server alone, for tests that drive it with `kubectl`.
//!
//! `apiserver FOLDER` keeps its objects, certificates and a `kubeconfig` in FOLDER, listens on a free port of
//! 127.0.0.1, prints `ready https://127.0.0.1:PORT` when it serves, and ends at SIGTERM or SIGINT. An optional second
//! argument names the node's socket for logs.

#![allow(clippy::print_stdout)]

use lateen_apiserver::{ApiServer, Config, kubeconfig};
use lateen_base::drain;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};
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

    let mut parameters = CertificateParams::new(Vec::new())?;
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    let root = parameters.self_signed(&key)?.pem();
    let issuer = Issuer::new(parameters, key);
    let (chain, private_key) = issue(&issuer, "apiserver", "lateen", &["127.0.0.1", "localhost"])?;
    let (certificate, key) = issue(&issuer, "admin", "system:masters", &[])?;

    let mut config = Config::new(vec![listener], folder.join("store.redb"), chain, private_key);
    config.client_ca = Some(root.clone());
    config.root_certificates = root.clone();
    config.advertised = Some(server.trim_start_matches("https://").parse()?);
    config.node_socket = arguments.next().map(PathBuf::from);
    let (trigger, watch) = drain::channel();
    let running = ApiServer::start(config, watch).await?;

    let text = kubeconfig::render(&server, &root, &certificate, &key);
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

fn issue(
    issuer: &Issuer<'_, KeyPair>,
    name: &str,
    group: &str,
    hosts: &[&str],
) -> Result<(String, String), Error> {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut parameters = CertificateParams::new(hosts)?;
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.distinguished_name.push(DnType::OrganizationName, group);
    let key = KeyPair::generate()?;
    Ok((parameters.signed_by(&key, issuer)?.pem(), key.serialize_pem()))
}
