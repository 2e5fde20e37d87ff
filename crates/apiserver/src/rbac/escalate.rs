//! Nobody grants what he does not have: writes to roles and bindings.

use super::{GROUP, compact, missing, role_of, rules_of};
use crate::api::Api;
use crate::auth::{Action, is_allowed};
use crate::seam::WriteRequest;
use crate::status::{Cause, Status};
use serde_json::Value;

/// Refuses a role with rules, or a binding to a role with rules, that the user does not have himself, unless he may
/// `escalate` the role or `bind` it.
pub(crate) fn check(api: &Api, request: &WriteRequest, object: &Value) -> Result<(), Status> {
    let kind = &request.kind;
    if kind.group != GROUP || request.subresource.is_some() {
        return Ok(());
    }
    let binding = kind.plural.ends_with("bindings");
    if let Some(old) = request.old.as_deref().filter(|old| binding && old["roleRef"] != object["roleRef"]) {
        let cause = Cause::invalid("roleRef", &old["roleRef"], "cannot change roleRef");
        return Err(Status::invalid(GROUP, &kind.kind, &request.name, vec![cause]));
    }
    if request.user.groups.iter().any(|group| api.admin_groups.contains(group)) {
        return Ok(());
    }
    let (field, verb) = if binding { ("subjects", "bind") } else { ("rules", "escalate") };
    if request.old.as_deref().is_some_and(|old| old[field] == object[field]) {
        return Ok(());
    }
    let reference = &object["roleRef"];
    let (plural, name) = match (binding, reference["kind"].as_str()) {
        (false, _) => (kind.plural.as_str(), request.name.as_str()),
        (true, Some("Role")) => ("roles", reference["name"].as_str().unwrap_or_default()),
        (true, _) => ("clusterroles", reference["name"].as_str().unwrap_or_default()),
    };
    let namespace = Some(request.namespace.as_str()).filter(|namespace| !namespace.is_empty());
    let action = Action::Resource { verb, group: GROUP, plural, subresource: None, namespace, name };
    if is_allowed(api, &request.user, &action) {
        return Ok(());
    }
    let snapshot = api.store.snapshot();
    let wanted = match binding {
        false => Some(object),
        true => role_of(&snapshot, reference, &request.namespace),
    };
    let Some(role) = wanted else {
        return Err(Status::not_found(GROUP, plural, name));
    };
    let own = rules_of(&snapshot, &request.user, namespace);
    let rules = role["rules"].as_array().into_iter().flatten();
    let missing: Vec<String> = missing(&own, rules).into_iter().map(compact).collect();
    // What an aggregated role will hold nobody knows.
    let aggregates = !binding && object["aggregationRule"].is_object();
    if missing.is_empty() && !aggregates {
        return Ok(());
    }
    let message = format!(
        "user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently held:\n{}",
        request.user.name,
        request.user.groups,
        missing.join("\n")
    );
    Err(Status::forbidden(GROUP, &kind.plural, &request.name, message))
}
