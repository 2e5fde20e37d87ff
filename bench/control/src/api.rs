//! The embedded API server as a process of its own: the cluster that the control plane works with.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use kube::config::{KubeConfigOptions, Kubeconfig};
use lateen_apiserver::{ApiServer, Config, kubeconfig};
use lateen_base::drain;
use lateen_base::paths::write_atomically;
use lateen_citadel::root::SelfSignedRoot;
use tokio::process::{Child, Command};

/// Serves until SIGTERM.
pub async fn serve(folder: &Path) -> anyhow::Result<()> {
    let root = SelfSignedRoot::load_or_create(folder)?;
    let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let listener = TcpListener::bind((local, 0))?;
    let address: SocketAddr = listener.local_addr()?;
    let serving = root.issue_server(&["localhost"], &[local])?;
    let mut config = Config::new(vec![listener], folder.join("store.redb"), serving.certificate, serving.key);
    config.client_ca = Some(root.certificate().to_owned());
    config.root_certificates = root.certificate().to_owned();
    config.advertised = Some(address);
    let (trigger, watch) = drain::channel();
    let running = ApiServer::start(config, watch).await?;
    let admin = root.issue_client("admin", &["system:masters"])?;
    let text =
        kubeconfig::render(&format!("https://{address}"), root.certificate(), &admin.certificate, &admin.key);
    write_atomically(&kubeconfig_path(folder), text.as_bytes(), 0o600)?;
    drain::termination_signal().await?;
    drop(running);
    trigger.drain(Duration::from_secs(1)).await;
    Ok(())
}

fn kubeconfig_path(folder: &Path) -> PathBuf {
    folder.join("kubeconfig")
}

/// The process, which ends with this value.
pub struct Api {
    _process: Child,
    /// How to reach it.
    pub kubeconfig: PathBuf,
    /// A client that may do everything.
    pub client: kube::Client,
}

impl Api {
    /// Starts it and waits until it serves.
    pub async fn start(folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let process = Command::new(std::env::current_exe()?)
            .arg("api")
            .arg(folder)
            .stdout(std::fs::File::create(folder.join("log"))?)
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the API server")?;
        let kubeconfig = kubeconfig_path(folder);
        for _ in 0..600 {
            if kubeconfig.exists() {
                let config = Kubeconfig::read_from(&kubeconfig)?;
                let config =
                    kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
                let client = kube::Client::try_from(config)?;
                return Ok(Self { _process: process, kubeconfig, client });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::bail!("the API server does not start; see {}", folder.join("log").display())
    }
}
