//! Walks along a shape: the fields of a value, the difference of two, one merged into another, fields removed.

use super::set::{self, FieldSet};
use super::shape::{Form, Shape};
use crate::schema::node::ListType;
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};

/// What two values differ in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Only in the new one.
    pub added: FieldSet,
    /// In both, with another value.
    pub modified: FieldSet,
    /// Only in the old one.
    pub removed: FieldSet,
}

impl Comparison {
    /// What the new value says that the old one did not.
    pub fn changed(&self) -> FieldSet {
        self.added.union(&self.modified)
    }

    fn put(&mut self, step: &str, below: Comparison) {
        self.added.put(step.to_owned(), below.added);
        self.modified.put(step.to_owned(), below.modified);
        self.removed.put(step.to_owned(), below.removed);
    }
}

/// The step of a list's element; `None` where it names none of its keys.
fn step_of(list_type: &ListType, items: Shape<'_>, element: &Value) -> Option<String> {
    match list_type {
        ListType::Map(names) => {
            let pairs: Vec<(&str, &Value)> = names
                .iter()
                .filter_map(|name| {
                    let value = element.get(name).filter(|value| !value.is_null());
                    Some((name.as_str(), value.or_else(|| items.default_of(name))?))
                })
                .collect();
            (!pairs.is_empty()).then(|| set::keys(&pairs))
        }
        _ => Some(set::value(element)),
    }
}

/// The elements of a list by their steps, in order. Of elements with the same step the first counts.
fn steps<'v>(list_type: &ListType, items: Shape<'_>, list: &'v [Value]) -> Vec<(String, &'v Value)> {
    let mut result: Vec<(String, &Value)> = Vec::with_capacity(list.len());
    for (at, element) in list.iter().enumerate() {
        let step = step_of(list_type, items, element).unwrap_or_else(|| set::index(at));
        if list.len() > 64 || !result.iter().any(|(known, _)| *known == step) {
            result.push((step, element));
        }
    }
    result
}

/// Elements that name none of their list's keys, or a key twice: such a value cannot be applied.
pub fn faults(shape: Shape<'_>, value: &Value, path: &str, found: &mut Vec<String>) {
    match shape.form(value) {
        Form::Leaf => {}
        Form::Map(map) => {
            for (name, entry) in map {
                faults(shape.field(name).0, entry, &format!("{path}.{name}"), found);
            }
        }
        Form::List(list, list_type) => {
            let items = shape.items();
            let mut seen: Vec<String> = Vec::new();
            for (at, element) in list.iter().enumerate() {
                match step_of(list_type, items, element) {
                    None => {
                        let ListType::Map(names) = list_type else { continue };
                        found.push(format!(
                            "{path}: element {at}: associative list with keys has an element that omits key field \
                             {:?} (and doesn't have default value)",
                            names.first().map(String::as_str).unwrap_or_default()
                        ));
                    }
                    Some(step) if seen.contains(&step) => {
                        found.push(format!("{path}: duplicate entries for key [{}]", &step[2..]));
                    }
                    Some(step) => seen.push(step),
                }
                faults(items, element, &format!("{path}[{at}]"), found);
            }
        }
    }
}

/// The fields that a value says something about.
pub fn fields(shape: Shape<'_>, value: &Value) -> FieldSet {
    let mut result = FieldSet::default();
    match shape.form(value) {
        Form::Leaf => return FieldSet::leaf(),
        Form::Map(map) => {
            for (name, entry) in map {
                let (below, named) = shape.field(name);
                let mut inner = fields(below, entry);
                let empty = entry.is_null() || entry.as_object().is_some_and(Map::is_empty);
                inner.member |= empty || !named;
                result.put(set::field(name), inner);
            }
        }
        Form::List(list, list_type) => {
            let items = shape.items();
            for (step, element) in steps(list_type, items, list) {
                let mut inner = match list_type {
                    ListType::Set => FieldSet::leaf(),
                    _ => fields(items, element),
                };
                inner.member = true;
                result.put(step, inner);
            }
        }
    }
    result
}

/// What two values differ in.
pub fn compare(shape: Shape<'_>, old: Option<&Value>, new: Option<&Value>) -> Comparison {
    let mut result = Comparison::default();
    if old == new {
        return result;
    }
    let leaf = |result: &mut Comparison| match (old, new) {
        (None, _) => result.added.member = true,
        (_, None) => result.removed.member = true,
        _ => result.modified.member = true,
    };
    match (old.map(|value| shape.form(value)), new.map(|value| shape.form(value))) {
        (Some(Form::Map(_)) | None, Some(Form::Map(_)) | None) => {
            let empty = Map::new();
            let before = old.and_then(Value::as_object).unwrap_or(&empty);
            let after = new.and_then(Value::as_object).unwrap_or(&empty);
            if before.is_empty() && after.is_empty() {
                leaf(&mut result);
                return result;
            }
            for (name, value) in before {
                let below = compare(shape.field(name).0, Some(value), after.get(name));
                result.put(&set::field(name), below);
            }
            for (name, value) in after.iter().filter(|(name, _)| !before.contains_key(*name)) {
                result.put(&set::field(name), compare(shape.field(name).0, None, Some(value)));
            }
        }
        (Some(Form::List(..)) | None, Some(Form::List(..)) | None) => {
            compare_lists(shape, old, new, &mut result);
        }
        (before, after) => {
            leaf(&mut result);
            // A value that takes another form: what was below it goes, what is below it now comes.
            if let (Some(old), Some(Form::Map(_) | Form::List(..))) = (old, before) {
                result.removed = result.removed.union(&compare(shape, Some(old), None).removed);
                result.removed.member = new.is_none();
            }
            if let (Some(new), Some(Form::Map(_) | Form::List(..))) = (new, after) {
                result.added = result.added.union(&compare(shape, None, Some(new)).added);
                result.added.member = old.is_none();
            }
            return result;
        }
    }
    match (old, new) {
        (None, _) => result.added.member = true,
        (_, None) => result.removed.member = true,
        _ => {}
    }
    result
}

fn compare_lists(shape: Shape<'_>, old: Option<&Value>, new: Option<&Value>, result: &mut Comparison) {
    let items = shape.items();
    let elements = |value: Option<&Value>| -> usize { value.and_then(Value::as_array).map_or(0, Vec::len) };
    let list_type = [old, new].into_iter().flatten().find_map(|value| match shape.form(value) {
        Form::List(_, list_type) => Some(list_type),
        _ => None,
    });
    let Some(list_type) = list_type.filter(|_| elements(old) + elements(new) > 0) else {
        match (old, new) {
            (None, _) => result.added.member = true,
            (_, None) => result.removed.member = true,
            _ => result.modified.member = true,
        }
        return;
    };
    let of = |value: Option<&'_ Value>| -> Vec<(String, Value)> {
        let list = value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        steps(list_type, items, list).into_iter().map(|(step, value)| (step, value.clone())).collect()
    };
    let (before, after) = (of(old), of(new));
    let known: HashMap<&str, &Value> = before.iter().map(|(step, value)| (step.as_str(), value)).collect();
    let here: HashMap<&str, &Value> = after.iter().map(|(step, value)| (step.as_str(), value)).collect();
    let items = if *list_type == ListType::Set { Shape::Atomic } else { items };
    for (step, value) in &before {
        result.put(step, compare(items, Some(value), here.get(step.as_str()).copied()));
    }
    for (step, value) in after.iter().filter(|(step, _)| !known.contains_key(step.as_str())) {
        result.put(step, compare(items, None, Some(value)));
    }
}

/// What is applied, put over what is there.
pub fn merge(shape: Shape<'_>, live: Option<&Value>, applied: &Value) -> Value {
    let Some(live) = live else { return applied.clone() };
    match (shape.form(live), shape.form(applied)) {
        (Form::Map(live), Form::Map(applied)) => {
            let mut result = live.clone();
            for (name, value) in applied {
                let merged = merge(shape.field(name).0, live.get(name), value);
                result.insert(name.clone(), merged);
            }
            Value::Object(result)
        }
        (Form::List(live, list_type), Form::List(applied, _)) => {
            Value::Array(merge_lists(shape.items(), list_type, live, applied))
        }
        _ => applied.clone(),
    }
}

/// Lists with keys: the order of what is applied holds; what is only there keeps its place relative to what both have.
fn merge_lists(items: Shape<'_>, list_type: &ListType, live: &[Value], applied: &[Value]) -> Vec<Value> {
    let before = steps(list_type, items, live);
    let after = steps(list_type, items, applied);
    let there: HashMap<&str, &Value> = before.iter().map(|(step, value)| (step.as_str(), *value)).collect();
    let named: HashSet<&str> = after.iter().map(|(step, _)| step.as_str()).collect();
    let mut shared =
        after.iter().map(|(step, _)| step.as_str()).filter(|step| there.contains_key(step)).peekable();
    let mut result = Vec::with_capacity(before.len() + after.len());
    let mut rest = before.iter().peekable();
    let items = if *list_type == ListType::Set { Shape::Atomic } else { items };
    for (step, value) in &after {
        // What stands before the next element that both have comes first.
        while let Some((own, kept)) = rest.next_if(|(own, _)| shared.peek() != Some(&own.as_str())) {
            if !named.contains(own.as_str()) {
                result.push((*kept).clone());
            }
        }
        if shared.next_if(|next| next == step).is_some() {
            rest.next_if(|(own, _)| own == step);
        }
        result.push(merge(items, there.get(step.as_str()).copied(), value));
    }
    let rest = rest.filter(|(step, _)| !named.contains(step.as_str()));
    result.extend(rest.map(|(_, value)| (*value).clone()));
    result
}

/// A value without the fields of a set; `None` where nothing is left of it.
pub fn remove(shape: Shape<'_>, value: &Value, gone: &FieldSet) -> Option<Value> {
    match shape.form(value) {
        Form::Leaf => Some(value.clone()),
        Form::Map(map) => {
            let mut result = Map::with_capacity(map.len());
            for (name, entry) in map {
                match gone.below.get(&set::field(name)) {
                    None => drop(result.insert(name.clone(), entry.clone())),
                    Some(gone) if gone.member => {}
                    Some(gone) => {
                        if let Some(left) = remove(shape.field(name).0, entry, gone) {
                            result.insert(name.clone(), left);
                        }
                    }
                }
            }
            (!result.is_empty() || map.is_empty()).then_some(Value::Object(result))
        }
        Form::List(list, list_type) => {
            let items = shape.items();
            let mut result = Vec::with_capacity(list.len());
            for (at, element) in list.iter().enumerate() {
                let step = step_of(list_type, items, element).unwrap_or_else(|| set::index(at));
                match gone.below.get(&step) {
                    None => result.push(element.clone()),
                    Some(gone) if gone.member => {}
                    Some(gone) => result.extend(remove(items, element, gone)),
                }
            }
            (!result.is_empty() || list.is_empty()).then_some(Value::Array(result))
        }
    }
}

/// The set with the fields that lead to its members and are named by the schema: whoever owns `spec.replicas` has
/// `spec`, too, but whoever owns an entry of a map does not have the map's other entries.
pub fn with_named(shape: Shape<'_>, set: &FieldSet) -> FieldSet {
    let mut result = FieldSet { member: set.member, ..FieldSet::default() };
    for (step, below) in &set.below {
        let (inner_shape, named) = match step.strip_prefix("f:") {
            Some(name) => shape.field(name),
            None => (shape.items(), false),
        };
        let mut inner = with_named(inner_shape, below);
        inner.member |= named;
        result.put(step.clone(), inner);
    }
    result
}
