//! What is wrong with a resource, said so that its author finds the place.
//!
//! An error rejects its resource alone: the proxy keeps what it had of that name, and the sender gets a NACK. A warning
//! is applied and reported: a field that is set and that the proxy does not obey.

use std::cell::RefCell;
use std::fmt;

use crate::format::Format;
use crate::outside::{Nothing, Outside};

/// A resource that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{resource}: {path}: {message}")]
pub struct ConfigError {
    /// Kind and name, `Cluster outbound|9080||reviews`.
    pub resource: String,
    /// The field, `routes[2].match.safe_regex`.
    pub path: String,
    /// What is wrong and what to do.
    pub message: String,
}

/// A field that is set and has no effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Kind and name.
    pub resource: String,
    /// The field.
    pub path: String,
    /// Why it has none.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}: {}", self.resource, self.path, self.message)
    }
}

/// The result of every compilation.
pub type Result<T> = std::result::Result<T, ConfigError>;

/// Where a compilation is: the resource, the path to the field, and the warnings so far.
#[derive(Debug)]
pub struct Context<'a> {
    resource: &'a str,
    path: String,
    warnings: &'a RefCell<Vec<Warning>>,
    outside: &'a dyn Outside,
}

impl<'a> Context<'a> {
    /// The root of a resource; `resource` is kind and name.
    pub fn new(resource: &'a str, warnings: &'a RefCell<Vec<Warning>>) -> Self {
        Self::within(resource, warnings, &Nothing)
    }

    /// The same, of a resource that may refer to files and variables.
    pub fn within(resource: &'a str, warnings: &'a RefCell<Vec<Warning>>, outside: &'a dyn Outside) -> Self {
        Self { resource, path: String::new(), warnings, outside }
    }

    /// Files and variables.
    pub fn outside(&self) -> &'a dyn Outside {
        self.outside
    }

    /// Compiles a text with operators.
    pub fn format(&self, text: &str) -> Result<Format> {
        Format::compile_in(text, self.outside).map_err(|error| self.error(error))
    }

    fn at(&self, path: String) -> Context<'a> {
        Context { resource: self.resource, path, warnings: self.warnings, outside: self.outside }
    }

    /// A field of this message.
    pub fn field(&self, name: &str) -> Context<'a> {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        self.at(path)
    }

    /// An element of this list.
    pub fn index(&self, index: usize) -> Context<'a> {
        self.at(format!("{}[{index}]", self.path))
    }

    /// An error at this place.
    pub fn error(&self, message: impl fmt::Display) -> ConfigError {
        ConfigError {
            resource: self.resource.to_owned(),
            path: if self.path.is_empty() { "(root)".to_owned() } else { self.path.clone() },
            message: message.to_string(),
        }
    }

    /// Notes a warning at this place.
    pub fn warn(&self, message: impl fmt::Display) {
        self.warnings.borrow_mut().push(Warning {
            resource: self.resource.to_owned(),
            path: self.path.clone(),
            message: message.to_string(),
        });
    }
}
