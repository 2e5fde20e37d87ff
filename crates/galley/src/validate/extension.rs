//! Telemetry, WasmPlugin and TrafficExtension: what proxies do beside forwarding.

use lateen_api::telemetry::Telemetry;

use super::Context;
use super::policy::attached;
use crate::Verdict;

pub(super) fn telemetry(telemetry: &Telemetry, _: &Context<'_>, verdict: &mut Verdict) {
    attached(telemetry.selector.as_ref(), telemetry.target_ref.as_ref(), &telemetry.target_refs, verdict);
    if telemetry.tracing.len() > 1 {
        verdict.warn("spec.tracing", "multiple tracing is not supported: only one counts", "leave one");
    }
    for (index, metrics) in telemetry.metrics.iter().enumerate() {
        for (place, override_) in metrics.overrides.iter().enumerate() {
            if override_.tag_overrides.contains_key("") {
                let path = format!("spec.metrics[{index}].overrides[{place}].tagOverrides");
                verdict.warn(path, "has an empty name", "name the label");
            }
        }
    }
    for (index, tracing) in telemetry.tracing.iter().enumerate() {
        if tracing.custom_tags.contains_key("") {
            verdict.error(format!("spec.tracing[{index}].customTags"), "has an empty name", "name the tag");
        }
        if tracing.providers.len() > 1 {
            verdict.warn(
                format!("spec.tracing[{index}].providers"),
                "multiple providers is not supported: only the first counts",
                "leave one",
            );
        }
    }
    for (index, logging) in telemetry.access_logging.iter().enumerate() {
        if let Some(filter) = &logging.filter
            && let Err(error) = kube_cel::cel::Program::compile(&filter.expression)
        {
            verdict.error(
                format!("spec.accessLogging[{index}].filter.expression"),
                format!("is not CEL: {error}"),
                "",
            );
        }
    }
}

pub(super) fn wasm_plugin(
    plugin: &lateen_api::extensions::WasmPlugin,
    _: &Context<'_>,
    verdict: &mut Verdict,
) {
    attached(plugin.selector.as_ref(), plugin.target_ref.as_ref(), &plugin.target_refs, verdict);
    module_url("spec.url", &plugin.url, verdict);
}

pub(super) fn traffic_extension(
    extension: &lateen_api::extensions::TrafficExtension,
    _: &Context<'_>,
    verdict: &mut Verdict,
) {
    attached(extension.selector.as_ref(), None, &extension.target_refs, verdict);
    if let Some(wasm) = &extension.wasm {
        module_url("spec.wasm.url", &wasm.url, verdict);
    }
}

fn module_url(path: &str, url: &str, verdict: &mut Verdict) {
    if let Some((scheme, _)) = url.split_once("://")
        && !matches!(scheme, "oci" | "http" | "https" | "file")
    {
        verdict.error(
            path,
            format!("{scheme:?} is not a scheme for modules"),
            "use oci, http, https or file",
        );
    }
}
