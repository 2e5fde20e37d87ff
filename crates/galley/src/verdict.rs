//! What validation finds.

use std::fmt;

use serde::Serialize;

/// The judgement on one object: invalid if there is any error.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Why the object is refused.
    pub errors: Vec<Problem>,
    /// What is accepted but hardly meant.
    pub warnings: Vec<Problem>,
}

/// One finding: where, what, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Path in the object, such as `spec.http[0].route[1].weight`.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What would be right; may be empty where the message says it.
    pub remedy: String,
}

// === impl Verdict ===

impl Verdict {
    /// Whether the object is accepted.
    pub fn is_valid(&self) -> bool {
        self.errors.is_empty()
    }

    /// Adds an error.
    pub fn error(&mut self, path: impl Into<String>, message: impl Into<String>, remedy: impl Into<String>) {
        self.errors.push(Problem { path: path.into(), message: message.into(), remedy: remedy.into() });
    }

    /// Adds a warning.
    pub fn warn(&mut self, path: impl Into<String>, message: impl Into<String>, remedy: impl Into<String>) {
        self.warnings.push(Problem { path: path.into(), message: message.into(), remedy: remedy.into() });
    }

    /// Takes in another judgement on the same object.
    pub fn merge(&mut self, other: Verdict) {
        self.errors.extend(other.errors);
        self.warnings.extend(other.warnings);
    }

    /// All errors in one text, for an admission response.
    pub fn message(&self) -> String {
        self.errors.iter().map(Problem::to_string).collect::<Vec<_>>().join("; ")
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(formatter, "{}: ", self.path)?;
        }
        formatter.write_str(&self.message)?;
        if !self.remedy.is_empty() {
            write!(formatter, "; {}", self.remedy)?;
        }
        Ok(())
    }
}
