//! `lateen.registries` of MeshConfig: the platforms besides Kubernetes whose services belong to the mesh.

use crate::Duration;

message! {
    /// What is Lateen's own in MeshConfig, in the field `lateen`.
    pub struct LateenConfig {
        /// Platforms besides Kubernetes.
        pub registries: Vec<RegistryConfig>,
    }

    /// A platform whose services belong to the mesh.
    pub struct RegistryConfig {
        /// What it is.
        pub provider: RegistryProvider,
        /// Its name in the mesh, unique among platforms: the cluster of its services and endpoints. The provider's name
        /// in lower case if not given.
        pub name: String,
        /// Where it is: URLs of its servers, of which the first that answers is asked; the folder for `FILES`.
        pub addresses: Vec<String>,
        /// The mesh's namespace of its services. `{namespace}` in it stands for the platform's own namespace of a
        /// service. The provider's name in lower case if not given.
        pub namespace: String,
        /// Host names of its services: a template with `{service}`, `{namespace}` and `{datacenter}`. The provider's own
        /// form if not given, such as `{service}.service.consul`.
        pub hostname: String,
        /// The port by which clients call services whose instances have different ports; 80 if not given.
        pub service_port: u32,
        /// The network of its endpoints.
        pub network: String,
        /// The region of endpoints where the platform tells none.
        pub region: String,
        /// Consul: the datacenters; that of the server if not given.
        pub datacenters: Vec<String>,
        /// Consul Enterprise and Nomad: the namespaces; the default one of Consul, all of Nomad if not given.
        pub namespaces: Vec<String>,
        /// Consul Enterprise: the partition.
        pub partition: String,
        /// Consul and Nomad: how consistent answers must be.
        pub consistency: RegistryConsistency,
        /// Consul: which tagged address of instances is used, such as `wan`.
        pub tagged_address: String,
        /// Consul: whether instances with a warning get no requests.
        pub only_passing: bool,
        /// How often it is asked where it cannot tell of changes itself; 30s if not given, 10s for Cloud Foundry. Consul
        /// and Nomad: how long a question may wait for changes; 60s if not given.
        pub interval: Option<Duration>,
        /// How long an answer may take, besides the time that it waits for changes; 30s if not given.
        pub timeout: Option<Duration>,
        /// How many connections may wait for changes at once (Consul and Nomad); 100 if not given.
        pub connections: u32,
        /// How it is known that the server is the right one, and who we are.
        pub tls: Option<RegistryTls>,
        /// Who we are.
        pub credentials: Option<RegistryCredentials>,
    }

    /// TLS towards a platform; files are read again when they change.
    pub struct RegistryTls {
        /// File with the trusted certificates; those of the system if not given.
        pub ca_certificates: String,
        /// File with our certificate and its chain.
        pub client_certificate: String,
        /// File with its private key.
        pub private_key: String,
        /// The name in the server's certificate; that of the address if not given.
        pub server_name: String,
    }

    /// Credentials for a platform; files are read again when they change.
    pub struct RegistryCredentials {
        /// File with a token (Consul, Nomad, Marathon).
        pub token_file: String,
        /// User (Eureka, Marathon) or client id (Cloud Foundry).
        pub user: String,
        /// File with the password or client secret.
        pub password_file: String,
    }
}

enumeration! {
    /// Platforms besides Kubernetes.
    pub enum RegistryProvider {
        #[default]
        Unspecified,
        Consul,
        Eureka,
        Nomad,
        Marathon,
        CloudFoundry,
        Files,
    }

    /// How consistent answers must be: the server's default, asked of the leader with a check of its leadership, or of any
    /// server (Consul's documentation, "Consistency Modes").
    pub enum RegistryConsistency {
        #[default]
        Default,
        Consistent,
        Stale,
    }
}

impl RegistryProvider {
    /// The name in flags and in names of platforms.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "",
            Self::Consul => "consul",
            Self::Eureka => "eureka",
            Self::Nomad => "nomad",
            Self::Marathon => "marathon",
            Self::CloudFoundry => "cloudfoundry",
            Self::Files => "files",
        }
    }

    /// Every provider that can be named.
    pub const ALL: [Self; 6] =
        [Self::Consul, Self::Eureka, Self::Nomad, Self::Marathon, Self::CloudFoundry, Self::Files];
}

impl RegistryConfig {
    /// The platform's name in the mesh.
    pub fn platform_name(&self) -> &str {
        if self.name.is_empty() { self.provider.as_str() } else { &self.name }
    }
}
