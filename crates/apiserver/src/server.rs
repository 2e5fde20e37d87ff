//! The server as a whole: its configuration, start, listeners and end.

use crate::api::Api;
use crate::auth::{MASTERS, user_of_certificate};
use crate::builtin::allocate::Allocator;
use crate::http::handle;
use crate::seam::{Objects, Resource, SchemaSide, UserInfo};
use crate::store::{Event, EventType, File, Store, StoreError, resource_of};
use crate::token::{TokenError, Tokens};
use crate::{gc, namespace, rbac};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use ipnet::Ipv4Net;
use lateen_base::drain;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::TlsAcceptor;

/// How long a client may take to shake hands.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a silent HTTP/2 client is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Streams of one HTTP/2 connection: a control plane holds many watches.
const STREAMS: u32 = 1000;
/// The kinds whose changes the schema side follows.
const SCHEMA_RESOURCES: [Resource<'static>; 3] = [
    Resource::new("apiextensions.k8s.io", "customresourcedefinitions"),
    Resource::new("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
    Resource::new("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
];

/// What the server needs to start.
#[derive(Debug)]
pub struct Config {
    /// The sockets it listens on, already bound.
    pub listeners: Vec<TcpListener>,
    /// The store's file; its folder is made where it does not exist.
    pub store_path: PathBuf,
    /// The serving certificate and those between it and the root, PEM.
    pub certificate_chain: String,
    /// The serving certificate's key, PEM.
    pub private_key: String,
    /// The authority of client certificates, PEM; without one, only tokens are accepted.
    pub client_ca: Option<String>,
    /// The authority by which clients verify this server, PEM: the content of every `kube-root-ca.crt`.
    pub root_certificates: String,
    /// Cluster IPs.
    pub service_range: Ipv4Net,
    /// Node ports.
    pub node_ports: RangeInclusive<u16>,
    /// Where Pods reach this server: the endpoint of `kubernetes.default`.
    pub advertised: Option<SocketAddr>,
    /// The node's Unix socket, which is asked for logs and for connections to ports inside Pods.
    pub node_socket: Option<PathBuf>,
    /// Groups whose members may do everything.
    pub admin_groups: Vec<String>,
    /// How long an Event is kept.
    pub event_lifetime: Duration,
}

impl Config {
    /// A configuration with the usual ranges.
    pub fn new(
        listeners: Vec<TcpListener>,
        store_path: PathBuf,
        certificate_chain: String,
        private_key: String,
    ) -> Config {
        Config {
            listeners,
            store_path,
            certificate_chain,
            private_key,
            client_ca: None,
            root_certificates: String::new(),
            service_range: Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 96, 0, 0), 16),
            node_ports: 30000..=32767,
            advertised: None,
            node_socket: None,
            admin_groups: vec![MASTERS.to_owned()],
            event_lifetime: Duration::from_secs(3600),
        }
    }
}

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store.
    #[error("cannot open the store {}: {error}", path.display())]
    Store {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        error: StoreError,
    },
    /// The key of the tokens.
    #[error(transparent)]
    Tokens(#[from] TokenError),
    /// Certificates or keys.
    #[error("the {what} cannot be used: {error}")]
    Tls {
        /// Which.
        what: &'static str,
        /// What is wrong.
        error: String,
    },
    /// A listener.
    #[error("a listener cannot be used: {0}")]
    Listener(#[from] std::io::Error),
    /// The objects every cluster has.
    #[error("the first objects cannot be written: {0}")]
    Bootstrap(crate::status::Status),
}

/// The running server. It ends when the drain begins: requests under way are answered, watches end.
pub struct ApiServer {
    addresses: Vec<SocketAddr>,
    // Not the `Api`, which holds the drain's watch: that must go when the last request has ended.
    store: Store,
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ApiServer").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl ApiServer {
    /// Opens the store, writes what every cluster has, and serves. When this returns, requests are answered.
    pub async fn start(config: Config, drain: drain::Watch) -> Result<ApiServer, StartError> {
        ApiServer::start_with(config, drain, |objects| Arc::new(crate::schema::Schemas::new(objects))).await
    }

    /// [`ApiServer::start`] with a schema side of one's own.
    pub(crate) async fn start_with(
        config: Config,
        drain: drain::Watch,
        schema: impl FnOnce(Arc<dyn Objects>) -> Arc<dyn SchemaSide>,
    ) -> Result<ApiServer, StartError> {
        let acceptor = TlsAcceptor::from(Arc::new(tls(&config)?));
        let path = config.store_path.clone();
        let store = tokio::task::spawn_blocking(move || Store::open(File::new(path)))
            .await
            .map_err(|error| StartError::Listener(std::io::Error::other(error)))?
            .map_err(|error| StartError::Store { path: config.store_path.clone(), error })?;
        let schema = schema(store.objects());
        follow_schemas(&store, &schema);
        let tokens = Tokens::open(&store).await?;
        let allocator = Allocator::new(store.clone(), config.service_range, config.node_ports.clone());
        let api = Arc::new(Api::new(
            store,
            schema,
            tokens,
            allocator,
            config.admin_groups.clone(),
            config.node_socket.clone(),
            config.root_certificates.clone(),
            drain.clone(),
        ));
        namespace::bootstrap(&api, config.advertised).await.map_err(StartError::Bootstrap)?;
        rbac::bootstrap(&api).await.map_err(StartError::Bootstrap)?;
        tokio::spawn(namespace::run(api.clone(), config.event_lifetime));
        tokio::spawn(rbac::run(api.clone()));
        tokio::spawn(gc::run(api.clone()));
        let mut addresses = Vec::new();
        for listener in config.listeners {
            listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(listener)?;
            addresses.push(listener.local_addr()?);
            tokio::spawn(accept(api.clone(), listener, acceptor.clone(), drain.clone()));
        }
        tracing::info!(?addresses, store = %config.store_path.display(), "the API server is ready");
        Ok(ApiServer { addresses, store: api.store.clone() })
    }

    /// The addresses it listens on.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Forgets all changes so far, so that watches from before must list again.
    pub fn compact(&self) {
        self.store.compact();
    }

    /// Reading access to the objects, for what runs in the same process.
    pub fn objects(&self) -> Arc<dyn Objects> {
        Arc::new(self.store.clone())
    }
}

/// Tells the schema side of the definitions that exist, and of every change before it is acknowledged.
fn follow_schemas(store: &Store, schema: &Arc<dyn SchemaSide>) {
    for resource in SCHEMA_RESOURCES {
        for object in store.list(resource, None) {
            schema.changed(resource, None, Some(&object));
        }
    }
    let schema = schema.clone();
    store.observe(Box::new(move |event: &Event| {
        let resource = resource_of(&event.table);
        if SCHEMA_RESOURCES.contains(&resource) {
            let old = event.previous.as_ref().map(|stored| &*stored.value);
            let new = (event.event_type != EventType::Deleted).then_some(&*event.object.value);
            schema.changed(resource, old, new);
        }
    }));
}

fn tls(config: &Config) -> Result<rustls::ServerConfig, StartError> {
    let failed = |what: &'static str| {
        move |error: &dyn std::fmt::Display| StartError::Tls { what, error: error.to_string() }
    };
    let certificates = |what: &'static str, pem: &str| -> Result<Vec<CertificateDer<'static>>, StartError> {
        let list: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
        let list = list.map_err(|error| failed(what)(&error))?;
        if list.is_empty() { Err(failed(what)(&"it holds no certificate")) } else { Ok(list) }
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| failed("TLS configuration")(&error))?;
    let builder = match &config.client_ca {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let mut roots = rustls::RootCertStore::empty();
            for certificate in certificates("client authority", pem)? {
                roots.add(certificate).map_err(|error| failed("client authority")(&error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .map_err(|error| failed("client authority")(&error))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let chain = certificates("serving certificate", &config.certificate_chain)?;
    let key = PrivateKeyDer::from_pem_slice(config.private_key.as_bytes())
        .map_err(|error| failed("serving key")(&error))?;
    let mut tls =
        builder.with_single_cert(chain, key).map_err(|error| failed("serving certificate")(&error))?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(tls)
}

async fn accept(
    api: Arc<Api>,
    listener: tokio::net::TcpListener,
    acceptor: TlsAcceptor,
    drain: drain::Watch,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.signaled() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (api, acceptor, drain) = (api.clone(), acceptor.clone(), drain.clone());
                tokio::spawn(async move {
                    if let Err(error) = serve(api, stream, acceptor, drain).await {
                        tracing::debug!(%peer, %error, "a connection ended");
                    }
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: others must be closed first.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(
    api: Arc<Api>,
    stream: tokio::net::TcpStream,
    acceptor: TlsAcceptor,
    drain: drain::Watch,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await??;
    let certificate: Option<Arc<UserInfo>> = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first())
        .and_then(|certificate| user_of_certificate(certificate))
        .map(Arc::new);
    let service = service_fn(move |request| {
        let (api, certificate) = (api.clone(), certificate.clone());
        async move { Ok::<_, Infallible>(handle(api, certificate, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .max_concurrent_streams(STREAMS)
        .adaptive_window(true);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        result = connection.as_mut() => return result,
        () = drain.signaled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

#[cfg(test)]
mod tests;
