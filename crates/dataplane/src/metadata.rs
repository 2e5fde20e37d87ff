//! Metadata: what filters leave for each other, for routes and for logs.
//!
//! [`Metadata`] is `envoy.config.core.v3.Metadata` without protobuf: for each filter, by its name, a struct of values.

use std::sync::Arc;

/// A value (`google.protobuf.Value`).
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Value {
    /// Nothing.
    #[default]
    Null,
    /// Yes or no.
    Bool(bool),
    /// A number.
    Number(f64),
    /// Text.
    String(Arc<str>),
    /// Values in order.
    List(Vec<Value>),
    /// Values by name.
    Struct(Struct),
}

/// Values by name, in the order in which they were set.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Struct(Vec<(Box<str>, Value)>);

impl Struct {
    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(candidate, _)| &**candidate == name).map(|(_, value)| value)
    }

    /// Sets a value, in place of the one there was.
    pub fn set(&mut self, name: &str, value: Value) {
        match self.0.iter_mut().find(|(candidate, _)| &**candidate == name) {
            Some((_, there)) => *there = value,
            None => self.0.push((name.into(), value)),
        }
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (&**name, value))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes all of `other`; structs that both have are merged (`MergeFrom` of protobuf).
    pub fn merge(&mut self, other: Struct) {
        for (name, value) in other.0 {
            match (self.0.iter_mut().find(|(candidate, _)| *candidate == name), value) {
                (Some((_, Value::Struct(there))), Value::Struct(more)) => there.merge(more),
                (Some((_, there)), value) => *there = value,
                (None, value) => self.0.push((name, value)),
            }
        }
    }
}

impl<N: Into<Box<str>>> FromIterator<(N, Value)> for Struct {
    fn from_iter<I: IntoIterator<Item = (N, Value)>>(values: I) -> Self {
        Self(values.into_iter().map(|(name, value)| (name.into(), value)).collect())
    }
}

impl Value {
    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The value at the end of a path through structs.
    pub fn at<'a>(&'a self, path: impl IntoIterator<Item = &'a str>) -> Option<&'a Value> {
        path.into_iter().try_fold(self, |value, name| match value {
            Self::Struct(fields) => fields.get(name),
            _ => None,
        })
    }
}

/// Structs by the name of a filter.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Metadata(Struct);

impl Metadata {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The struct of a filter.
    pub fn namespace(&self, filter: &str) -> Option<&Struct> {
        match self.0.get(filter) {
            Some(Value::Struct(fields)) => Some(fields),
            _ => None,
        }
    }

    /// Whether it makes its host a canary (`envoy.lb`, `canary: true`).
    pub fn is_canary(&self) -> bool {
        self.namespace("envoy.lb").and_then(|fields| fields.get("canary")) == Some(&Value::Bool(true))
    }

    /// A value: `path` goes through the structs of `filter`.
    pub fn get<'a>(&'a self, filter: &str, path: impl IntoIterator<Item = &'a str>) -> Option<&'a Value> {
        self.0.get(filter)?.at(path)
    }

    /// Adds to the struct of a filter.
    pub fn merge(&mut self, filter: &str, fields: Struct) {
        self.0.merge(std::iter::once((filter, Value::Struct(fields))).collect());
    }

    /// Filters and their structs.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structs_merge() {
        let text = |text: &str| Value::String(text.into());
        let mut metadata = Metadata::default();
        metadata.merge("f", [("a", text("1")), ("b", text("2"))].into_iter().collect());
        metadata.merge("f", [("b", text("3"))].into_iter().collect());
        assert_eq!(metadata.get("f", ["a"]), Some(&text("1")));
        assert_eq!(metadata.get("f", ["b"]), Some(&text("3")));
        assert_eq!(metadata.get("f", ["a", "x"]), None);
        assert_eq!(metadata.get("g", ["a"]), None);
    }
}
