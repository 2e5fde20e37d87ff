//! Label and field selectors, in the syntax of query parameters and in that of `LabelSelector` objects.

use crate::seam::KindInfo;
use crate::status::Status;
use serde_json::Value;

/// One condition on labels.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
    Greater(String, i64),
    Less(String, i64),
}

/// A conjunction of conditions on labels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

impl LabelSelector {
    /// Parses the `labelSelector` parameter: `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1,m<2`.
    pub fn parse(text: &str) -> Result<LabelSelector, Status> {
        let mut requirements = Vec::new();
        for part in split_outside_parentheses(text) {
            let part = part.trim();
            if !part.is_empty() {
                requirements.push(requirement(part).ok_or_else(|| {
                    Status::bad_request(format!(
                        "unable to parse requirement: {part:?} is not a label selector; \
                         write key=value, key!=value, key in (a,b), key notin (a,b), key, !key, key>1 or key<1"
                    ))
                })?);
            }
        }
        Ok(LabelSelector { requirements })
    }

    /// Reads a `LabelSelector` object (`matchLabels`, `matchExpressions`). An empty one selects everything.
    pub fn from_object(object: &Value) -> Result<LabelSelector, Status> {
        let mut requirements = Vec::new();
        for (key, value) in object["matchLabels"].as_object().into_iter().flatten() {
            requirements
                .push(Requirement::In(key.clone(), vec![value.as_str().unwrap_or_default().to_owned()]));
        }
        for expression in object["matchExpressions"].as_array().into_iter().flatten() {
            let key = expression["key"].as_str().unwrap_or_default().to_owned();
            let values = || expression["values"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let values = || values().map(str::to_owned).collect();
            requirements.push(match expression["operator"].as_str().unwrap_or_default() {
                "In" => Requirement::In(key, values()),
                "NotIn" => Requirement::NotIn(key, values()),
                "Exists" => Requirement::Exists(key),
                "DoesNotExist" => Requirement::Absent(key),
                other => {
                    return Err(Status::bad_request(format!(
                        "{other:?} is not a valid label selector operator"
                    )));
                }
            });
        }
        Ok(LabelSelector { requirements })
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether an object's labels satisfy all conditions.
    pub fn matches(&self, object: &Value) -> bool {
        self.requirements.is_empty() || self.matches_labels(&object["metadata"]["labels"])
    }

    /// Whether labels (an object of strings, or null) satisfy all conditions.
    pub fn matches_labels(&self, labels: &Value) -> bool {
        let label = |key: &String| labels.get(key).and_then(Value::as_str);
        self.requirements.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => {
                label(key).is_some_and(|value| values.iter().any(|one| one == value))
            }
            Requirement::NotIn(key, values) => {
                label(key).is_none_or(|value| values.iter().all(|one| one != value))
            }
            Requirement::Exists(key) => label(key).is_some(),
            Requirement::Absent(key) => label(key).is_none(),
            Requirement::Greater(key, bound) => {
                label(key).and_then(|value| value.parse::<i64>().ok()).is_some_and(|value| value > *bound)
            }
            Requirement::Less(key, bound) => {
                label(key).and_then(|value| value.parse::<i64>().ok()).is_some_and(|value| value < *bound)
            }
        })
    }

    /// The selector as a query parameter, as `status.selector` of a Scale wants it.
    pub fn render(&self) -> String {
        let parts: Vec<String> = self
            .requirements
            .iter()
            .map(|requirement| match requirement {
                Requirement::In(key, values) if values.len() == 1 => format!("{key}={}", values[0]),
                Requirement::In(key, values) => format!("{key} in ({})", values.join(",")),
                Requirement::NotIn(key, values) => format!("{key} notin ({})", values.join(",")),
                Requirement::Exists(key) => key.clone(),
                Requirement::Absent(key) => format!("!{key}"),
                Requirement::Greater(key, bound) => format!("{key}>{bound}"),
                Requirement::Less(key, bound) => format!("{key}<{bound}"),
            })
            .collect();
        parts.join(",")
    }
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut depth) = (0, 0_i32);
    for (index, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn requirement(part: &str) -> Option<Requirement> {
    let key = |text: &str| is_label_key(text.trim()).then(|| text.trim().to_owned());
    let value = |text: &str| is_label_value(text.trim()).then(|| text.trim().to_owned());
    if let Some(rest) = part.strip_prefix('!') {
        return Some(Requirement::Absent(key(rest)?));
    }
    if let Some((name, bound)) = part.split_once('>') {
        return Some(Requirement::Greater(key(name)?, bound.trim().parse().ok()?));
    }
    if let Some((name, bound)) = part.split_once('<') {
        return Some(Requirement::Less(key(name)?, bound.trim().parse().ok()?));
    }
    for (operator, positive) in [("!=", false), ("==", true), ("=", true)] {
        if let Some((name, text)) = part.split_once(operator) {
            let values = vec![value(text)?];
            return Some(if positive {
                Requirement::In(key(name)?, values)
            } else {
                Requirement::NotIn(key(name)?, values)
            });
        }
    }
    if let Some((head, list)) = part.split_once('(') {
        let list = list.trim_end().strip_suffix(')')?;
        let values: Option<Vec<String>> = list.split(',').map(value).collect();
        let mut words = head.split_whitespace();
        let name = key(words.next()?)?;
        return match (words.next()?, words.next()) {
            ("in", None) => Some(Requirement::In(name, values?)),
            ("notin", None) => Some(Requirement::NotIn(name, values?)),
            _ => None,
        };
    }
    Some(Requirement::Exists(key(part)?))
}

fn is_label_key(text: &str) -> bool {
    let name = text.rsplit_once('/').map_or(text, |(_, name)| name);
    !name.is_empty() && text.len() <= 317 && is_label_value(name) && !text.contains(char::is_whitespace)
}

fn is_label_value(text: &str) -> bool {
    text.len() <= 63
        && text
            .chars()
            .all(|character| character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.'))
}

/// The parts of a field selector; a comma behind a backslash separates nothing.
fn split_unescaped(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (index, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// A value with its escapes (`\\`, `\,`, `\=`) taken out; `None` where there is another one, or an unescaped `=`.
fn unescape(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => out.push(characters.next().filter(|next| matches!(next, '\\' | ',' | '='))?),
            '=' => return None,
            other => out.push(other),
        }
    }
    Some(out)
}

/// A conjunction of conditions on fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    conditions: Vec<(String, bool, String)>,
}

impl FieldSelector {
    /// Parses the `fieldSelector` parameter (`a=b,c!=d`) for a kind, which says what may be selected by.
    pub fn parse(text: &str, kind: &KindInfo) -> Result<FieldSelector, Status> {
        let mut conditions = Vec::new();
        for part in split_unescaped(text).into_iter().filter(|part| !part.is_empty()) {
            let wrong = || {
                Status::bad_request(format!(
                    "invalid field selector: {part:?}: write field=value or field!=value"
                ))
            };
            let at = part.find(['=', '!']).ok_or_else(wrong)?;
            let (path, rest) = part.split_at(at);
            let (equal, value) =
                match (rest.strip_prefix("!="), rest.strip_prefix("==").or(rest.strip_prefix('='))) {
                    (Some(value), _) => (false, value),
                    (None, Some(value)) => (true, value),
                    (None, None) => return Err(wrong()),
                };
            let value = unescape(value).ok_or_else(wrong)?;
            let known = path == "metadata.name"
                || path == "metadata.namespace"
                || kind.selectable_fields.iter().any(|field| field.trim_start_matches('.') == path);
            if !known {
                return Err(Status::bad_request(format!("field label not supported: {path}")));
            }
            conditions.push((path.to_owned(), equal, value));
        }
        Ok(FieldSelector { conditions })
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.conditions.is_empty()
    }

    /// Whether an object satisfies all conditions. A missing field is the empty string.
    pub fn matches(&self, object: &Value) -> bool {
        self.conditions.iter().all(|(path, equal, expected)| {
            let value = path.split('.').try_fold(object, |value, step| value.get(step));
            let same = match value {
                Some(Value::String(text)) => text == expected,
                Some(Value::Null) | None => expected.is_empty(),
                Some(Value::Bool(flag)) => expected == if *flag { "true" } else { "false" },
                Some(other) => *expected == format!("{other}"),
            };
            same == *equal
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn label_selectors() {
        let object = json!({"metadata": {"labels": {"app": "reviews", "version": "v2", "example.com/team": "a", "weight": "7"}}});
        let check = |text: &str, expect: Option<bool>| {
            let got = LabelSelector::parse(text).ok().map(|selector| selector.matches(&object));
            assert_eq!(got, expect, "{text:?}");
        };
        check("", Some(true));
        check("app=reviews", Some(true));
        check("app==reviews", Some(true));
        check("app=reviews,version=v1", Some(false));
        check("app!=ratings", Some(true));
        check("missing!=x", Some(true));
        check("version in (v1, v2)", Some(true));
        check("version in (v1),app", Some(false));
        check("version notin (v1,v3),app=reviews", Some(true));
        check("missing notin (a)", Some(true));
        check("app", Some(true));
        check("!app", Some(false));
        check("!missing", Some(true));
        check("example.com/team=a", Some(true));
        check("app=", Some(false));
        check("weight>5", Some(true));
        check("weight>7", Some(false));
        check("weight<8,weight>6", Some(true));
        check("app>1", Some(false));
        check("missing<1", Some(false));
        check("weight>x", None);
        check("a b", None);
        check("a in b", None);
        check("a in (b", None);
        check("=b", None);
    }

    #[test]
    fn field_selectors() {
        let kind = crate::builtin::kinds::kinds().into_iter().find(|kind| kind.kind == "Secret").unwrap();
        let object = json!({"metadata": {"name": "a"}, "type": "x=1,y\\z"});
        let check = |text: &str, expect: Option<bool>| {
            let got = FieldSelector::parse(text, &kind).ok().map(|selector| selector.matches(&object));
            assert_eq!(got, expect, "{text:?}");
        };
        check("", Some(true));
        check("metadata.name=a", Some(true));
        check("metadata.name==b", Some(false));
        check("metadata.name!=b,type!=Opaque", Some(true));
        check(r"type=x\=1\,y\\z", Some(true));
        check("type=x=1", None);
        check(r"type=x\y", None);
        check("metadata.name", None);
        check("metadata.uid=1", None);
    }

    #[test]
    fn selector_objects() {
        let selector = json!({"matchLabels": {"app": "a"}, "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["x", "y"]}, {"key": "old", "operator": "DoesNotExist"}]});
        let selector = LabelSelector::from_object(&selector).unwrap();
        assert_eq!(selector.render(), "app=a,tier in (x,y),!old");
        assert!(selector.matches_labels(&json!({"app": "a", "tier": "x"})));
        assert!(!selector.matches_labels(&json!({"app": "a", "tier": "x", "old": ""})));
        assert!(LabelSelector::from_object(&json!({})).unwrap().matches_labels(&Value::Null));
        assert!(
            LabelSelector::from_object(&json!({"matchExpressions": [{"key": "a", "operator": "Is"}]}))
                .is_err()
        );
    }
}
