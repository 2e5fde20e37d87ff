//! Annotations that the mesh reads: known, in their place, valid (`IST0107`, `IST0108`, `IST0125`, `IST0135`,
//! `IST0136`). The table is Istio's page "Resource Annotations".

use super::context::Context;
use super::messages::{
    ALPHA_ANNOTATION, DEPRECATED_ANNOTATION, INVALID_ANNOTATION, MISPLACED_ANNOTATION, UNKNOWN_ANNOTATION,
};
use super::{Report, Resource};
use crate::check::join;

/// Whether a feature is finished.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Status {
    Alpha,
    Beta,
    Stable,
    DeprecatedAlpha,
    DeprecatedBeta,
}

use Status::{Alpha, Beta, DeprecatedAlpha, DeprecatedBeta, Stable};

impl Status {
    fn is_alpha(self) -> bool {
        matches!(self, Alpha | DeprecatedAlpha)
    }

    fn is_deprecated(self) -> bool {
        matches!(self, DeprecatedAlpha | DeprecatedBeta)
    }
}

/// Kinds that an annotation may be on.
type Kinds = &'static [&'static str];

const ANY: Kinds = &[];
const POD: Kinds = &["Pod"];
const SERVICE: Kinds = &["Service"];
const GATEWAY: Kinds = &["Gateway"];
const WORKLOAD_ENTRY: Kinds = &["WorkloadEntry"];

const ANNOTATIONS: &[(&str, Status, Kinds)] = &[
    ("alpha.istio.io/canonical-serviceaccounts", DeprecatedAlpha, SERVICE),
    ("alpha.istio.io/kubernetes-serviceaccounts", DeprecatedAlpha, SERVICE),
    ("ambient.istio.io/bypass-inbound-capture", Alpha, POD),
    ("ambient.istio.io/dns-capture", Alpha, POD),
    ("ambient.istio.io/redirection", Beta, POD),
    ("ambient.istio.io/waypoint-inbound-binding", Alpha, &["GatewayClass", "Gateway"]),
    ("galley.istio.io/analyze-suppress", Alpha, ANY),
    ("gateway.istio.io/controller-version", Alpha, ANY),
    ("gateway.istio.io/name-override", Alpha, GATEWAY),
    ("gateway.istio.io/service-account", Alpha, GATEWAY),
    ("gateway.istio.io/tls-cipher-suites", Alpha, GATEWAY),
    ("gateway.istio.io/tls-terminate-mode", Alpha, GATEWAY),
    ("inject.istio.io/templates", Alpha, POD),
    ("install.operator.istio.io/chart-owner", Alpha, ANY),
    ("install.operator.istio.io/owner-generation", Alpha, ANY),
    ("install.operator.istio.io/version", Alpha, ANY),
    ("istio.io/autoRegistrationGroup", Alpha, WORKLOAD_ENTRY),
    ("istio.io/connectedAt", Alpha, WORKLOAD_ENTRY),
    ("istio.io/disconnectedAt", Alpha, WORKLOAD_ENTRY),
    ("istio.io/dry-run", Alpha, &["AuthorizationPolicy"]),
    ("istio.io/reroute-virtual-interfaces", Alpha, POD),
    ("istio.io/rev", Alpha, POD),
    ("istio.io/workloadController", Alpha, WORKLOAD_ENTRY),
    ("kubernetes.io/ingress.class", Stable, &["Ingress"]),
    ("networking.istio.io/address-type", Alpha, GATEWAY),
    ("networking.istio.io/exportTo", Alpha, SERVICE),
    ("networking.istio.io/service-type", Alpha, GATEWAY),
    ("networking.istio.io/traffic-distribution", Alpha, &["Service", "ServiceEntry", "Namespace"]),
    ("prometheus.istio.io/merge-metrics", Alpha, POD),
    ("proxy.istio.io/config", Beta, POD),
    ("proxy.istio.io/overrides", Alpha, POD),
    ("readiness.status.sidecar.istio.io/applicationPorts", Alpha, POD),
    ("readiness.status.sidecar.istio.io/failureThreshold", Alpha, POD),
    ("readiness.status.sidecar.istio.io/initialDelaySeconds", Alpha, POD),
    ("readiness.status.sidecar.istio.io/periodSeconds", Alpha, POD),
    ("sidecar.istio.io/agentLogLevel", Alpha, POD),
    ("sidecar.istio.io/bootstrapOverride", Alpha, POD),
    ("sidecar.istio.io/componentLogLevel", Alpha, POD),
    ("sidecar.istio.io/discoveryAddress", DeprecatedAlpha, POD),
    ("sidecar.istio.io/enableCoreDump", Alpha, POD),
    ("sidecar.istio.io/extraStatTags", DeprecatedAlpha, POD),
    ("sidecar.istio.io/inject", DeprecatedBeta, POD),
    ("sidecar.istio.io/interceptionMode", Alpha, POD),
    ("sidecar.istio.io/logLevel", Alpha, POD),
    ("sidecar.istio.io/nativeSidecar", Alpha, POD),
    ("sidecar.istio.io/proxyCPU", Alpha, POD),
    ("sidecar.istio.io/proxyCPULimit", Alpha, POD),
    ("sidecar.istio.io/proxyImage", Alpha, POD),
    ("sidecar.istio.io/proxyImageType", Alpha, POD),
    ("sidecar.istio.io/proxyMemory", Alpha, POD),
    ("sidecar.istio.io/proxyMemoryLimit", Alpha, POD),
    ("sidecar.istio.io/rewriteAppHTTPProbers", Alpha, POD),
    ("sidecar.istio.io/statsCompression", Alpha, POD),
    ("sidecar.istio.io/statsEvictionInterval", Alpha, POD),
    ("sidecar.istio.io/statsHistogramBuckets", Alpha, POD),
    ("sidecar.istio.io/statsInclusionPrefixes", DeprecatedAlpha, POD),
    ("sidecar.istio.io/statsInclusionRegexps", DeprecatedAlpha, POD),
    ("sidecar.istio.io/statsInclusionSuffixes", DeprecatedAlpha, POD),
    ("sidecar.istio.io/status", Alpha, POD),
    ("sidecar.istio.io/userVolume", Alpha, POD),
    ("sidecar.istio.io/userVolumeMount", Alpha, POD),
    ("status.sidecar.istio.io/port", Alpha, POD),
    ("topology.istio.io/controlPlaneClusters", Alpha, &["Namespace"]),
    ("traffic.istio.io/nodeSelector", Stable, SERVICE),
    ("traffic.sidecar.istio.io/excludeInboundPorts", Alpha, POD),
    ("traffic.sidecar.istio.io/excludeInterfaces", Alpha, POD),
    ("traffic.sidecar.istio.io/excludeOutboundIPRanges", Alpha, POD),
    ("traffic.sidecar.istio.io/excludeOutboundPorts", Alpha, POD),
    ("traffic.sidecar.istio.io/includeInboundPorts", Alpha, POD),
    ("traffic.sidecar.istio.io/includeOutboundIPRanges", Alpha, POD),
    ("traffic.sidecar.istio.io/includeOutboundPorts", Alpha, POD),
    ("traffic.sidecar.istio.io/kubevirtInterfaces", DeprecatedAlpha, POD),
];

/// Those that the control plane sets by itself.
const SET_BY_CONTROL_PLANE: &[&str] =
    &["sidecar.istio.io/status", "gateway.istio.io/controller-version", "istio.io/rev"];

/// Those that interception by the node's plugin sets.
const SET_BY_PLUGIN: &[&str] = &[
    "sidecar.istio.io/interceptionMode",
    "traffic.sidecar.istio.io/includeInboundPorts",
    "traffic.sidecar.istio.io/excludeInboundPorts",
    "traffic.sidecar.istio.io/includeOutboundIPRanges",
];

/// The kinds whose annotations are looked at.
fn subjects<'a>(context: &Context<'a>) -> impl Iterator<Item = &'a Resource> {
    [context.namespaces(), context.services(), context.pods(), context.deployments()]
        .concat()
        .into_iter()
        .filter(|resource| !resource.annotations.is_empty())
}

/// Whether an annotation is the mesh's, known or not.
fn is_ours(name: &str) -> bool {
    name == "kubernetes.io/ingress.class"
        || name.split('/').next().is_some_and(|group| group.ends_with("istio.io"))
}

fn find(name: &str) -> Option<(Status, Kinds)> {
    ANNOTATIONS.iter().find(|known| known.0 == name).map(|known| (known.1, known.2))
}

fn path_of(name: &str) -> String {
    join("metadata.annotations", name)
}

pub(super) fn analyze(context: &Context<'_>, report: &mut Report) {
    for resource in subjects(context) {
        for (name, value) in resource.annotations.iter().filter(|(name, _)| is_ours(name)) {
            let Some((status, kinds)) = find(name) else {
                report.add(&UNKNOWN_ANNOTATION, resource, &path_of(name), [name.into()]);
                continue;
            };
            // Who has the new label as well knows about it.
            let knows = name == "sidecar.istio.io/inject" && resource.labels.contains_key(name);
            if status.is_deprecated() && !knows {
                let instead = match name.as_str() {
                    "sidecar.istio.io/inject" => " in favor of the \"sidecar.istio.io/inject\" label",
                    _ => "",
                };
                report.add(&DEPRECATED_ANNOTATION, resource, &path_of(name), [name.into(), instead.into()]);
            }
            if kinds.is_empty() {
                continue;
            }
            if !kinds.contains(&resource.kind.as_str()) {
                let places = kinds.join(", ");
                report.add(&MISPLACED_ANNOTATION, resource, &path_of(name), [name.into(), places.into()]);
            } else if let Err(problem) = validate(name, value) {
                report.add(&INVALID_ANNOTATION, resource, &path_of(name), [name.into(), problem.into()]);
            }
        }
    }
}

pub(super) fn alpha(context: &Context<'_>, report: &mut Report) {
    for resource in subjects(context) {
        let mut init = resource.spec()["initContainers"].as_array().into_iter().flatten();
        let by_plugin = resource.kind == "Pod" && !init.any(|container| container["name"] == "istio-init");
        for name in resource.annotations.keys().filter(|name| is_ours(name)) {
            let is_alpha = find(name).is_some_and(|(status, _)| status.is_alpha());
            let by_itself = SET_BY_CONTROL_PLANE.contains(&name.as_str())
                || (by_plugin && SET_BY_PLUGIN.contains(&name.as_str()));
            if is_alpha && !by_itself {
                report.add(&ALPHA_ANNOTATION, resource, &path_of(name), [name.into()]);
            }
        }
    }
}

/// Whether the value can be used; what is wrong with it where not.
fn validate(name: &str, value: &str) -> Result<(), String> {
    let (group, name) = name.split_once('/').unwrap_or_default();
    match (group, name) {
        ("sidecar.istio.io", "interceptionMode") => match value {
            "REDIRECT" | "TPROXY" | "NONE" => Ok(()),
            other => Err(format!("{other:?} is no interception mode; use REDIRECT, TPROXY or NONE")),
        },
        ("status.sidecar.istio.io", "port") => port(value),
        (
            "readiness.status.sidecar.istio.io",
            "initialDelaySeconds" | "periodSeconds" | "failureThreshold",
        ) => value.parse::<u32>().map(drop).map_err(|_| format!("{value:?} is no number of 0 or more")),
        ("traffic.sidecar.istio.io", "includeOutboundIPRanges") if value == "*" => Ok(()),
        ("traffic.sidecar.istio.io", "includeOutboundIPRanges" | "excludeOutboundIPRanges") => {
            list(value, |range| match range.parse::<ipnet::IpNet>() {
                Ok(_) => Ok(()),
                Err(_) => Err(format!("{range:?} is no address range such as 10.0.0.0/8")),
            })
        }
        ("traffic.sidecar.istio.io", "includeInboundPorts") if value == "*" => Ok(()),
        (
            "traffic.sidecar.istio.io",
            "includeInboundPorts" | "excludeInboundPorts" | "excludeOutboundPorts",
        ) => list(value, port),
        ("prometheus.istio.io", "merge-metrics") => match value {
            "1" | "t" | "T" | "TRUE" | "true" | "True" | "0" | "f" | "F" | "FALSE" | "false" | "False" => {
                Ok(())
            }
            other => Err(format!("{other:?} is neither true nor false")),
        },
        ("proxy.istio.io", "config") => {
            let verdict = crate::mesh::validate_proxy_config_text(value);
            if verdict.is_valid() { Ok(()) } else { Err(verdict.message()) }
        }
        _ => Ok(()),
    }
}

fn list(text: &str, check: impl Fn(&str) -> Result<(), String>) -> Result<(), String> {
    if text.trim().is_empty() {
        return Ok(());
    }
    text.split(',').try_for_each(|one| check(one.trim()))
}

fn port(text: &str) -> Result<(), String> {
    text.trim().parse::<u16>().map(drop).map_err(|_| format!("{text:?} is no port from 0 to 65535"))
}
