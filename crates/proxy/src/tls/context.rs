//! TLS contexts: what is configured, and the TLS library's configuration of the moment.

use std::sync::{Arc, Weak};

use arc_swap::ArcSwapOption;
use lateen_dataplane::cluster::{Cluster, Host};
use lateen_dataplane::listener::Address;
use lateen_dataplane::tls::{
    CertificateSource, Certificates, CommonTls, DownstreamTls, SecretReference, SecretSource, TicketKeys,
    UpstreamTls, UpstreamTransport, ValidationSource,
};
use lateen_identity::keys::{ClientIdentities, Identity, ServerIdentities};
use lateen_identity::ticket::{Rotating, Ticketer};
use lateen_identity::verify::{Validation, Verifier};
use rustls::client::{ClientSessionMemoryCache, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ProducesTickets, ServerSessionMemoryCache, StoresServerSessions,
};
use rustls::{ClientConfig, NamedGroup, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::inventory::{self, Inventory};
use super::secrets::Dependent;
use super::{Secrets, SslStats, TlsError, material, parameters};

/// Sessions that a server keeps, where it keeps them.
const SERVER_SESSIONS: usize = 1024;
/// Servers whose sessions a client keeps at least, where it keeps any: each address counts as one.
const CLIENT_SERVERS: usize = 64;
/// Tickets that the TLS library keeps for each.
const TICKETS_PER_SERVER: usize = 8;

/// Certificates, each with the path of its file.
type Identities = Vec<(String, Arc<Identity>)>;

/// Under which statistics have certificates that are no secrets: what Envoy makes of an empty name.
const UNNAMED: &str = "unnamed_cert_e3b0c442";
/// Likewise authorities.
const UNNAMED_AUTHORITY: &str = "unnamed_ca_cert_e3b0c442";

/// Shows when certificates end: of several without a name the last one, of authorities the one that ends first.
fn show_expirations(common: &CommonTls, inventory: &Inventory, stats: &SslStats, secrets: &Secrets) {
    let names: &[SecretReference] = match &common.certificates {
        Certificates::Discovered(references) => references,
        Certificates::Inline(_) => &[],
    };
    for (at, (_, details)) in inventory.own.iter().enumerate() {
        let name = names.get(at).map_or(UNNAMED, |reference| &reference.name);
        stats.expires(&secrets.shard, name, details.not_after);
    }
    if let Some(first) = inventory.trusted.iter().map(|(_, details)| details.not_after).min() {
        let name = common.validation.secret.as_ref().map_or(UNNAMED_AUTHORITY, |secret| &secret.name);
        stats.expires(&secrets.shard, name, first);
    }
}

/// The certificates of a context; none where a secret is missing.
fn identities(
    common: &CommonTls,
    secrets: &Secrets,
    provider: &CryptoProvider,
) -> Result<Option<Identities>, TlsError> {
    let sources = match &common.certificates {
        Certificates::Inline(sources) => sources.clone(),
        Certificates::Discovered(references) => {
            let found: Option<Vec<_>> =
                references.iter().map(|reference| secrets.certificate(reference)).collect();
            match found {
                Some(sources) => sources,
                None => return Ok(None),
            }
        }
    };
    let read = |source: &CertificateSource| {
        Ok((inventory::path(&source.chain), material::identity(source, provider)?))
    };
    sources.iter().map(read).collect::<Result<_, _>>().map(Some)
}

/// What there is to show of a context.
fn inventory(
    identities: &[(String, Arc<Identity>)],
    source: Option<&ValidationSource>,
    validation: &Validation,
) -> Inventory {
    let mut inventory = Inventory::default();
    let trusted = source.and_then(|source| source.trusted.as_ref());
    let path = trusted.map_or_else(String::new, inventory::path);
    inventory.trust(&path, validation.trusted.as_deref().unwrap_or_default());
    inventory.own =
        identities.iter().map(|(path, identity)| (path.clone(), identity.details.clone())).collect();
    inventory
}

/// What is asked of the other end: outer none where a secret is missing, inner none where nothing is said.
fn validation_source(common: &CommonTls, secrets: &Secrets) -> Option<Option<ValidationSource>> {
    let Some(reference) = &common.validation.secret else { return Some(common.validation.context.clone()) };
    let secret = secrets.validation(reference)?;
    Some(Some(match &common.validation.context {
        Some(context) => context.merged(&secret),
        None => secret,
    }))
}

/// Secrets of the bootstrap are there or never come.
fn check_static<'a>(
    references: impl Iterator<Item = &'a SecretReference>,
    secrets: &Secrets,
) -> Result<(), TlsError> {
    for reference in references {
        if reference.source == SecretSource::Static && !secrets.has(reference) {
            let reason = format!("there is no static secret `{}`", reference.name);
            return Err(TlsError::Pem { what: "static_resources.secrets", reason });
        }
    }
    Ok(())
}

// === Server ===

/// The TLS of a filter chain.
#[derive(Debug)]
pub struct ServerContext {
    config: Arc<DownstreamTls>,
    ready: ArcSwapOption<ServerReady>,
    /// Its counters.
    pub stats: SslStats,
}

/// A server's configuration of the moment.
#[derive(Debug)]
pub(super) struct ServerReady {
    all: Variant,
    /// By the one group that each takes, in our order: the TLS library would go by the client's.
    by_group: Vec<GroupVariant>,
    pub(super) identities: Arc<ServerIdentities>,
    pub(super) inventory: Inventory,
    pub(super) verifies: bool,
}

/// The TLS library's configurations that differ in nothing but what may be negotiated.
#[derive(Debug, Clone)]
struct Variant {
    with_protocols: Arc<ServerConfig>,
    /// For clients none of whose protocols is ours: Envoy goes on without one, the TLS library would end it.
    without_protocols: Arc<ServerConfig>,
}

/// The configuration for one group.
#[derive(Debug)]
struct GroupVariant {
    group: NamedGroup,
    /// The group exists in TLS 1.3 alone.
    new_only: bool,
    variant: Variant,
}

impl ServerReady {
    /// The configuration for a client.
    pub(super) fn config(&self, hello: &ClientHello<'_>) -> &Arc<ServerConfig> {
        let new = || {
            hello.cipher_suites().iter().any(|offered| {
                provider_suites(&self.all).any(|own| own.suite() == *offered && own.tls13().is_some())
            })
        };
        let groups = hello.named_groups().unwrap_or_default();
        let usable = |own: &&GroupVariant| groups.contains(&own.group) && (!own.new_only || new());
        let own = self.by_group.iter().find(usable);
        let variant = own.map_or(&self.all, |own| &own.variant);
        let ours = &self.all.with_protocols.alpn_protocols;
        let common = hello
            .alpn()
            .is_some_and(|mut offered| offered.any(|protocol| ours.iter().any(|own| own == protocol)));
        if common { &variant.with_protocols } else { &variant.without_protocols }
    }
}

fn provider_suites(variant: &Variant) -> impl Iterator<Item = &rustls::SupportedCipherSuite> {
    variant.with_protocols.crypto_provider().cipher_suites.iter()
}

impl ServerContext {
    /// A context; its configuration is there as soon as its secrets are.
    pub fn new(
        config: Arc<DownstreamTls>,
        stats: SslStats,
        secrets: &Secrets,
    ) -> Result<Arc<Self>, TlsError> {
        check_static(config.secrets(), secrets)?;
        let context = Arc::new(Self { ready: ArcSwapOption::empty(), config, stats });
        context.ready.store(context.build(secrets)?.map(Arc::new));
        if context.config.secrets().next().is_some() {
            let weak: Weak<Self> = Arc::downgrade(&context);
            secrets.register(weak);
        }
        Ok(context)
    }

    pub(super) fn ready(&self) -> Option<Arc<ServerReady>> {
        self.ready.load_full()
    }

    /// The secrets it waits for.
    pub fn missing(&self, secrets: &Secrets) -> Vec<SecretReference> {
        self.config.secrets().filter(|reference| !secrets.has(reference)).cloned().collect()
    }

    fn build(&self, secrets: &Secrets) -> Result<Option<ServerReady>, TlsError> {
        let config = &self.config;
        let provider = parameters::provider(&config.common)?;
        let (Some(identities), Some(source)) =
            (identities(&config.common, secrets, &provider)?, validation_source(&config.common, secrets))
        else {
            return Ok(None);
        };
        let Some(ticket_keys) = self.ticket_keys(secrets)? else { return Ok(None) };
        let validation = match &source {
            Some(source) => material::validation(source, false)?,
            None => Validation::default(),
        };
        let verifies = !validation.is_empty();
        let inventory = inventory(&identities, source.as_ref(), &validation);
        let identities: Vec<_> = identities.into_iter().map(|(_, identity)| identity).collect();
        show_expirations(&config.common, &inventory, &self.stats, secrets);
        let asks = verifies || config.require_client_certificate || validation.accept_untrusted;
        let lifetime = u32::try_from(config.session_timeout.as_secs()).unwrap_or(u32::MAX);
        let parts = ServerParts {
            verifier: match asks {
                true => Some(Verifier::new(validation, config.require_client_certificate)?),
                false => None,
            },
            resolver: Arc::new(ServerIdentities::new(identities)),
            ticketer: match ticket_keys {
                // Each version of a context has keys of its own: what was verified by another is not resumed here.
                Tickets::Own if lifetime > 0 => Some(Rotating::new(lifetime)?),
                Tickets::Keys(keys) => Some(Ticketer::with_keys(&keys, &config.source, lifetime)?),
                Tickets::Own | Tickets::Disabled => None,
            },
            sessions: match config.stateful_resumption {
                true => ServerSessionMemoryCache::new(SERVER_SESSIONS),
                false => Arc::new(NoServerSessionStorage {}),
            },
        };
        let by_group = match config.prefer_client_ciphers {
            true => Vec::new(),
            false => parameters::by_group(&provider, &config.common)
                .into_iter()
                .map(|(group, new_only, provider)| {
                    Ok(GroupVariant { group, new_only, variant: self.variant(&parts, provider)? })
                })
                .collect::<Result<_, TlsError>>()?,
        };
        Ok(Some(ServerReady {
            all: self.variant(&parts, provider)?,
            by_group,
            identities: parts.resolver,
            inventory,
            verifies,
        }))
    }

    fn variant(&self, parts: &ServerParts, provider: Arc<CryptoProvider>) -> Result<Variant, TlsError> {
        let config = &self.config;
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(parameters::versions(&config.common))?;
        let builder = match &parts.verifier {
            Some(verifier) => builder.with_client_cert_verifier(Arc::<Verifier>::clone(verifier)),
            None => builder.with_no_client_auth(),
        };
        let mut server = builder.with_cert_resolver(Arc::<ServerIdentities>::clone(&parts.resolver));
        // As in Envoy, the client's order counts for TLS 1.3, and ours where it is written down.
        server.ignore_client_order = !config.prefer_client_ciphers && !config.common.ciphers.is_empty();
        match &parts.ticketer {
            Some(ticketer) => server.ticketer = Arc::clone(ticketer),
            // Without tickets there is no resumption in TLS 1.3.
            None => server.send_tls13_tickets = 0,
        }
        server.send_tls13_tickets = server.send_tls13_tickets.min(1);
        server.session_storage = Arc::clone(&parts.sessions);
        let without_protocols = Arc::new(server.clone());
        server.alpn_protocols = config.common.protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Variant { with_protocols: Arc::new(server), without_protocols })
    }

    fn ticket_keys(&self, secrets: &Secrets) -> Result<Option<Tickets>, TlsError> {
        let sources = match &self.config.tickets {
            TicketKeys::Own => return Ok(Some(Tickets::Own)),
            TicketKeys::Disabled => return Ok(Some(Tickets::Disabled)),
            TicketKeys::Configured(sources) => sources.clone(),
            TicketKeys::Discovered(reference) => match secrets.ticket_keys(reference) {
                Some(sources) => sources,
                None => return Ok(None),
            },
        };
        let keys = sources.iter().map(|source| material::read("session_ticket_keys", source));
        Ok(Some(Tickets::Keys(keys.collect::<Result<_, _>>()?)))
    }
}

/// What all configurations of a server share.
struct ServerParts {
    verifier: Option<Arc<Verifier>>,
    resolver: Arc<ServerIdentities>,
    ticketer: Option<Arc<dyn ProducesTickets>>,
    sessions: Arc<dyn StoresServerSessions>,
}

enum Tickets {
    Own,
    Disabled,
    Keys(Vec<Vec<u8>>),
}

impl Dependent for ServerContext {
    fn references(&self) -> Vec<SecretReference> {
        self.config.secrets().cloned().collect()
    }

    fn rebuild(&self, secrets: &Secrets) {
        replace(&self.ready, self.build(secrets), &self.stats, secrets);
    }
}

/// Puts what was built anew in the place of what a context had; without its secrets, or with an error, that stays.
fn replace<T>(
    ready: &ArcSwapOption<T>,
    built: Result<Option<T>, TlsError>,
    stats: &SslStats,
    secrets: &Secrets,
) {
    match built {
        Ok(Some(built)) => {
            ready.store(Some(Arc::new(built)));
            stats.updated(&secrets.shard);
        }
        Ok(None) => {}
        Err(error) => tracing::error!(%error, "a TLS context keeps what it had"),
    }
}

// === Client ===

/// The TLS of a transport socket of a cluster.
#[derive(Debug)]
pub struct ClientContext {
    config: Arc<UpstreamTls>,
    /// The name in the certificate has to be the one that was sent, besides what is configured.
    verify_name: bool,
    ready: ArcSwapOption<ClientReady>,
    /// Its counters.
    pub stats: SslStats,
}

/// A client's configuration of the moment.
pub(super) struct ClientReady {
    pub(super) connector: TlsConnector,
    pub(super) all: Vec<Arc<Identity>>,
    pub(super) inventory: Inventory,
    pub(super) verifies: bool,
}

impl std::fmt::Debug for ClientReady {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("ClientReady")
    }
}

impl ClientContext {
    /// A context; its configuration is there as soon as its secrets are.
    pub fn new(
        config: Arc<UpstreamTls>,
        verify_name: bool,
        stats: SslStats,
        secrets: &Secrets,
    ) -> Result<Arc<Self>, TlsError> {
        check_static(config.common.secrets(), secrets)?;
        let context = Arc::new(Self { ready: ArcSwapOption::empty(), config, verify_name, stats });
        context.ready.store(context.build(secrets)?.map(Arc::new));
        if context.config.common.secrets().next().is_some() {
            let weak: Weak<Self> = Arc::downgrade(&context);
            secrets.register(weak);
        }
        Ok(context)
    }

    pub(super) fn ready(&self) -> Option<Arc<ClientReady>> {
        self.ready.load_full()
    }

    /// The protocols that are configured.
    pub(super) fn protocols(&self) -> &[Box<[u8]>] {
        &self.config.common.protocols
    }

    /// The secrets it waits for.
    pub fn missing(&self, secrets: &Secrets) -> Vec<SecretReference> {
        self.config.common.secrets().filter(|reference| !secrets.has(reference)).cloned().collect()
    }

    /// Shakes hands for HTTP/2 with a service of the control plane.
    pub async fn dial<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        host: &Host,
    ) -> std::io::Result<tokio_rustls::client::TlsStream<S>> {
        let ready =
            self.ready().ok_or_else(|| std::io::Error::other("a secret of the cluster is missing"))?;
        let name = self.server_name(host, None).map_err(std::io::Error::other)?;
        ready.connector.with_alpn(vec![b"h2".to_vec()]).connect(name, stream).await
    }

    /// What the host is called: by the request, by its own name, as configured, or by its address, which is not sent.
    pub(super) fn server_name(
        &self,
        host: &Host,
        wanted: Option<&str>,
    ) -> Result<ServerName<'static>, rustls::pki_types::InvalidDnsNameError> {
        let own = Some(&*host.hostname).filter(|name| self.config.host_as_server_name && !name.is_empty());
        match wanted.or(own).or(self.config.server_name.as_deref()) {
            Some(name) => ServerName::try_from(name.to_owned()),
            None => Ok(match &host.address {
                Address::Socket(address) => ServerName::from(address.ip()),
                _ => ServerName::from(std::net::IpAddr::from([0, 0, 0, 0])),
            }),
        }
    }

    fn build(&self, secrets: &Secrets) -> Result<Option<ClientReady>, TlsError> {
        let config = &self.config;
        let provider = parameters::provider(&config.common)?;
        let (Some(identities), Some(source)) =
            (identities(&config.common, secrets, &provider)?, validation_source(&config.common, secrets))
        else {
            return Ok(None);
        };
        let mut validation = match &source {
            Some(source) => material::validation(source, config.verify_server_name)?,
            None => Validation { name_from_connection: config.verify_server_name, ..Validation::default() },
        };
        validation.name_from_connection |= self.verify_name;
        let verifies = !validation.is_empty();
        let inventory = inventory(&identities, source.as_ref(), &validation);
        let identities: Vec<_> = identities.into_iter().map(|(_, identity)| identity).collect();
        show_expirations(&config.common, &inventory, &self.stats, secrets);
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(parameters::versions(&config.common))?
            .dangerous()
            .with_custom_certificate_verifier(Verifier::new(validation, false)?)
            .with_client_cert_resolver(Arc::new(ClientIdentities::new(identities.clone())));
        client.resumption = match config.max_sessions {
            0 => Resumption::disabled(),
            sessions => {
                let servers = sessions.max(CLIENT_SERVERS) * TICKETS_PER_SERVER;
                Resumption::store(Arc::new(ClientSessionMemoryCache::new(servers)))
            }
        };
        Ok(Some(ClientReady {
            connector: TlsConnector::from(Arc::new(client)),
            all: identities,
            inventory,
            verifies,
        }))
    }
}

impl Dependent for ClientContext {
    fn references(&self) -> Vec<SecretReference> {
        self.config.common.secrets().cloned().collect()
    }

    fn rebuild(&self, secrets: &Secrets) {
        replace(&self.ready, self.build(secrets), &self.stats, secrets);
    }
}

// === Transports of clusters ===

/// How a host is spoken to.
#[derive(Debug)]
pub enum Transport {
    /// In plain text.
    Plain,
    /// Through TLS.
    Tls(Arc<ClientContext>),
    /// A PROXY protocol header, then another.
    ProxyProtocol {
        /// 1 or 2.
        version: u8,
        /// What follows.
        inner: Box<Transport>,
    },
}

impl Transport {
    /// All transports of a cluster, at the places that its selection names.
    pub fn all(
        cluster: &Cluster,
        make_stats: &dyn Fn() -> SslStats,
        secrets: &Secrets,
    ) -> Result<Box<[Transport]>, TlsError> {
        let verify_name = cluster.auto_server_name.as_ref().is_some_and(|auto| auto.verify);
        cluster
            .transport
            .all()
            .map(|transport| Self::new(transport, verify_name, make_stats, secrets))
            .collect()
    }

    fn new(
        transport: &UpstreamTransport,
        verify_name: bool,
        make_stats: &dyn Fn() -> SslStats,
        secrets: &Secrets,
    ) -> Result<Self, TlsError> {
        Ok(match transport {
            UpstreamTransport::Plain => Self::Plain,
            UpstreamTransport::Tls(config) => {
                Self::Tls(ClientContext::new(Arc::clone(config), verify_name, make_stats(), secrets)?)
            }
            UpstreamTransport::ProxyProtocol { version, inner } => Self::ProxyProtocol {
                version: *version,
                inner: Box::new(Self::new(inner, verify_name, make_stats, secrets)?),
            },
        })
    }

    /// The TLS in it.
    pub fn tls(&self) -> Option<&Arc<ClientContext>> {
        match self {
            Self::Plain => None,
            Self::Tls(context) => Some(context),
            Self::ProxyProtocol { inner, .. } => inner.tls(),
        }
    }

    /// The secrets it waits for.
    pub fn missing(&self, secrets: &Secrets) -> Vec<SecretReference> {
        self.tls().map(|context| context.missing(secrets)).unwrap_or_default()
    }
}
