//! Authentication: what a key set's address may reach (`IST0175`).

use super::Report;
use super::context::{Context, containers};
use super::messages::JWKS_URI_FETCH_UNRESTRICTED;

/// The control plane fetches key sets from wherever a RequestAuthentication says: without a list of what it must not
/// reach, who may write such an object can reach the control plane's neighbours.
pub(super) fn analyze(context: &Context<'_>, report: &mut Report) {
    let names: Vec<String> =
        context.request_authentications.iter().map(|(resource, _)| resource.full_name()).collect();
    if names.is_empty() {
        return;
    }
    const SHOWN: usize = 5;
    let mut text = names[..names.len().min(SHOWN)].join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(", and {} more", names.len() - SHOWN));
    }
    for deployment in context.deployments() {
        if deployment.labels.get("app").is_none_or(|app| app != "istiod") {
            continue;
        }
        let template = &deployment.spec()["template"]["spec"];
        let restricted =
            containers(template).flat_map(|one| one["env"].as_array()).flatten().any(|variable| {
                variable["name"] == "BLOCKED_CIDRS_IN_JWKS_URIS"
                    && variable["value"].as_str().is_some_and(|value| !value.is_empty())
            });
        if !restricted {
            let count = names.len() as i64;
            let path = "spec.template.spec.containers";
            report.add(&JWKS_URI_FETCH_UNRESTRICTED, deployment, path, [count.into(), (&text).into()]);
        }
    }
}
