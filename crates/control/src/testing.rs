//! A real API server on a free port, for tests of what talks to one.

use std::net::TcpListener;

use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use lateen_apiserver::{ApiServer, Config, kubeconfig};
use lateen_base::drain;
use lateen_citadel::root::SelfSignedRoot;

/// A running API server; dropping it ends it.
pub(crate) struct Api {
    pub(crate) client: Client,
    /// With every right.
    pub(crate) kubeconfig: String,
    _server: ApiServer,
    _trigger: drain::Trigger,
    _folder: tempfile::TempDir,
}

/// Starts one, empty.
pub(crate) async fn api() -> Api {
    lateen_identity::tls::install_provider();
    let folder = tempfile::tempdir().unwrap();
    let root = SelfSignedRoot::load_or_create(folder.path()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serving = root.issue_server(&["localhost"], &[address.ip()]).unwrap();
    let mut config =
        Config::new(vec![listener], folder.path().join("store.redb"), serving.certificate, serving.key);
    config.client_ca = Some(root.certificate().to_owned());
    config.root_certificates = root.certificate().to_owned();
    let (trigger, watch) = drain::channel();
    let server = ApiServer::start(config, watch).await.unwrap();
    let admin = root.issue_client("admin", &["system:masters"]).unwrap();
    let text =
        kubeconfig::render(&format!("https://{address}"), root.certificate(), &admin.certificate, &admin.key);
    let options = KubeConfigOptions::default();
    let config =
        kube::Config::from_custom_kubeconfig(Kubeconfig::from_yaml(&text).unwrap(), &options).await.unwrap();
    let client = Client::try_from(config).unwrap();
    Api { client, kubeconfig: text, _server: server, _trigger: trigger, _folder: folder }
}
