//! Findings that somebody knows about and does not want to hear of again.

use std::collections::BTreeMap;
use std::str::FromStr;

use super::{MESSAGES, Message};

/// The annotation that lists codes, or `*` for all of them.
const ANNOTATION: &str = "galley.istio.io/analyze-suppress";

/// A code and the objects for which it is not reported, as `istioctl analyze --suppress` writes them:
/// `IST0102=Namespace frod`, `IST0103=Pod *.testing`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suppression {
    /// The code.
    pub code: String,
    /// Kind and name, with `*` for any text. The namespace may be after the name (`Pod a.b`) or before it (`Pod b/a`).
    pub resource: String,
}

/// Why a text is no suppression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not CODE=KIND NAME, such as \"IST0103=Pod *.testing\"")]
pub struct ParseSuppressionError {
    text: String,
}

impl FromStr for Suppression {
    type Err = ParseSuppressionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((code, resource)) if !code.is_empty() && !resource.is_empty() && !resource.contains('=') => {
                Ok(Self { code: code.to_owned(), resource: resource.to_owned() })
            }
            _ => Err(ParseSuppressionError { text: text.to_owned() }),
        }
    }
}

impl Suppression {
    /// Whether there is a message with this code.
    pub fn is_known(&self) -> bool {
        MESSAGES.iter().any(|message| message.code == self.code)
    }

    /// Whether it is for this finding.
    pub fn covers(&self, message: &Message) -> bool {
        let subject = &message.subject;
        let dotted = match subject.namespace.is_empty() {
            true => subject.to_string(),
            false => format!("{} {}.{}", subject.kind, subject.name, subject.namespace),
        };
        message.kind.code == self.code
            && (matches(&self.resource, &dotted) || matches(&self.resource, &subject.to_string()))
    }
}

/// Whether the object itself does not want this finding.
pub(super) fn by_annotation(annotations: &BTreeMap<String, String>, code: &str) -> bool {
    let codes = annotations.get(ANNOTATION);
    codes.is_some_and(|codes| codes.split(',').map(str::trim).any(|one| one == "*" || one == code))
}

/// Whether a text fits a pattern in which `*` stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (name, pattern, text, fits) in [
            ("same", "Pod a.b", "Pod a.b", true),
            ("longer", "Pod a.b", "Pod a.bc", false),
            ("any name", "Pod *.b", "Pod a.b", true),
            ("another namespace", "Pod *.b", "Pod a.c", false),
            ("any kind", "* a.b", "Pod a.b", true),
            ("twice", "*a*c", "xabc", true),
            ("all", "*", "", true),
        ] {
            assert_eq!(matches(pattern, text), fits, "{name}");
        }
    }

    #[test]
    fn forms() {
        assert!("IST0103=Pod *.testing".parse::<Suppression>().unwrap().is_known());
        assert!(!"IST9999=Pod a".parse::<Suppression>().unwrap().is_known());
        assert!("IST0103".parse::<Suppression>().is_err());
        assert!("IST0103=a=b".parse::<Suppression>().is_err());
    }
}
