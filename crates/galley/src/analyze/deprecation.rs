//! Fields and kinds that are deprecated (`IST0002`).

use super::Report;
use super::context::Context;
use super::messages::DEPRECATED;

/// Kinds that were taken out of the API.
const REMOVED: &[(&str, &str)] = &[
    ("rbac.istio.io", "ClusterRbacConfig"),
    ("rbac.istio.io", "RbacConfig"),
    ("rbac.istio.io", "ServiceRole"),
    ("rbac.istio.io", "ServiceRoleBinding"),
];

pub(super) fn analyze(context: &Context<'_>, report: &mut Report) {
    for (resource, service) in &context.virtual_services {
        for (index, route) in service.http.iter().enumerate() {
            let delay = route.fault.as_ref().and_then(|fault| fault.delay.as_ref());
            if delay.is_some_and(|delay| delay.percent > 0) {
                let text =
                    "HTTPRoute.fault.delay.percent is deprecated; use HTTPRoute.fault.delay.percentage";
                let path = format!("spec.http[{index}].fault.delay.percent");
                report.add(&DEPRECATED, resource, &path, [text.into()]);
            }
        }
    }
    for (resource, sidecar) in &context.sidecars {
        if sidecar.outbound_traffic_policy.as_ref().is_some_and(|policy| policy.egress_proxy.is_some()) {
            let path = "spec.outboundTrafficPolicy.egressProxy";
            report.add(&DEPRECATED, resource, path, ["OutboundTrafficPolicy.EgressProxy ignored".into()]);
        }
    }
    for resource in context.all("apiextensions.k8s.io", "CustomResourceDefinition") {
        let spec = resource.spec();
        let group = spec["group"].as_str().unwrap_or_default();
        let kind = spec["names"]["kind"].as_str().unwrap_or_default();
        if REMOVED.contains(&(group, kind)) {
            let text = format!("Custom resource type {group} {kind} is removed");
            report.add(&DEPRECATED, resource, "spec.names.kind", [text.into()]);
        }
    }
}
