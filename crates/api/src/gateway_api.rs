//! Kinds of the Gateway API (`gateway.networking.k8s.io`).

use crate::meta::{foreign_resource, versions};
use crate::{Duration, JsonObject, Scope};

message! {
    /// Says where HTTP requests go that reach its parents: gateways, or services of the mesh.
    pub struct HTTPRoute {
        /// What the rules are for.
        pub parent_refs: Vec<ParentReference>,
        /// Hosts of a gateway that the rules are for. Of no meaning for services.
        pub hostnames: Vec<String>,
        /// The rules.
        pub rules: Vec<HTTPRouteRule>,
        /// Whether default gateways are parents too.
        pub use_default_gateways: String,
    }

    /// An object that rules are attached to.
    pub struct ParentReference {
        /// Group of the object; `gateway.networking.k8s.io` by default.
        pub group: Option<String>,
        /// Kind of the object; `Gateway` by default.
        pub kind: Option<String>,
        /// Its namespace; that of the route by default.
        pub namespace: Option<String>,
        /// Its name.
        pub name: String,
        /// Name of a listener or port.
        pub section_name: Option<String>,
        /// Number of a port.
        pub port: Option<u16>,
    }

    /// A rule: what it matches and what then happens.
    pub struct HTTPRouteRule {
        /// Its name.
        pub name: Option<String>,
        /// Conditions; one of them must hold. Without any, every request matches.
        pub matches: Vec<HTTPRouteMatch>,
        /// What is done to requests and responses.
        pub filters: Vec<HTTPRouteFilter>,
        /// Where requests go, by weight.
        pub backend_refs: Vec<HTTPBackendRef>,
        /// How long things may take.
        pub timeouts: Option<HTTPRouteTimeouts>,
        /// What is tried again.
        pub retry: Option<HTTPRouteRetry>,
        /// Whether clients stay with their backend.
        pub session_persistence: Option<JsonObject>,
    }

    /// A condition on a request; all that is given must hold.
    pub struct HTTPRouteMatch {
        /// Path.
        pub path: Option<HTTPPathMatch>,
        /// Headers.
        pub headers: Vec<HTTPValueMatch>,
        /// Query parameters.
        pub query_params: Vec<HTTPValueMatch>,
        /// Method.
        pub method: Option<String>,
    }

    /// A condition on the path.
    pub struct HTTPPathMatch {
        /// `Exact`, `PathPrefix` or `RegularExpression`; `PathPrefix` by default.
        #[serde(rename = "type")]
        pub kind: Option<String>,
        /// What the path is compared with; `/` by default.
        pub value: Option<String>,
    }

    /// A condition on a header or query parameter.
    pub struct HTTPValueMatch {
        /// `Exact` or `RegularExpression`; `Exact` by default.
        #[serde(rename = "type")]
        pub kind: Option<String>,
        /// Name of the header or parameter.
        pub name: String,
        /// What its value is compared with.
        pub value: String,
    }

    /// Something that is done to requests or responses.
    pub struct HTTPRouteFilter {
        /// Which of the fields below counts.
        #[serde(rename = "type")]
        pub kind: String,
        /// `RequestHeaderModifier`
        pub request_header_modifier: Option<HTTPHeaderFilter>,
        /// `ResponseHeaderModifier`
        pub response_header_modifier: Option<HTTPHeaderFilter>,
        /// `RequestMirror`
        pub request_mirror: Option<HTTPRequestMirrorFilter>,
        /// `RequestRedirect`
        pub request_redirect: Option<HTTPRequestRedirectFilter>,
        /// `URLRewrite`
        pub url_rewrite: Option<HTTPURLRewriteFilter>,
        /// `CORS`
        pub cors: Option<HTTPCORSFilter>,
        /// `ExternalAuth`
        pub external_auth: Option<JsonObject>,
        /// `ExtensionRef`
        pub extension_ref: Option<LocalObjectReference>,
    }

    /// Changes to headers.
    pub struct HTTPHeaderFilter {
        /// Replaces headers.
        pub set: Vec<HTTPHeader>,
        /// Adds values.
        pub add: Vec<HTTPHeader>,
        /// Takes headers away.
        pub remove: Vec<String>,
    }

    /// A header.
    pub struct HTTPHeader {
        /// Its name.
        pub name: String,
        /// Its value.
        pub value: String,
    }

    /// Sends copies of requests.
    pub struct HTTPRequestMirrorFilter {
        /// Where they go.
        pub backend_ref: BackendObjectReference,
        /// Share in percent.
        pub percent: Option<i32>,
        /// Share as a fraction.
        pub fraction: Option<Fraction>,
    }

    /// A share.
    pub struct Fraction {
        /// Above the line.
        pub numerator: i32,
        /// Below the line; 100 by default.
        pub denominator: Option<i32>,
    }

    /// Answers with a redirect.
    pub struct HTTPRequestRedirectFilter {
        /// New scheme.
        pub scheme: Option<String>,
        /// New host.
        pub hostname: Option<String>,
        /// New path.
        pub path: Option<HTTPPathModifier>,
        /// New port.
        pub port: Option<u16>,
        /// Status code; 302 by default.
        pub status_code: Option<u32>,
    }

    /// Changes host or path before forwarding.
    pub struct HTTPURLRewriteFilter {
        /// New host.
        pub hostname: Option<String>,
        /// New path.
        pub path: Option<HTTPPathModifier>,
    }

    /// A new path.
    pub struct HTTPPathModifier {
        /// `ReplaceFullPath` or `ReplacePrefixMatch`.
        #[serde(rename = "type")]
        pub kind: String,
        /// The whole path.
        pub replace_full_path: Option<String>,
        /// What stands for the prefix that matched.
        pub replace_prefix_match: Option<String>,
    }

    /// Cross-origin resource sharing.
    pub struct HTTPCORSFilter {
        /// Origins that may ask; `*` within is any text.
        pub allow_origins: Vec<String>,
        /// Whether credentials may be sent.
        pub allow_credentials: Option<bool>,
        /// Methods that may be used.
        pub allow_methods: Vec<String>,
        /// Headers that may be sent.
        pub allow_headers: Vec<String>,
        /// Headers that scripts may read.
        pub expose_headers: Vec<String>,
        /// Seconds that a browser may keep the answer; 5 by default.
        pub max_age: Option<i32>,
    }

    /// A destination and its share.
    pub struct HTTPBackendRef {
        /// Group of the destination; Kubernetes' own by default.
        pub group: Option<String>,
        /// Kind of the destination; `Service` by default.
        pub kind: Option<String>,
        /// Its namespace; that of the route by default.
        pub namespace: Option<String>,
        /// Its name.
        pub name: String,
        /// Its port; a service needs one.
        pub port: Option<u16>,
        /// Its share; 1 by default.
        pub weight: Option<i32>,
        /// What is done to the requests that go there, and to their responses.
        pub filters: Vec<HTTPRouteFilter>,
    }

    /// A destination.
    pub struct BackendObjectReference {
        /// Group of the destination; Kubernetes' own by default.
        pub group: Option<String>,
        /// Kind of the destination; `Service` by default.
        pub kind: Option<String>,
        /// Its namespace; that of the route by default.
        pub namespace: Option<String>,
        /// Its name.
        pub name: String,
        /// Its port; a service needs one.
        pub port: Option<u16>,
    }

    /// An object of the same namespace.
    pub struct LocalObjectReference {
        /// Its group.
        pub group: String,
        /// Its kind.
        pub kind: String,
        /// Its name.
        pub name: String,
    }

    /// How long things may take; `0s` is for ever.
    pub struct HTTPRouteTimeouts {
        /// A request in all.
        pub request: Option<Duration>,
        /// One try.
        pub backend_request: Option<Duration>,
    }

    /// What is tried again.
    pub struct HTTPRouteRetry {
        /// Status codes that are.
        pub codes: Vec<u32>,
        /// How often.
        pub attempts: Option<i32>,
        /// The least pause between tries.
        pub backoff: Option<Duration>,
    }
}

foreign_resource!(
    HTTPRoute, "gateway.networking.k8s.io", versions!("v1", "v1beta1"), "httproutes", "httproute", short: [], Scope::Namespaced
);
