//! A server for a test, its certificates, and who talks to it.

#![allow(dead_code)] // Each test uses some of it.
#![allow(clippy::unwrap_used)] // Helpers of tests may panic as tests do.

use lateen_apiserver::{ApiServer, Config, kubeconfig};
use lateen_base::drain;
use lateen_testkit::{Authority, Leaf};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

/// The certificates of a cluster, which outlive its servers.
pub struct Cluster {
    /// Signs all of them.
    pub authority: Authority,
    /// A user with every right.
    pub admin: Leaf,
}

impl Cluster {
    pub fn new() -> Cluster {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let authority = Authority::new("cluster");
        let admin = authority.user("admin", &["system:masters"]);
        Cluster { authority, admin }
    }

    /// The configuration of a server in this folder.
    pub fn config(&self, listener: TcpListener, folder: &Path) -> Config {
        let serving = self.authority.leaf(&["127.0.0.1"]);
        let mut config = Config::new(vec![listener], folder.join("store.redb"), serving.chain, serving.key);
        config.client_ca = Some(self.authority.pem());
        config.root_certificates = self.authority.pem();
        config
    }

    /// Starts a server in this folder.
    pub async fn start(&self, listener: TcpListener, folder: &Path) -> (ApiServer, drain::Trigger) {
        let (trigger, watch) = drain::channel();
        (ApiServer::start(self.config(listener, folder), watch).await.unwrap(), trigger)
    }

    /// What `kubectl` reads.
    pub fn kubeconfig(&self, address: SocketAddr) -> String {
        kubeconfig::render(
            &format!("https://{address}"),
            &self.authority.pem(),
            &self.admin.chain,
            &self.admin.key,
        )
    }

    /// A client, which shows every error instead of waiting it out.
    pub async fn client(&self, address: SocketAddr) -> kube::Client {
        client(&self.kubeconfig(address)).await
    }
}

/// The client of a kubeconfig.
pub async fn client(kubeconfig: &str) -> kube::Client {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let config = kube::config::Kubeconfig::from_yaml(kubeconfig).unwrap();
    let mut config = kube::Config::from_custom_kubeconfig(config, &Default::default()).await.unwrap();
    config.default_retry = false;
    kube::Client::try_from(config).unwrap()
}

/// A port of this machine.
pub fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}
