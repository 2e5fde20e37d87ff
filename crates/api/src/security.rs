//! Kinds of `security.istio.io`: who may speak to whom, and how they prove who they are.

use std::collections::BTreeMap;

use crate::Duration;
use crate::meta::{resource, versions};
use crate::selection::{LabelSelector, PolicyTargetReference};

message! {
    /// Says which requests workloads accept.
    #[schemars(
        transform = crate::schema::one_of_provider,
        extend("x-kubernetes-validations" = [{
            "rule": "(has(self.selector) ? 1 : 0) + (has(self.targetRef) ? 1 : 0) + (has(self.targetRefs) ? 1 : 0) <= 1",
            "message": "set only one of selector, targetRef and targetRefs",
        }])
    )]
    pub struct AuthorizationPolicy {
        /// Workloads; without it, all of the namespace.
        pub selector: Option<LabelSelector>,
        /// Object that it is attached to.
        pub target_ref: Option<PolicyTargetReference>,
        /// Objects that it is attached to.
        #[schemars(length(max = 16))]
        pub target_refs: Vec<PolicyTargetReference>,
        /// Requests that it is about; without any rule, none match.
        #[schemars(length(max = 512))]
        pub rules: Vec<AuthorizationRule>,
        /// What happens to requests that match.
        pub action: AuthorizationAction,
        /// Who decides, for action CUSTOM.
        pub provider: Option<ExtensionProviderRef>,
    }

    /// Who decides.
    pub struct ExtensionProviderRef {
        /// Name of an extension provider of the mesh configuration.
        pub name: String,
    }

    /// Requests that match: one source, one operation and all conditions.
    pub struct AuthorizationRule {
        /// Where requests come from; anywhere by default.
        #[schemars(length(max = 512))]
        pub from: Vec<RuleFrom>,
        /// What they ask for; anything by default.
        pub to: Vec<RuleTo>,
        /// More conditions.
        pub when: Vec<Condition>,
    }

    /// A source.
    pub struct RuleFrom {
        /// The source.
        pub source: Option<Source>,
    }

    /// An operation.
    pub struct RuleTo {
        /// The operation.
        pub operation: Option<Operation>,
    }

    /// Where a request comes from; all that is given must hold.
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "(has(self.serviceAccounts) || has(self.notServiceAccounts)) ? (!has(self.principals) && !has(self.notPrincipals) && !has(self.namespaces) && !has(self.notNamespaces)) : true",
        "message": "serviceAccounts cannot be combined with principals or namespaces",
    }]))]
    pub struct Source {
        /// Identities from the client's certificate.
        pub principals: Vec<String>,
        /// Identities that must not be.
        pub not_principals: Vec<String>,
        /// Identities from a token, `issuer/subject`.
        pub request_principals: Vec<String>,
        /// Token identities that must not be.
        pub not_request_principals: Vec<String>,
        /// Namespaces from the client's certificate.
        pub namespaces: Vec<String>,
        /// Namespaces that must not be.
        pub not_namespaces: Vec<String>,
        /// Service accounts, as `name` or `namespace/name`.
        #[schemars(length(max = 16), inner(length(max = 320)))]
        pub service_accounts: Vec<String>,
        /// Service accounts that must not be.
        #[schemars(length(max = 16), inner(length(max = 320)))]
        pub not_service_accounts: Vec<String>,
        /// Addresses of the connection.
        pub ip_blocks: Vec<String>,
        /// Addresses that must not be.
        pub not_ip_blocks: Vec<String>,
        /// Addresses of the original client.
        pub remote_ip_blocks: Vec<String>,
        /// Original addresses that must not be.
        pub not_remote_ip_blocks: Vec<String>,
        /// Trust domains from the client's certificate.
        pub trust_domains: Vec<String>,
        /// Trust domains that must not be.
        pub not_trust_domains: Vec<String>,
    }

    /// What a request asks for; all that is given must hold.
    pub struct Operation {
        /// Hosts.
        pub hosts: Vec<String>,
        /// Hosts that must not be.
        pub not_hosts: Vec<String>,
        /// Ports.
        pub ports: Vec<String>,
        /// Ports that must not be.
        pub not_ports: Vec<String>,
        /// Methods.
        pub methods: Vec<String>,
        /// Methods that must not be.
        pub not_methods: Vec<String>,
        /// Paths: whole, with `*` at an end, or templates with `{*}` and `{**}`.
        pub paths: Vec<String>,
        /// Paths that must not be.
        pub not_paths: Vec<String>,
    }

    /// A condition on an attribute.
    #[schemars(extend("required" = ["key"]))]
    pub struct Condition {
        /// Attribute, such as `request.headers[version]`.
        pub key: String,
        /// Values of which it must have one.
        pub values: Vec<String>,
        /// Values that it must not have.
        pub not_values: Vec<String>,
    }

    /// Says whether workloads accept plaintext, mutual TLS or both.
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "has(self.portLevelMtls) ? (((has(self.selector) && has(self.selector.matchLabels)) ? self.selector.matchLabels : {}).size() > 0) : true",
        "message": "portLevelMtls needs a selector",
    }]))]
    pub struct PeerAuthentication {
        /// Workloads; without it, all of the namespace.
        pub selector: Option<LabelSelector>,
        /// Mutual TLS on all ports.
        pub mtls: Option<MutualTls>,
        /// Mutual TLS by port of the workload.
        #[schemars(transform = crate::schema::port_rule_on_keys)]
        pub port_level_mtls: BTreeMap<String, MutualTls>,
    }

    /// Mutual TLS.
    pub struct MutualTls {
        /// What is accepted.
        pub mode: MutualTlsMode,
    }

    /// Says which tokens requests may carry.
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "(has(self.selector) ? 1 : 0) + (has(self.targetRef) ? 1 : 0) + (has(self.targetRefs) ? 1 : 0) <= 1",
        "message": "set only one of selector, targetRef and targetRefs",
    }]))]
    pub struct RequestAuthentication {
        /// Workloads; without it, all of the namespace.
        pub selector: Option<LabelSelector>,
        /// Object that it is attached to.
        pub target_ref: Option<PolicyTargetReference>,
        /// Objects that it is attached to.
        #[schemars(length(max = 16))]
        pub target_refs: Vec<PolicyTargetReference>,
        /// Tokens that are accepted; one rule must hold for a request that has a token.
        #[schemars(length(max = 4096))]
        pub jwt_rules: Vec<JwtRule>,
    }

    /// A kind of token that is accepted.
    #[schemars(transform = jwks_alias, extend("x-kubernetes-validations" = [{
        "rule": "(has(self.jwksUri) ? 1 : 0) + (has(self.jwks_uri) ? 1 : 0) + (has(self.jwks) ? 1 : 0) <= 1",
        "message": "set either jwksUri or jwks, not both",
    }]))]
    pub struct JwtRule {
        /// Who issued the token.
        #[schemars(length(min = 1))]
        pub issuer: String,
        /// For whom it was issued; anyone by default.
        #[schemars(inner(length(min = 1)))]
        pub audiences: Vec<String>,
        /// Where the issuer's keys are.
        #[serde(alias = "jwks_uri")]
        #[schemars(length(min = 1, max = 2048), extend("x-kubernetes-validations" = [{
            "rule": "url(self).getScheme() in [\"http\", \"https\"]",
            "message": "must begin with http:// or https://",
        }]))]
        pub jwks_uri: String,
        /// The issuer's keys themselves.
        pub jwks: String,
        /// Headers that may carry the token.
        pub from_headers: Vec<JwtHeader>,
        /// Query parameters that may carry the token.
        #[schemars(inner(length(min = 1)))]
        pub from_params: Vec<String>,
        /// Cookies that may carry the token.
        #[schemars(inner(length(min = 1)))]
        pub from_cookies: Vec<String>,
        /// Header that gets the token's payload.
        pub output_payload_to_header: String,
        /// Whether the token is forwarded.
        pub forward_original_token: bool,
        /// Headers that get single claims.
        pub output_claim_to_headers: Vec<ClaimToHeader>,
        /// How long getting the keys may take, 5s by default.
        pub timeout: Option<Duration>,
        /// Claims that are lists separated by spaces.
        #[schemars(length(max = 64), inner(length(min = 1)))]
        pub space_delimited_claims: Vec<String>,
        /// Whether requests without a token are refused.
        pub presence: TokenPresence,
    }

    /// A header that may carry a token.
    #[schemars(extend("required" = ["name"]))]
    pub struct JwtHeader {
        /// Name.
        #[schemars(length(min = 1))]
        pub name: String,
        /// What stands before the token, such as `Bearer `.
        pub prefix: String,
    }

    /// A claim that goes to a header.
    #[schemars(extend("required" = ["header", "claim"]))]
    pub struct ClaimToHeader {
        /// Header.
        #[schemars(length(min = 1), regex(pattern = "^[-_A-Za-z0-9]+$"))]
        pub header: String,
        /// Claim, with dots between levels.
        #[schemars(length(min = 1))]
        pub claim: String,
    }
}

fn jwks_alias(schema: &mut schemars::Schema) {
    crate::schema::alias(schema, "jwksUri", "jwks_uri");
}

enumeration! {
    /// What happens to requests that match: let through, refused, only logged, or decided elsewhere.
    pub enum AuthorizationAction { #[default] Allow, Deny, Audit, Custom }

    /// What is accepted: as the next level says, plaintext, both, or mutual TLS only.
    pub enum MutualTlsMode { #[default] Unset, Disable, Permissive, Strict }

    /// Whether a token must be there.
    pub enum TokenPresence { #[default] Optional, Required }
}

resource!(
    AuthorizationPolicy, "security.istio.io", versions!("v1", "v1beta1"), "authorizationpolicies", "authorizationpolicy",
    short: ["ap"], category: "security-istio-io", spec_required: false,
    columns: [
        "Action" "string" ".spec.action" "What happens to requests that match",
        "Age" "date" ".metadata.creationTimestamp" "Time since creation"
    ]
);

resource!(
    PeerAuthentication, "security.istio.io", versions!("v1", "v1beta1"), "peerauthentications", "peerauthentication",
    short: ["pa"], category: "security-istio-io", spec_required: false,
    columns: [
        "Mode" "string" ".spec.mtls.mode" "What is accepted on all ports",
        "Age" "date" ".metadata.creationTimestamp" "Time since creation"
    ]
);

resource!(
    RequestAuthentication, "security.istio.io", versions!("v1", "v1beta1"), "requestauthentications", "requestauthentication",
    short: ["ra"], category: "security-istio-io", spec_required: false,
    columns: []
);
