//! Single rules: what they allow, and whether they cover others.

use crate::auth::Action;
use serde_json::Value;

fn list<'a>(rule: &'a Value, field: &str) -> impl Iterator<Item = &'a str> + use<'a> {
    rule[field].as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn has(rule: &Value, field: &str, wanted: &str) -> bool {
    list(rule, field).any(|entry| entry == "*" || entry == wanted)
}

/// Whether a rule's resources include one, with or without subresource: `pods`, `pods/log`, `*/log`, `*`.
fn has_resource(rule: &Value, plural: &str, subresource: Option<&str>) -> bool {
    list(rule, "resources").any(|entry| match subresource {
        _ if entry == "*" => true,
        None => entry == plural,
        Some(sub) => {
            entry.split_once('/').is_some_and(|(head, tail)| (head == plural || head == "*") && tail == sub)
        }
    })
}

fn has_path(rule: &Value, path: &str) -> bool {
    list(rule, "nonResourceURLs").any(|entry| match entry.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => path == entry,
    })
}

/// Whether a rule allows something.
pub fn allows(rule: &Value, action: &Action<'_>) -> bool {
    match action {
        Action::Path { verb, path } => has(rule, "verbs", verb) && has_path(rule, path),
        Action::Resource { verb, group, plural, subresource, name, .. } => {
            has(rule, "verbs", verb)
                && has(rule, "apiGroups", group)
                && has_resource(rule, plural, *subresource)
                && (list(rule, "resourceNames").next().is_none()
                    || (!name.is_empty() && list(rule, "resourceNames").any(|entry| entry == *name)))
        }
    }
}

/// Whether `rules` allow everything that another rule does.
pub fn covered(rules: &[Value], wanted: &Value) -> bool {
    let star = |field: &str, entry: &str, rule: &Value| {
        if entry == "*" { list(rule, field).any(|own| own == "*") } else { has(rule, field, entry) }
    };
    list(wanted, "verbs").all(|verb| {
        let paths = list(wanted, "nonResourceURLs").all(|path| {
            rules.iter().any(|rule| {
                star("verbs", verb, rule)
                    && match path.strip_suffix('*') {
                        Some(_) => list(rule, "nonResourceURLs").any(|own| {
                            own == path
                                || own.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
                        }),
                        None => has_path(rule, path),
                    }
            })
        });
        let resources = list(wanted, "apiGroups").all(|group| {
            list(wanted, "resources").all(|resource| {
                let mut names: Vec<Option<&str>> = list(wanted, "resourceNames").map(Some).collect();
                if names.is_empty() {
                    names.push(None);
                }
                names.into_iter().all(|name| {
                    rules.iter().any(|rule| {
                        let (plural, subresource) = match resource.split_once('/') {
                            Some((plural, subresource)) => (plural, Some(subresource)),
                            None => (resource, None),
                        };
                        let named = list(rule, "resourceNames").next().is_some();
                        star("verbs", verb, rule)
                            && star("apiGroups", group, rule)
                            && if resource == "*" {
                                list(rule, "resources").any(|own| own == "*")
                            } else {
                                has_resource(rule, plural, subresource)
                            }
                            && (!named
                                || name
                                    .is_some_and(|name| list(rule, "resourceNames").any(|own| own == name)))
                    })
                })
            })
        });
        paths && resources
    })
}

/// The rules that are not covered.
pub fn missing<'a>(own: &[Value], wanted: impl Iterator<Item = &'a Value>) -> Vec<&'a Value> {
    wanted.filter(|rule| !covered(own, rule)).collect()
}

/// A rule as refusals print it.
pub fn compact(rule: &Value) -> String {
    let names = [
        ("apiGroups", "APIGroups"),
        ("resources", "Resources"),
        ("resourceNames", "ResourceNames"),
        ("nonResourceURLs", "NonResourceURLs"),
        ("verbs", "Verbs"),
    ];
    let parts: Vec<String> = names
        .iter()
        .filter(|(field, _)| list(rule, field).next().is_some())
        .map(|(field, name)| {
            let entries: Vec<String> = list(rule, field).map(|entry| format!("{entry:?}")).collect();
            format!("{name}:[{}]", entries.join(", "))
        })
        .collect();
    format!("{{{}}}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_rules_allow() {
        let action = |verb, group, plural, subresource, name| Action::Resource {
            verb,
            group,
            plural,
            subresource,
            namespace: Some("a"),
            name,
        };
        let pods = json!({"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list"]});
        let named = json!({"apiGroups": [""], "resources": ["pods"], "resourceNames": ["p"], "verbs": ["*"]});
        let logs = json!({"apiGroups": ["*"], "resources": ["*/log"], "verbs": ["get"]});
        let all = json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]});
        let check = |name: &str, rule: &Value, action: Action<'_>, expect: bool| {
            assert_eq!(allows(rule, &action), expect, "{name}");
        };
        check("a resource", &pods, action("get", "", "pods", None, "p"), true);
        check("another verb", &pods, action("delete", "", "pods", None, "p"), false);
        check("another group", &pods, action("get", "apps", "pods", None, "p"), false);
        check("a subresource", &pods, action("get", "", "pods", Some("log"), "p"), true);
        check("another subresource", &pods, action("get", "", "pods", Some("status"), "p"), false);
        check("a name", &named, action("delete", "", "pods", None, "p"), true);
        check("another name", &named, action("delete", "", "pods", None, "q"), false);
        check("no name", &named, action("list", "", "pods", None, ""), false);
        check("a subresource of anything", &logs, action("get", "x", "things", Some("log"), "t"), true);
        check("not the thing itself", &logs, action("get", "x", "things", None, "t"), false);
        check("everything", &all, action("escalate", "x", "things", Some("y"), "t"), true);
        let paths = json!({"nonResourceURLs": ["/version", "/openapi/*"], "verbs": ["get"]});
        let path = |path| Action::Path { verb: "get", path };
        check("a path", &paths, path("/version"), true);
        check("a path below", &paths, path("/openapi/v3"), true);
        check("another path", &paths, path("/metrics"), false);
    }

    #[test]
    fn what_rules_cover() {
        let own = [
            json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}),
            json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["watch"]}),
            json!({"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["s"], "verbs": ["*"]}),
        ];
        let check = |name: &str, rule: Value, expect: bool| {
            assert_eq!(covered(&own, &rule), expect, "{name}");
        };
        check(
            "two rules together",
            json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "watch"]}),
            true,
        );
        check(
            "one verb more",
            json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "delete"]}),
            false,
        );
        check("all verbs", json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["*"]}), false);
        check(
            "a name",
            json!({"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["s"], "verbs": ["get"]}),
            true,
        );
        check("all names", json!({"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}), false);
        check("a path", json!({"nonResourceURLs": ["/x"], "verbs": ["get"]}), false);
    }
}
