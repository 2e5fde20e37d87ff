//! Role-based access control: who may do what, by Roles and ClusterRoles and their bindings.
//!
//! The rules are those of Kubernetes' documentation "Using RBAC Authorization". Every decision reads the newest state of
//! the store, so that a binding works as soon as it is acknowledged. `defaults` are the roles every cluster has,
//! `aggregate` keeps the rules of aggregated roles, and `escalate` lets nobody grant what he does not have.

mod aggregate;
mod defaults;
mod escalate;
mod rules;

pub(crate) use aggregate::run;
pub(crate) use defaults::bootstrap;
pub(crate) use escalate::check as check_escalation;
use rules::{allows, compact, missing};

use crate::auth::Action;
use crate::seam::UserInfo;
use crate::store::Snapshot;
use serde_json::Value;

pub(crate) const GROUP: &str = "rbac.authorization.k8s.io";
const ROLES: &str = "rbac.authorization.k8s.io/roles";
const CLUSTER_ROLES: &str = "rbac.authorization.k8s.io/clusterroles";
const ROLE_BINDINGS: &str = "rbac.authorization.k8s.io/rolebindings";
const CLUSTER_ROLE_BINDINGS: &str = "rbac.authorization.k8s.io/clusterrolebindings";

/// Whether a user's roles allow something.
pub(crate) fn is_allowed(snapshot: &Snapshot, user: &UserInfo, action: &Action<'_>) -> bool {
    let namespace = match action {
        Action::Resource { namespace, .. } => *namespace,
        Action::Path { .. } => None,
    };
    visit(snapshot, user, namespace, &mut |rule| allows(rule, action))
}

/// All rules a user has: those for the whole cluster, and those for a namespace.
pub(crate) fn rules_of(snapshot: &Snapshot, user: &UserInfo, namespace: Option<&str>) -> Vec<Value> {
    let mut rules = Vec::new();
    visit(snapshot, user, namespace, &mut |rule| {
        rules.push(rule.clone());
        false
    });
    rules
}

/// Shows a user's rules to `look` until it has seen enough.
fn visit(
    snapshot: &Snapshot,
    user: &UserInfo,
    namespace: Option<&str>,
    look: &mut dyn FnMut(&Value) -> bool,
) -> bool {
    let namespace = namespace.filter(|namespace| !namespace.is_empty());
    let cluster = snapshot.list(CLUSTER_ROLE_BINDINGS, None, None);
    let local = namespace.into_iter().flat_map(|name| snapshot.list(ROLE_BINDINGS, Some(name), None));
    for (key, binding) in cluster.chain(local) {
        let subjects = binding.value["subjects"].as_array().into_iter().flatten();
        if !subjects.into_iter().any(|subject| is_subject(subject, user, &key.namespace)) {
            continue;
        }
        let Some(role) = role_of(snapshot, &binding.value["roleRef"], &key.namespace) else { continue };
        if role["rules"].as_array().into_iter().flatten().any(&mut *look) {
            return true;
        }
    }
    false
}

/// The role a binding refers to; `namespace` is that of the binding.
fn role_of<'a>(snapshot: &'a Snapshot, reference: &Value, namespace: &str) -> Option<&'a Value> {
    let name = reference["name"].as_str()?;
    let stored = match reference["kind"].as_str()? {
        "ClusterRole" => snapshot.get(CLUSTER_ROLES, "", name),
        "Role" if !namespace.is_empty() => snapshot.get(ROLES, namespace, name),
        _ => None,
    };
    stored.map(|stored| &*stored.value)
}

fn is_subject(subject: &Value, user: &UserInfo, namespace: &str) -> bool {
    let name = subject["name"].as_str().unwrap_or_default();
    match subject["kind"].as_str().unwrap_or_default() {
        "User" => user.name == name,
        "Group" => user.groups.iter().any(|group| group == name),
        "ServiceAccount" => {
            let own = subject["namespace"].as_str().filter(|own| !own.is_empty()).unwrap_or(namespace);
            let rest = user.name.strip_prefix("system:serviceaccount:");
            rest.and_then(|rest| rest.split_once(':')) == Some((own, name))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn subjects() {
        let user = UserInfo {
            name: "system:serviceaccount:a:s".into(),
            groups: vec!["system:serviceaccounts".into()],
            ..UserInfo::default()
        };
        let check = |name: &str, subject: Value, expect: bool| {
            assert_eq!(is_subject(&subject, &user, "a"), expect, "{name}");
        };
        check("account", json!({"kind": "ServiceAccount", "name": "s", "namespace": "a"}), true);
        check(
            "account of another namespace",
            json!({"kind": "ServiceAccount", "name": "s", "namespace": "b"}),
            false,
        );
        check("account of the binding's namespace", json!({"kind": "ServiceAccount", "name": "s"}), true);
        check("user", json!({"kind": "User", "name": "system:serviceaccount:a:s"}), true);
        check("group", json!({"kind": "Group", "name": "system:serviceaccounts"}), true);
        check("other group", json!({"kind": "Group", "name": "system:masters"}), false);
    }
}
