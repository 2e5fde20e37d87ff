//! Sets of fields, in the form and with the operations of `FieldsV1`.

use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A set of fields: a tree whose nodes are the steps into an object.
///
/// A step is what stands in `FieldsV1`: `f:NAME` (a field), `k:{"name":"a"}` (an element by its keys), `v:"a"` (an
/// element by its value), `i:0` (an element by its place).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSet {
    /// Whether the place itself belongs to the set.
    pub member: bool,
    /// What belongs to it below.
    pub below: BTreeMap<String, FieldSet>,
}

impl FieldSet {
    /// The set of the place itself.
    pub fn leaf() -> FieldSet {
        FieldSet { member: true, below: BTreeMap::new() }
    }

    /// Whether nothing belongs to it.
    pub fn is_empty(&self) -> bool {
        !self.member && self.below.values().all(FieldSet::is_empty)
    }

    /// Adds what belongs to the set at a step.
    pub fn put(&mut self, step: String, below: FieldSet) {
        if !below.is_empty() {
            match self.below.get_mut(&step) {
                Some(known) => *known = known.union(&below),
                None => drop(self.below.insert(step, below)),
            }
        }
    }

    /// What belongs to either.
    pub fn union(&self, other: &FieldSet) -> FieldSet {
        let mut result = self.clone();
        result.member |= other.member;
        for (step, below) in &other.below {
            result.put(step.clone(), below.clone());
        }
        result
    }

    /// What belongs to both.
    pub fn intersection(&self, other: &FieldSet) -> FieldSet {
        let mut result = FieldSet { member: self.member && other.member, below: BTreeMap::new() };
        for (step, below) in &self.below {
            if let Some(there) = other.below.get(step) {
                result.put(step.clone(), below.intersection(there));
            }
        }
        result
    }

    /// What belongs to this one alone; a place goes, what is below it stays.
    pub fn difference(&self, other: &FieldSet) -> FieldSet {
        let mut result = FieldSet { member: self.member && !other.member, below: BTreeMap::new() };
        for (step, below) in &self.below {
            let left = match other.below.get(step) {
                Some(there) => below.difference(there),
                None => below.clone(),
            };
            result.put(step.clone(), left);
        }
        result
    }

    /// Takes a place out of the set, not what is below it.
    pub fn take_out(&mut self, steps: &[&str]) {
        let [first, rest @ ..] = steps else {
            self.member = false;
            return;
        };
        if let Some(below) = self.below.get_mut(*first) {
            below.take_out(rest);
            if below.is_empty() {
                self.below.remove(*first);
            }
        }
    }

    /// The paths of the members below which there are none, as messages name them: `.spec.ports[port=80].name`.
    pub fn leaves(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect(&mut String::new(), &mut paths);
        paths
    }

    fn collect(&self, path: &mut String, paths: &mut Vec<String>) {
        let before = paths.len();
        for (step, below) in &self.below {
            let length = path.len();
            path.push_str(&shown(step));
            below.collect(path, paths);
            path.truncate(length);
        }
        if self.member && paths.len() == before {
            paths.push(path.clone());
        }
    }

    /// The set as `fieldsV1`.
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        if self.member && !self.below.is_empty() {
            map.insert(".".to_owned(), Value::Object(Map::new()));
        }
        for (step, below) in &self.below {
            map.insert(step.clone(), below.to_json());
        }
        Value::Object(map)
    }

    /// Reads `fieldsV1`; `None` where it is none.
    pub fn from_json(value: &Value) -> Option<FieldSet> {
        let mut set = FieldSet::default();
        for (step, below) in value.as_object()? {
            if step == "." {
                set.member = true;
                continue;
            }
            let below_set = match below.as_object()?.is_empty() {
                true => FieldSet::leaf(),
                false => FieldSet::from_json(below)?,
            };
            set.put(canonical(step)?, below_set);
        }
        Some(set)
    }
}

/// The step of a field.
pub fn field(name: &str) -> String {
    format!("f:{name}")
}

/// The step of an element by its keys, which are sorted by name.
pub fn keys(pairs: &[(&str, &Value)]) -> String {
    let mut sorted = pairs.to_vec();
    sorted.sort_by_key(|(name, _)| *name);
    let map: Map<String, Value> =
        sorted.into_iter().map(|(name, value)| (name.to_owned(), value.clone())).collect();
    format!("k:{}", Value::Object(map))
}

/// The step of an element by its value.
pub fn value(value: &Value) -> String {
    format!("v:{value}")
}

/// The step of an element by its place.
pub fn index(at: usize) -> String {
    format!("i:{at}")
}

/// A step written by somebody else, as this module writes it.
fn canonical(step: &str) -> Option<String> {
    let (kind, text) = step.split_once(':')?;
    match kind {
        "f" => Some(step.to_owned()),
        "k" => {
            let map: Map<String, Value> = serde_json::from_str(text).ok()?;
            Some(keys(&map.iter().map(|(name, value)| (name.as_str(), value)).collect::<Vec<_>>()))
        }
        "v" => Some(value(&serde_json::from_str(text).ok()?)),
        "i" => Some(index(text.parse().ok()?)),
        _ => None,
    }
}

/// A step as a message shows it.
fn shown(step: &str) -> String {
    match step.split_once(':') {
        Some(("f", name)) => format!(".{name}"),
        Some(("k", text)) => {
            let map: Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
            let pairs: Vec<String> = map.iter().map(|(name, value)| format!("{name}={value}")).collect();
            format!("[{}]", pairs.join(","))
        }
        Some(("v", text)) => format!("[={text}]"),
        Some((_, text)) => format!("[{text}]"),
        None => step.to_owned(),
    }
}
