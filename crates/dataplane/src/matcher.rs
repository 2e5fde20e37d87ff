//! Matchers of strings and of header fields, compiled from `envoy.type.matcher.v3` and `envoy.config.route.v3`.

use regex::bytes::Regex;

use crate::head::{RequestHead, split_query};

/// `envoy.type.matcher.v3.StringMatcher`.
#[derive(Debug, Clone)]
pub struct StringMatcher {
    /// What to look for; in lower case where `ignore_case`.
    pub pattern: StringPattern,
    /// Whether ASCII case does not count (not for regexes).
    pub ignore_case: bool,
}

/// The kinds of string match.
#[derive(Debug, Clone)]
pub enum StringPattern {
    /// Equal.
    Exact(Box<[u8]>),
    /// Begins with.
    Prefix(Box<[u8]>),
    /// Ends with.
    Suffix(Box<[u8]>),
    /// Has it anywhere.
    Contains(Box<[u8]>),
    /// The whole value matches.
    Regex(Regex),
}

impl StringMatcher {
    /// Whether `value` matches.
    pub fn matches(&self, value: &[u8]) -> bool {
        if self.ignore_case {
            self.pattern.matches(&value.to_ascii_lowercase())
        } else {
            self.pattern.matches(value)
        }
    }
}

impl StringPattern {
    fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(pattern) => value == &pattern[..],
            Self::Prefix(pattern) => value.starts_with(pattern),
            Self::Suffix(pattern) => value.ends_with(pattern),
            Self::Contains(pattern) => {
                pattern.is_empty() || value.windows(pattern.len()).any(|part| part == &pattern[..])
            }
            Self::Regex(regex) => regex.is_match(value),
        }
    }
}

/// `envoy.config.route.v3.HeaderMatcher`.
#[derive(Debug, Clone)]
pub struct HeaderMatcher {
    /// The field or pseudo header, in lower case.
    pub name: Box<[u8]>,
    /// What must hold of it.
    pub rule: HeaderRule,
    /// Whether the result is turned around.
    pub invert: bool,
    /// Whether a missing header counts as an empty one.
    pub missing_as_empty: bool,
}

/// What must hold of a header.
#[derive(Debug, Clone)]
pub enum HeaderRule {
    /// It is there (true) or not (false).
    Present(bool),
    /// Its value matches.
    Value(StringMatcher),
    /// Its value is a number of this half-open range.
    Range(i64, i64),
}

impl HeaderMatcher {
    /// Whether the head matches. Several fields of a name count as one, joined by commas.
    pub fn matches(&self, head: &RequestHead) -> bool {
        let joined;
        let mut value = head.field(&self.name);
        if value.is_some()
            && !self.name.starts_with(b":")
            && head.headers.get_all(&self.name).nth(1).is_some()
        {
            joined = head.headers.get_all(&self.name).collect::<Vec<_>>().join(&b","[..]);
            value = Some(&joined);
        }
        if value.is_none() && self.missing_as_empty {
            value = Some(b"");
        }
        match &self.rule {
            HeaderRule::Present(wanted) => (value.is_some() == *wanted) != self.invert,
            // Envoy: a header that is missing does not match, and an inverted value match on it does.
            HeaderRule::Value(matcher) => match value {
                Some(value) => matcher.matches(value) != self.invert,
                None => self.invert,
            },
            HeaderRule::Range(start, end) => match value {
                Some(value) => {
                    let inside = std::str::from_utf8(value)
                        .ok()
                        .and_then(|text| text.trim().parse::<i64>().ok())
                        .is_some_and(|number| (*start..*end).contains(&number));
                    inside != self.invert
                }
                None => self.invert,
            },
        }
    }
}

/// `envoy.config.route.v3.QueryParameterMatcher`.
#[derive(Debug, Clone)]
pub struct QueryMatcher {
    /// The parameter; case counts.
    pub name: Box<[u8]>,
    /// What its first value must match; none asks for its presence.
    pub value: Option<StringMatcher>,
}

impl QueryMatcher {
    /// Whether path and query match. Envoy compares without decoding.
    pub fn matches(&self, path: &[u8]) -> bool {
        let Some(query) = split_query(path).1 else { return false };
        let parameter = query.split(|byte| *byte == b'&').find_map(|pair| {
            let (name, value) = match pair.iter().position(|byte| *byte == b'=') {
                Some(at) => (&pair[..at], &pair[at + 1..]),
                None => (pair, &b""[..]),
            };
            (name == &self.name[..]).then_some(value)
        });
        match (parameter, &self.value) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(value), Some(matcher)) => matcher.matches(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(pattern: StringPattern, ignore_case: bool) -> StringMatcher {
        StringMatcher { pattern, ignore_case }
    }

    #[test]
    fn header_rules() {
        let mut head = RequestHead::new("GET", "a", "/p");
        for (name, value) in [("end-user", "jason"), ("n", "7"), ("twice", "a"), ("twice", "b")] {
            head.headers.append(name, value);
        }
        let check = |name: &str, header: &str, rule: HeaderRule, invert: bool, expect: bool| {
            let matcher =
                HeaderMatcher { name: header.as_bytes().into(), rule, invert, missing_as_empty: false };
            assert_eq!(matcher.matches(&head), expect, "{name}");
        };
        let exact =
            |text: &str| HeaderRule::Value(string(StringPattern::Exact(text.as_bytes().into()), false));
        check("exact", "end-user", exact("jason"), false, true);
        check("exact, other", "end-user", exact("jim"), false, false);
        check("exact, inverted", "end-user", exact("jim"), true, true);
        check("missing", "x", exact("jim"), false, false);
        check("missing, inverted", "x", exact("jim"), true, true);
        check("present", "x", HeaderRule::Present(true), false, false);
        check("absent", "x", HeaderRule::Present(false), false, true);
        check("present, inverted", "x", HeaderRule::Present(true), true, true);
        check("range", "n", HeaderRule::Range(0, 8), false, true);
        check("range is half open", "n", HeaderRule::Range(0, 7), false, false);
        check("pseudo header", ":method", exact("GET"), false, true);
        check("several fields are one list", "twice", exact("a,b"), false, true);
        let any_case = HeaderRule::Value(string(StringPattern::Prefix(b"ja"[..].into()), true));
        check("case", "end-user", any_case, false, true);
    }

    #[test]
    fn query_parameters() {
        let exact = |text: &str| Some(string(StringPattern::Exact(text.as_bytes().into()), false));
        for (name, parameter, value, path, expect) in [
            ("equal", "a", exact("1"), "/x?b=2&a=1", true),
            ("other", "a", exact("1"), "/x?a=2", false),
            ("present", "a", None, "/x?a", true),
            ("no query", "a", None, "/x", false),
            ("part of a name", "a", None, "/x?aa=1", false),
        ] {
            let matcher = QueryMatcher { name: parameter.as_bytes().into(), value };
            assert_eq!(matcher.matches(path.as_bytes()), expect, "{name}");
        }
    }
}
