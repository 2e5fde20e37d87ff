//! Kinds of Kubernetes itself that configure a mesh: Ingress and IngressClass (`networking.k8s.io/v1`).

use crate::meta::{foreign_resource, versions};
use crate::{JsonObject, Scope};

message! {
    /// Says which requests from outside go to which services.
    pub struct Ingress {
        /// Name of the IngressClass.
        pub ingress_class_name: Option<String>,
        /// Where requests go that no rule takes.
        pub default_backend: Option<IngressBackend>,
        /// Hosts with certificates.
        pub tls: Vec<IngressTls>,
        /// Rules by host.
        pub rules: Vec<IngressRule>,
    }

    /// Hosts and their certificate.
    pub struct IngressTls {
        /// The hosts; all by default.
        pub hosts: Vec<String>,
        /// Secret that holds key and certificate.
        pub secret_name: String,
    }

    /// The rules of one host.
    pub struct IngressRule {
        /// The host; all by default.
        pub host: String,
        /// The paths.
        pub http: Option<HttpIngressRuleValue>,
    }

    /// The rules of one host for HTTP.
    pub struct HttpIngressRuleValue {
        /// Paths, the most particular counts.
        pub paths: Vec<HttpIngressPath>,
    }

    /// A path and where its requests go.
    pub struct HttpIngressPath {
        /// The path.
        pub path: String,
        /// `Exact`, `Prefix` or `ImplementationSpecific`.
        pub path_type: Option<String>,
        /// Where requests go.
        pub backend: IngressBackend,
    }

    /// Where requests go.
    pub struct IngressBackend {
        /// A service of the same namespace.
        pub service: Option<IngressServiceBackend>,
        /// Another object.
        pub resource: Option<JsonObject>,
    }

    /// A service.
    pub struct IngressServiceBackend {
        /// Its name.
        pub name: String,
        /// Its port.
        pub port: ServiceBackendPort,
    }

    /// A port by name or number.
    pub struct ServiceBackendPort {
        /// Name.
        pub name: String,
        /// Number.
        pub number: u32,
    }

    /// Says who serves the Ingress objects of a class.
    pub struct IngressClass {
        /// Who does; the mesh is `istio.io/ingress-controller`.
        pub controller: String,
        /// Settings for whoever does.
        pub parameters: Option<JsonObject>,
    }
}

foreign_resource!(Ingress, "networking.k8s.io", versions!("v1"), "ingresses", "ingress", short: ["ing"], Scope::Namespaced);
foreign_resource!(
    IngressClass, "networking.k8s.io", versions!("v1"), "ingressclasses", "ingressclass", short: [], Scope::Cluster
);
