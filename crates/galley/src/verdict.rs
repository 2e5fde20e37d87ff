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
    /// What analysis calls it, where it has a name of its own for it.
    #[serde(skip)]
    pub finding: Option<Finding>,
}

/// Findings that analysis reports with codes of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// A rule that no request reaches (`IST0130`).
    UnreachableRule {
        /// The rule's name or number.
        rule: String,
        /// Why.
        reason: String,
    },
    /// A field that there is not.
    UnknownField,
    /// A condition that an earlier rule has taken already (`IST0131`).
    IneffectiveMatch {
        /// The rule's name or number.
        rule: String,
        /// The condition's name or number.
        condition: String,
        /// The earlier rule.
        duplicate: String,
    },
}

// === impl Verdict ===

impl Verdict {
    /// Whether the object is accepted.
    pub fn is_valid(&self) -> bool {
        self.errors.is_empty()
    }

    /// Adds an error.
    pub fn error(&mut self, path: impl Into<String>, message: impl Into<String>, remedy: impl Into<String>) {
        self.errors.push(Problem::new(path, message, remedy));
    }

    /// Adds a warning.
    pub fn warn(&mut self, path: impl Into<String>, message: impl Into<String>, remedy: impl Into<String>) {
        self.warnings.push(Problem::new(path, message, remedy));
    }

    /// Adds a warning that analysis has a name for.
    pub(crate) fn warn_of(
        &mut self,
        path: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
        finding: Finding,
    ) {
        self.warnings.push(Problem { finding: Some(finding), ..Problem::new(path, message, remedy) });
    }

    /// Puts all findings under a path.
    pub fn under(mut self, path: &str) -> Self {
        for problem in self.errors.iter_mut().chain(&mut self.warnings) {
            problem.path = match (problem.path.is_empty(), problem.path.starts_with('[')) {
                (true, _) => path.to_owned(),
                (false, true) => format!("{path}{}", problem.path),
                (false, false) => format!("{path}.{}", problem.path),
            };
        }
        self
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

// === impl Problem ===

impl Problem {
    /// A finding.
    pub fn new(path: impl Into<String>, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into(), remedy: remedy.into(), finding: None }
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
