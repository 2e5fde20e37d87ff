//! Analysis: what no object says alone, but all of them together.
//!
//! Validation judges one object; an analyzer looks at all objects of a mesh, Kubernetes' own included, and finds what
//! is probably not meant: a route to a service that nobody has, a selector that selects nothing. The analyzers, their
//! messages and codes are Istio's (`istio.io/docs/reference/config/analysis`), a module for each family. All of it is a
//! function from objects to messages; where the objects come from is the command line's business.

mod annotations;
mod authn;
mod authz;
mod conditions;
mod context;
mod deployment;
mod deprecation;
mod destination_rule;
mod envoy_filter;
mod external_control_plane;
mod gateway;
mod hosts;
mod injection;
mod k8s_gateway;
pub mod messages;
mod multicluster;
mod resource;
mod schema;
mod service;
mod service_entry;
mod sidecar;
mod suppression;
mod telemetry;
mod virtual_service;
mod webhook;

use std::collections::BTreeSet;
use std::sync::Arc;

use lateen_api::mesh::MeshConfig;
use lateen_api::networks::MeshNetworks;
use serde_json::{Value, json};

pub use messages::{Argument, Level, MESSAGES, MessageType};
pub use resource::{Resource, Subject};
pub use suppression::{ParseSuppressionError, Suppression};

use crate::{Document, documents};
use context::Context;

/// What is analyzed.
#[derive(Default)]
pub struct Input<'a> {
    /// All objects, those that the mesh itself would bring included ([`default_resources`]).
    pub resources: Vec<Resource>,
    /// The mesh's settings.
    pub mesh: MeshConfig,
    /// The mesh's networks.
    pub networks: MeshNetworks,
    /// The document that `networks` was read from, for its lines.
    pub networks_document: Option<Document>,
    /// Whether a host name has an address; without it, names are taken to have one.
    pub resolves: Option<&'a dyn Fn(&str) -> bool>,
    /// Analyzers to run, by name; all but the noisy ones if there are none.
    pub analyzers: BTreeSet<String>,
    /// Whether to run the noisy ones too.
    pub all_analyzers: bool,
}

/// A finding.
#[derive(Debug, Clone)]
pub struct Message {
    /// What was found.
    pub kind: &'static MessageType,
    /// Who found it, by name of the analyzer.
    pub analyzer: &'static str,
    /// The object that it is about.
    pub subject: Subject,
    /// Line of the object's file that it is about; 0 if there is none.
    pub line: usize,
    /// What it says.
    pub text: String,
}

/// One analyzer.
#[derive(Debug)]
pub struct Analyzer {
    /// Istio's name of it.
    pub name: &'static str,
    /// What it looks for.
    pub description: &'static str,
    /// Whether it says more than most people want to hear, so that it only runs when asked for.
    pub noisy: bool,
    run: fn(&Context<'_>, &mut Report),
}

/// Takes findings.
struct Report {
    analyzer: &'static str,
    messages: Vec<Message>,
}

impl Report {
    /// Adds a finding about `resource`, at `path` in it.
    fn add<const N: usize>(
        &mut self,
        kind: &'static MessageType,
        resource: &Resource,
        path: &str,
        arguments: [Argument; N],
    ) {
        if suppression::by_annotation(&resource.annotations, kind.code) {
            return;
        }
        self.messages.push(Message {
            kind,
            analyzer: self.analyzer,
            subject: Subject::from(resource),
            line: resource.document.line(path),
            text: kind.text(&arguments),
        });
    }
}

macro_rules! analyzers {
    ($($name:literal, $run:path, $description:literal $(, $noisy:ident)?;)+) => {
        /// All analyzers.
        pub static ANALYZERS: &[Analyzer] = &[$(
            Analyzer {
                name: $name,
                description: $description,
                noisy: analyzers!(@noisy $($noisy)?),
                run: $run,
            },
        )+];
    };
    (@noisy noisy) => { true };
    (@noisy) => { false };
}

analyzers! {
    "annotations.K8sAnalyzer", annotations::analyze, "Annotations of the mesh that are unknown, misplaced, invalid or deprecated.";
    "maturity.AlphaAnalyzer", annotations::alpha, "Annotations of features that may still change.", noisy;
    "authn.BlockedCIDRsAnalyzer", authn::analyze, "Key sets that are fetched from anywhere.";
    "authz.AuthorizationPoliciesAnalyzer", authz::analyze, "Policies that are for no workload, or name namespaces that do not exist.";
    "conditions.ConditionAnalyzer", conditions::analyze, "Objects whose status says that something is wrong.";
    "deployment.ServiceAssociationAnalyzer", deployment::associations, "Services that disagree about the ports of a deployment.";
    "deployment.ApplicationUIDAnalyzer", deployment::user, "Applications that run as the proxy's user.";
    "deprecation.FieldAnalyzer", deprecation::analyze, "Fields and kinds that are deprecated.";
    "destinationrule.CaCertificateAnalyzer", destination_rule::certificates, "TLS to servers whose certificates nobody checks.";
    "destinationrule.PodNotSelectedAnalyzer", destination_rule::subsets, "Subsets without Pods, and rules for unknown hosts.";
    "envoyfilter.EnvoyPatchAnalyzer", envoy_filter::analyze, "Patches that have no effect, or none after an upgrade.";
    "externalcontrolplane.ExternalControlPlaneAnalyzer", external_control_plane::analyze, "Webhooks that do not reach an external control plane.";
    "gateway.IngressGatewayPortAnalyzer", gateway::ports, "Gateways without workload, and their ports without Service.";
    "gateway.CertificateAnalyzer", gateway::certificates, "Certificates that several gateways share.";
    "gateway.SecretAnalyzer", gateway::secrets, "Credentials of gateways that are missing or invalid.";
    "gateway.ConflictingGatewayAnalyzer", gateway::conflicts, "Gateways that claim the same port and hosts.";
    "injection.Analyzer", injection::analyze, "Namespaces and Pods without sidecars.";
    "injection.ImageAnalyzer", injection::images, "Sidecars of another version than new ones would have.";
    "injection.ImageAutoAnalyzer", injection::auto_images, "`image: auto` that nobody will fill in.";
    "k8sgateway.CRDVersionAnalyzer", k8s_gateway::versions, "Definitions of the Gateway API that are too old.";
    "k8sgateway.SelectorAnalyzer", k8s_gateway::selectors, "Policies that select the workloads of a Gateway instead of naming it.";
    "multicluster.MeshNetworksAnalyzer", multicluster::networks, "Networks of registries that nobody knows.";
    "multicluster.ServiceAnalyzer", multicluster::services, "Services that differ between clusters.";
    "schemaValidation.CollectionValidationAnalyzer", schema::analyze, "Objects that validation refuses or warns about.";
    "service.PortNameAnalyzer", service::analyze, "Ports whose names do not tell their protocol.";
    "serviceentry.ConflictingServiceEntryProtocolAnalyzer", service_entry::protocols, "ServiceEntries that disagree about a port's protocol.";
    "serviceentry.ProtocolAddressesAnalyzer", service_entry::addresses, "TCP ports of ServiceEntries without addresses.";
    "sidecar.SelectorAnalyzer", sidecar::analyze, "Sidecars that conflict, or are for nothing.";
    "telemetry.DefaultSelectorAnalyzer", telemetry::defaults, "Several Telemetries for one namespace.";
    "telemetry.LightstepAnalyzer", telemetry::lightstep, "The Lightstep provider, which is no more.";
    "telemetry.ProviderAnalyzer", telemetry::providers, "Telemetries whose access logs go nowhere.";
    "telemetry.SelectorAnalyzer", telemetry::selectors, "Telemetries that conflict, or are for no workload.";
    "virtualservice.ConflictingMeshGatewayHostsAnalyzer", virtual_service::conflicts, "VirtualServices that claim the same host of the mesh.";
    "virtualservice.DestinationHostAnalyzer", virtual_service::destinations, "Routes to hosts and ports that do not exist.";
    "virtualservice.DestinationRuleAnalyzer", virtual_service::subsets, "Routes to subsets that no DestinationRule defines.";
    "virtualservice.GatewayAnalyzer", virtual_service::gateways, "Gateways that do not exist, or do not have the hosts.";
    "virtualservice.JWTClaimRouteAnalyzer", virtual_service::claims, "Routes by claims of tokens that nobody checks.";
    "webhook.Analyzer", webhook::analyze, "Injection webhooks that overlap, or reach nothing.";
}

/// Runs the analyzers: the messages, the worst first, without repetitions and without those that objects suppress.
pub fn analyze(input: &Input<'_>) -> Vec<Message> {
    let networks = networks_resource(input);
    let context = Context::new(input, &networks);
    let mut report = Report { analyzer: "", messages: Vec::new() };
    for analyzer in ANALYZERS {
        let wanted = match input.analyzers.is_empty() {
            true => input.all_analyzers || !analyzer.noisy,
            false => input.analyzers.contains(analyzer.name),
        };
        if wanted {
            report.analyzer = analyzer.name;
            (analyzer.run)(&context, &mut report);
        }
    }
    let mut messages = report.messages;
    fn key(message: &Message) -> impl Ord + '_ {
        (std::cmp::Reverse(message.kind.level), message.kind.code, &message.subject, &message.text)
    }
    messages.sort_by(|one, other| key(one).cmp(&key(other)));
    messages.dedup_by(|one, other| key(one) == key(other));
    messages
}

/// What the mesh brings along: the ingress gateway with its Pod and Service. Files alone are analyzed with it, so that
/// they are not blamed for what they do not hold (Istio's `AddDefaultResources`).
pub fn default_resources(mesh: &MeshConfig) -> Vec<Resource> {
    let service = &mesh.ingress_service;
    let port = |name: &str, number: u32| json!({"name": name, "port": number, "protocol": "TCP", "targetPort": number});
    let metadata = |name: &str| json!({"name": name, "namespace": mesh.root_namespace, "labels": {"istio": "ingressgateway"}});
    let objects = [
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": metadata(&format!("{service}-default")),
            "spec": {"containers": [{"name": "istio-proxy"}]},
        }),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": metadata(service),
            "spec": {
                "selector": {"istio": "ingressgateway"},
                "ports": [port("http2", 80), port("https", 443), port("tcp", 31400), port("tls", 15443)],
            },
        }),
    ];
    let nowhere: Arc<str> = Arc::from("");
    objects
        .into_iter()
        .map(|object| Resource::new(Document::without_lines(object), &nowhere, &nowhere, ""))
        .collect()
}

/// The objects of a file's text.
pub fn read_resources(
    text: &str,
    file: &str,
    cluster: &str,
    default_namespace: &str,
) -> Result<Vec<Resource>, crate::SyntaxError> {
    let (cluster, file): (Arc<str>, Arc<str>) = (Arc::from(cluster), Arc::from(file));
    let documents = documents(text)?;
    Ok(documents
        .into_iter()
        .map(|document| Resource::new(document, &cluster, &file, default_namespace))
        .collect())
}

/// The networks as an object that messages can be about.
fn networks_resource(input: &Input<'_>) -> Resource {
    let mut document =
        input.networks_document.clone().unwrap_or_else(|| Document::without_lines(Value::Null));
    document.value = json!({
        "kind": "MeshNetworks",
        "metadata": {"name": "meshnetworks", "namespace": input.mesh.root_namespace},
    });
    let nowhere: Arc<str> = Arc::from("");
    Resource::new(document, &nowhere, &nowhere, "")
}
