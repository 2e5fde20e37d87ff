//! Matchers of metadata (`envoy.type.matcher.v3.MetadataMatcher`, `ValueMatcher`).

use crate::matcher::StringMatcher;
use crate::metadata::{Metadata, Value};

/// What a value has to be.
#[derive(Debug, Clone)]
pub enum ValueMatcher {
    /// Null.
    Null,
    /// That number.
    Number(f64),
    /// From the first number, below the second.
    Range(f64, f64),
    /// A text.
    String(StringMatcher),
    /// Yes or no.
    Bool(bool),
    /// Anything; with `false`, nothing matches.
    Present(bool),
    /// A list with an element that matches.
    OneOf(Box<ValueMatcher>),
    /// One of these.
    Any(Vec<ValueMatcher>),
}

impl ValueMatcher {
    /// Whether it matches.
    pub fn matches(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Null, Value::Null) => true,
            (Self::Number(wanted), Value::Number(number)) => wanted == number,
            (Self::Range(from, below), Value::Number(number)) => from <= number && number < below,
            (Self::String(matcher), Value::String(text)) => matcher.matches(text.as_bytes()),
            (Self::Bool(wanted), Value::Bool(value)) => wanted == value,
            (Self::Present(wanted), _) => *wanted,
            (Self::OneOf(matcher), Value::List(values)) => values.iter().any(|value| matcher.matches(value)),
            (Self::Any(matchers), value) => matchers.iter().any(|matcher| matcher.matches(value)),
            _ => false,
        }
    }
}

/// A value in metadata, and what it has to be.
#[derive(Debug, Clone)]
pub struct MetadataMatcher {
    /// The filter whose metadata it is in.
    pub filter: Box<str>,
    /// Where.
    pub path: Vec<Box<str>>,
    /// What.
    pub value: ValueMatcher,
    /// Whether the opposite is wanted.
    pub invert: bool,
}

impl MetadataMatcher {
    /// Whether it matches; none where there is no such value.
    pub fn matches<'a>(&'a self, metadata: &'a Metadata) -> Option<bool> {
        let value = metadata.get(&self.filter, self.path.iter().map(|name| &**name))?;
        Some(self.value.matches(value) != self.invert)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        for (name, matcher, value, expect) in [
            ("null", ValueMatcher::Null, Value::Null, true),
            ("number", ValueMatcher::Number(2.0), Value::Number(2.0), true),
            ("range", ValueMatcher::Range(1.0, 2.0), Value::Number(2.0), false),
            ("bool", ValueMatcher::Bool(true), Value::Bool(false), false),
            ("present", ValueMatcher::Present(true), Value::Bool(false), true),
            ("kinds differ", ValueMatcher::Bool(true), Value::Null, false),
            (
                "one of a list",
                ValueMatcher::OneOf(Box::new(ValueMatcher::Bool(true))),
                Value::List(vec![Value::Null, Value::Bool(true)]),
                true,
            ),
            (
                "any",
                ValueMatcher::Any(vec![ValueMatcher::Null, ValueMatcher::Bool(true)]),
                Value::Bool(true),
                true,
            ),
        ] {
            assert_eq!(matcher.matches(&value), expect, "{name}");
        }
    }
}
