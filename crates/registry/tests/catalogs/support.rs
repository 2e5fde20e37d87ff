//! A registry with one platform, and what the tests ask of it.

use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, Once};
use std::time::Duration;

use lateen_api::registries::{RegistryConfig, RegistryCredentials, RegistryProvider};
use lateen_model::Address;
use lateen_registry::catalogs::driver::Pace;
use lateen_registry::catalogs::platform;
use lateen_registry::{PlatformStatus, Registry, RegistryOptions, StoreOptions};

use crate::fake::Fake;
use crate::tls::Tls;

const LIMIT: Duration = Duration::from_secs(30);

/// How soon the tests' platforms are asked again.
pub const PACE: Pace = Pace {
    first: Duration::from_millis(10),
    longest: Duration::from_millis(100),
    refused: Duration::from_millis(200),
};

/// The mesh's view of one platform.
pub struct Mesh {
    registry: Registry,
    name: String,
    secret: tempfile::NamedTempFile,
}

impl Mesh {
    /// Asks the fake, with the right token.
    pub async fn start(fake: &Fake, provider: RegistryProvider, path: &str) -> Self {
        let secret = tempfile::NamedTempFile::new().unwrap();
        let file = secret.path().to_str().unwrap().to_owned();
        let own = match provider {
            RegistryProvider::Eureka | RegistryProvider::CloudFoundry => RegistryCredentials {
                user: "mesh".into(),
                password_file: file,
                ..RegistryCredentials::default()
            },
            _ => RegistryCredentials { token_file: file, ..RegistryCredentials::default() },
        };
        let config = RegistryConfig {
            provider,
            addresses: vec![format!("{}{path}", fake.url())],
            tls: fake.tls.as_ref().map(Tls::config),
            interval: Some(lateen_api::Duration::from_millis(100)),
            timeout: Some(lateen_api::Duration::from_millis(1500)),
            credentials: Some(own),
            ..RegistryConfig::default()
        };
        Self::with(config, secret, &fake.token.lock().unwrap())
    }

    /// With this configuration; it is given a name of its own.
    pub fn with(mut config: RegistryConfig, secret: tempfile::NamedTempFile, text: &str) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        collect_log();
        let number = STARTED.fetch_add(1, Ordering::SeqCst);
        let name = format!("{}-test-{number}-end", config.provider.as_str());
        config.name.clone_from(&name);
        let verdict = lateen_galley::validate_registries(std::slice::from_ref(&config), "lateen.registries");
        assert!(verdict.is_valid(), "{}", verdict.message());
        let options = RegistryOptions {
            store: StoreOptions { cluster: name.as_str().into(), ..StoreOptions::default() },
            ..RegistryOptions::default()
        };
        let platform = platform(&config, PACE).unwrap();
        let mesh = Self { registry: Registry::start(options, vec![], None), name, secret };
        mesh.write_secret(text);
        let platforms = mesh.registry.platforms();
        tokio::spawn(async move { platforms.add(platform).await });
        mesh
    }

    pub fn write_secret(&self, text: &str) {
        std::fs::write(self.secret.path(), format!("{text}\n")).unwrap();
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn status(&self) -> PlatformStatus {
        self.registry.statuses().remove(0)
    }

    /// The failures that the metrics count.
    pub fn errors(&self, reason: &str) -> u64 {
        self.metric(&format!(
            "lateen_registry_errors_total{{platform=\"{}\",reason=\"{reason}\"}} ",
            self.name
        ))
    }

    /// A gauge of the platform's.
    pub fn gauge(&self, name: &str) -> u64 {
        let (platform, provider) = (&self.name, self.status().provider);
        self.metric(&format!("lateen_registry_{name}{{platform=\"{platform}\",provider=\"{provider}\"}} "))
    }

    fn metric(&self, label: &str) -> u64 {
        let mut metrics = prometheus_client::registry::Registry::default();
        metrics.register_collector(self.registry.metrics());
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &metrics).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(label));
        value.map_or(0, |value| value.parse().unwrap())
    }

    /// The objects that cannot be read.
    pub fn problems(&self) -> Vec<String> {
        self.registry.problems().into_iter().map(|one| format!("{}: {}", one.key.name, one.message)).collect()
    }

    /// The host names of all services.
    pub fn hosts(&self) -> Vec<String> {
        let Some(snapshot) = self.registry.snapshot() else { return Vec::new() };
        snapshot.services().map(|service| service.key.hostname.to_string()).collect()
    }

    /// `ADDRESS:PORT VERSION` of each endpoint of a service.
    pub fn endpoints(&self, host: &str) -> Vec<String> {
        let Some(snapshot) = self.registry.snapshot() else { return Vec::new() };
        let Some(service) =
            snapshot.services().find(|service| service.key.hostname.as_str() == host).cloned()
        else {
            return Vec::new();
        };
        let Some(set) = snapshot.endpoints(&service.key) else { return Vec::new() };
        set.endpoints
            .iter()
            .map(|one| {
                let address = match &one.address {
                    Address::Ip(addresses) => addresses[0].to_string(),
                    other => format!("{other:?}"),
                };
                let port = one.ports.values().next().copied().unwrap_or_default();
                format!(
                    "{address}:{port} {}",
                    one.labels.get("version").map(String::as_str).unwrap_or_default()
                )
            })
            .collect()
    }

    pub async fn until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let wait = async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(LIMIT, wait).await.is_err() {
            panic!("{}: waited for: {what}\n{:#?}\n{:?}", self.name, self.registry.statuses(), self.hosts());
        }
    }
}

static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// Lines of the log about a platform that have a word.
pub fn lines_about(platform: &str, word: &str) -> Vec<String> {
    let log = LOG.lock().unwrap();
    let text = String::from_utf8_lossy(&log).into_owned();
    text.lines().filter(|line| line.contains(platform) && line.contains(word)).map(str::to_owned).collect()
}

fn collect_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::INFO)
            .with_ansi(false)
            .with_writer(|| Collector)
            .init();
    });
}

struct Collector;

impl Write for Collector {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOG.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
