//! Webhooks that should reach a control plane outside of the cluster (`IST0163`, `IST0164`).

use super::context::Context;
use super::messages::{
    EXTERNAL_CONTROL_PLANE_ADDRESS_IS_NOT_A_HOSTNAME, INVALID_EXTERNAL_CONTROL_PLANE_CONFIG,
};
use super::{Report, Resource};

const GROUP: &str = "admissionregistration.k8s.io";

pub(super) fn analyze(context: &Context<'_>, report: &mut Report) {
    for resource in context.all(GROUP, "ValidatingWebhookConfiguration") {
        if resource.name == "istiod-default-validator" || resource.name.starts_with("istio-validator") {
            webhooks(context, resource, report);
        }
    }
    for resource in context.all(GROUP, "MutatingWebhookConfiguration") {
        if resource.name.starts_with("istio-sidecar-injector") {
            webhooks(context, resource, report);
        }
    }
}

fn webhooks(context: &Context<'_>, resource: &Resource, report: &mut Report) {
    for (index, hook) in resource.field("webhooks").as_array().into_iter().flatten().enumerate() {
        let name = hook["name"].as_str().unwrap_or_default();
        let client = &hook["clientConfig"];
        let path = format!("webhooks[{index}].clientConfig.url");
        let Some(url) = client["url"].as_str() else {
            if client["service"].is_null() {
                let values = ["".into(), name.into(), "is blank".into()];
                report.add(&INVALID_EXTERNAL_CONTROL_PLANE_CONFIG, resource, &path, values);
            }
            continue;
        };
        let problem = match host_of(url) {
            None => Some("was provided in an invalid format"),
            Some(host) if host.parse::<std::net::IpAddr>().is_ok() => {
                let values = [url.into(), name.into()];
                report.add(&EXTERNAL_CONTROL_PLANE_ADDRESS_IS_NOT_A_HOSTNAME, resource, &path, values);
                None
            }
            Some(host) => match context.resolves {
                Some(resolves) if !resolves(host) => Some("cannot be resolved via a DNS lookup"),
                _ => None,
            },
        };
        if let Some(problem) = problem {
            let values = [url.into(), name.into(), problem.into()];
            report.add(&INVALID_EXTERNAL_CONTROL_PLANE_CONFIG, resource, &path, values);
        }
    }
}

/// The host of an address such as `https://host:port/path`.
fn host_of(url: &str) -> Option<&str> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?;
    let host = match host.strip_prefix('[') {
        Some(address) => address.split(']').next()?,
        None => host.split(':').next()?,
    };
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%:".contains(&byte);
    (!scheme.is_empty() && !host.is_empty() && host.bytes().all(fits)).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_addresses() {
        for (name, url, expect) in [
            ("name", "https://a.com/inject", Some("a.com")),
            ("port", "https://a.com:15017/validate", Some("a.com")),
            ("address", "https://10.1.2.3:443", Some("10.1.2.3")),
            ("IPv6", "https://[::1]:443/", Some("::1")),
            ("user", "https://u:p@a.com/", Some("a.com")),
            ("no scheme", "a.com/x", None),
            ("no host", "https:///x", None),
            ("space", "https://a b/", None),
        ] {
            assert_eq!(host_of(url), expect, "{name}");
        }
    }
}
