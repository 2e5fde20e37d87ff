//! Istio's verdicts: what an object means must make sense, beyond what its schema says.

mod cel;
pub(crate) mod destination_rule;
mod envoy_filter;
mod extension;
mod gateway;
pub(crate) mod http_action;
pub(crate) mod names;
mod policy;
mod service_entry;
mod sidecar;
mod token;
mod unreachable;
mod virtual_service;

use lateen_api::extensions::{TrafficExtension, WasmPlugin};
use lateen_api::networking::{
    DestinationRule, EnvoyFilter, Gateway, ProxyConfig, ServiceEntry, Sidecar, VirtualService, WorkloadEntry,
    WorkloadGroup,
};
use lateen_api::security::{AuthorizationPolicy, PeerAuthentication, RequestAuthentication};
use lateen_api::telemetry::Telemetry;
use lateen_api::{Resource, for_each_kind};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Verdict;
use crate::check::{UnknownFields, check_schema, join};
use crate::crds::kind_schema;

/// Judges an object by the kind it names. Kinds that are not the mesh's are fine.
pub fn validate(object: &Value) -> Verdict {
    let group = object["apiVersion"].as_str().unwrap_or_default().split('/').next().unwrap_or_default();
    match kind_schema(object["kind"].as_str().unwrap_or_default()) {
        Some(kind) if kind.group == group => validate_kind(kind.kind, object),
        _ => Verdict::default(),
    }
}

/// Judges an object as one of this kind: schema first, then meaning.
pub fn validate_kind(kind: &str, object: &Value) -> Verdict {
    let Some(schema) = kind_schema(kind) else { return Verdict::default() };
    let empty = Value::Object(Default::default());
    let mut verdict = Verdict::default();
    let spec = match object.get("spec") {
        None | Some(Value::Null) => {
            if schema.schema.get("required").is_some() {
                verdict.error("spec", "is missing", "");
                return verdict;
            }
            &empty
        }
        Some(spec) => spec,
    };
    verdict.merge(check_schema(&schema.schema["properties"]["spec"], spec, "spec", UnknownFields::Warn));
    annotations(kind, object, &mut verdict);
    if verdict.is_valid() {
        macro_rules! dispatch {
            ($($type:ty),* $(,)?) => { $(if kind == <$type as Resource>::KIND { typed::<$type>(object, spec, &mut verdict); })* };
        }
        for_each_kind!(dispatch);
        cel::judge(schema.kind, object, &mut verdict);
    }
    verdict
}

/// Annotations that mean something for some kinds only.
fn annotations(kind: &str, object: &Value, verdict: &mut Verdict) {
    // Istio's way to try whether validation is at work.
    if object["metadata"]["annotations"].get(ALWAYS_REJECT).is_some() {
        verdict.error(join("metadata.annotations", ALWAYS_REJECT), "asks to be refused", "leave it out");
    }
    let dry_run = object["metadata"]["annotations"].get(DRY_RUN);
    if dry_run.is_some() && kind != AuthorizationPolicy::KIND {
        let path = join("metadata.annotations", DRY_RUN);
        verdict.error(path, format!("{kind} cannot be tried"), "leave it out");
    }
}

/// Asks to be refused, whatever the object says.
const ALWAYS_REJECT: &str = "internal.istio.io/webhook-always-reject";

/// Asks to try an `AuthorizationPolicy` without enforcing it.
const DRY_RUN: &str = "istio.io/dry-run";

/// What some rules look at beside the typed spec.
struct Context<'a> {
    name: &'a str,
    annotations: &'a Value,
    labels: &'a Value,
    namespace: &'a str,
    /// As it was written: an empty list is not the same as none.
    spec: &'a Value,
}

/// The rules of one kind.
trait Judge: Sized {
    fn judge(&self, _context: &Context<'_>, _verdict: &mut Verdict) {}
}

fn typed<T: Judge + DeserializeOwned>(object: &Value, spec: &Value, verdict: &mut Verdict) {
    match serde_path_to_error::deserialize::<_, T>(spec) {
        Ok(typed) => {
            let metadata = &object["metadata"];
            let namespace = metadata["namespace"].as_str().unwrap_or_default();
            let context = Context {
                name: metadata["name"].as_str().unwrap_or_default(),
                annotations: &metadata["annotations"],
                labels: &metadata["labels"],
                namespace,
                spec,
            };
            typed.judge(&context, verdict);
        }
        Err(error) => verdict.error(format!("spec.{}", error.path()), error.inner().to_string(), ""),
    }
}

macro_rules! judged_by {
    ($($type:ty => $function:path),* $(,)?) => {
        $(impl Judge for $type {
            fn judge(&self, context: &Context<'_>, verdict: &mut Verdict) {
                $function(self, context, verdict);
            }
        })*
    };
}

judged_by! {
    VirtualService => virtual_service::judge,
    DestinationRule => destination_rule::judge,
    Gateway => gateway::judge,
    ServiceEntry => service_entry::judge,
    Sidecar => sidecar::judge,
    WorkloadEntry => policy::workload_entry,
    WorkloadGroup => policy::workload_group,
    EnvoyFilter => envoy_filter::judge,
    AuthorizationPolicy => policy::authorization,
    PeerAuthentication => policy::peer_authentication,
    RequestAuthentication => token::judge,
    Telemetry => extension::telemetry,
    WasmPlugin => extension::wasm_plugin,
    TrafficExtension => extension::traffic_extension,
    ProxyConfig => policy::proxy_config,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The paths of errors and warnings.
    fn judged(kind: &str, spec: &str) -> (Vec<String>, Vec<String>) {
        let spec: Value = serde_saphyr::from_str(spec).unwrap();
        let object = serde_json::json!({"metadata": {"name": "a", "namespace": "default"}, "spec": spec});
        let verdict = validate_kind(kind, &object);
        let paths = |problems: Vec<crate::Problem>| problems.into_iter().map(|one| one.path).collect();
        (paths(verdict.errors), paths(verdict.warnings))
    }

    #[test]
    fn rules_of_kinds() {
        /// A name, a kind, its spec, and the paths of errors and of warnings.
        type Row<'a> = (&'a str, &'a str, &'a str, &'a [&'a str], &'a [&'a str]);
        let table: &[Row<'_>] = &[
            (
                "authority by a header",
                "VirtualService",
                "{hosts: [a.com], http: [{route: [{destination: {host: a.com}}], headers: {request: {set: {Host: b.com}}}}]}",
                &[],
                &[],
            ),
            (
                "authority twice",
                "VirtualService",
                "{hosts: [a.com], http: [{route: [{destination: {host: a.com}}], rewrite: {authority: c.com}, headers: {request: {set: {':authority': b.com}}}}]}",
                &["spec.http[0].rewrite.authority"],
                &[],
            ),
            (
                "expressions with delegates",
                "VirtualService",
                "{hosts: [a.com], http: [{match: [{uri: {regex: 'a.*'}}], delegate: {name: b, namespace: c}}]}",
                &[],
                &[],
            ),
            (
                "old share of mirrored requests",
                "VirtualService",
                "{hosts: [a.com], http: [{route: [{destination: {host: a.com}}], mirror: {host: b.com}, mirrorPercent: 5}]}",
                &[],
                &["spec.http[0].mirrorPercent"],
            ),
            (
                "nothing for a port",
                "DestinationRule",
                "{host: a.com, trafficPolicy: {portLevelSettings: [{port: {number: 80}}]}}",
                &["spec.trafficPolicy.portLevelSettings[0]"],
                &[],
            ),
            (
                "a wildcard for a part of a label",
                "Gateway",
                "{servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*-a.example.com']}]}",
                &["spec.servers[0].hosts[0]"],
                &[],
            ),
            (
                "TLS on bytes",
                "Gateway",
                "{servers: [{port: {number: 80, name: tcp, protocol: TCP}, hosts: ['*'], tls: {mode: PASSTHROUGH}}]}",
                &["spec.servers[0].tls"],
                &[],
            ),
            (
                "a short name",
                "Sidecar",
                "{egress: [{hosts: [./reviews]}]}",
                &["spec.egress[0].hosts[0]"],
                &[],
            ),
            ("nobody", "DestinationRule", "{host: a.com, exportTo: ['~']}", &["spec.exportTo[0]"], &[]),
            (
                "a key without its end",
                "AuthorizationPolicy",
                "{rules: [{when: [{key: 'request.headers[a', values: [b]}]}]}",
                &["spec.rules[0].when[0].key"],
                &[],
            ),
        ];
        for (case, kind, spec, errors, warnings) in table {
            let (found, warned) = judged(kind, spec);
            assert_eq!(
                (found.as_slice(), warned.as_slice()),
                (
                    &errors.iter().map(ToString::to_string).collect::<Vec<_>>()[..],
                    &warnings.iter().map(ToString::to_string).collect::<Vec<_>>()[..]
                ),
                "{case}"
            );
        }
    }
}
