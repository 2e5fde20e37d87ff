//! Matchers of strings and of header fields, compiled from `envoy.type.matcher.v3` and `envoy.config.route.v3`.

use regex::bytes::Regex;

use crate::head::{Headers, RequestHead, ResponseHead, split_query};

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
    /// Whether the head of a request matches.
    pub fn matches(&self, head: &RequestHead) -> bool {
        let value = head.field(&self.name);
        if self.name.starts_with(b":") || &*self.name == b"host" {
            return self.judge(value);
        }
        self.matches_fields(value, &head.headers)
    }

    /// Whether the head of a response matches.
    pub fn matches_response(&self, head: &ResponseHead) -> bool {
        if &*self.name == b":status" {
            return self.judge(Some(head.status.to_string().as_bytes()));
        }
        self.matches_fields(head.headers.get(&self.name), &head.headers)
    }

    /// Of several fields of a name it is enough that one matches; inverted, that none does.
    fn matches_fields(&self, first: Option<&[u8]>, headers: &Headers) -> bool {
        let mut others = headers.get_all(&self.name).skip(1).peekable();
        if first.is_none() || others.peek().is_none() {
            return self.judge(first);
        }
        // Inverted, a field for which the judgement does not hold is one that matches.
        if self.invert {
            self.judge(first) && others.all(|value| self.judge(Some(value)))
        } else {
            self.judge(first) || others.any(|value| self.judge(Some(value)))
        }
    }

    fn judge(&self, value: Option<&[u8]>) -> bool {
        let value = match value {
            None if self.missing_as_empty => Some(&b""[..]),
            value => value,
        };
        match &self.rule {
            HeaderRule::Present(wanted) => (value.is_some() == *wanted) != self.invert,
            // Whatever is asked of its value, a header that is missing does not match; not inverted either.
            HeaderRule::Value(matcher) => value.is_some_and(|value| matcher.matches(value) != self.invert),
            HeaderRule::Range(start, end) => value.is_some_and(|value| {
                let inside = std::str::from_utf8(value)
                    .ok()
                    .and_then(|text| text.trim().parse::<i64>().ok())
                    .is_some_and(|number| (*start..*end).contains(&number));
                inside != self.invert
            }),
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
    /// Whether, of one that is only asked for, the absence is meant.
    pub absent: bool,
}

impl QueryMatcher {
    /// Whether path and query match. Envoy compares without decoding.
    pub fn matches(&self, path: &[u8]) -> bool {
        let query = split_query(path).1.unwrap_or_default();
        let parameter = query.split(|byte| *byte == b'&').find_map(|pair| {
            let (name, value) = match pair.iter().position(|byte| *byte == b'=') {
                Some(at) => (&pair[..at], &pair[at + 1..]),
                None => (pair, &b""[..]),
            };
            (name == &self.name[..]).then_some(value)
        });
        match (parameter, &self.value) {
            (None, None) => self.absent,
            (None, Some(_)) => false,
            (Some(_), None) => !self.absent,
            (Some(value), Some(matcher)) => matcher.matches(value),
        }
    }
}

/// `envoy.config.route.v3.CookieMatcher`.
#[derive(Debug, Clone)]
pub struct CookieMatcher {
    /// The cookie; case counts.
    pub name: Box<[u8]>,
    /// What its value must match.
    pub value: StringMatcher,
    /// Whether the result is turned around; also where there is no such cookie.
    pub invert: bool,
}

impl CookieMatcher {
    /// Whether the cookies of a request match.
    pub fn matches(&self, headers: &Headers) -> bool {
        let value =
            headers.get_all(b"cookie").flat_map(|line| line.split(|byte| *byte == b';')).find_map(|pair| {
                let pair = pair.trim_ascii();
                let at = pair.iter().position(|byte| *byte == b'=')?;
                (pair[..at] == self.name[..]).then(|| unquoted(&pair[at + 1..]))
            });
        value.is_some_and(|value| self.value.matches(value)) != self.invert
    }
}

fn unquoted(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] => inner,
        other => other,
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
        check("missing, inverted", "x", exact("jim"), true, false);
        check("present", "x", HeaderRule::Present(true), false, false);
        check("absent", "x", HeaderRule::Present(false), false, true);
        check("present, inverted", "x", HeaderRule::Present(true), true, true);
        check("range", "n", HeaderRule::Range(0, 8), false, true);
        check("range is half open", "n", HeaderRule::Range(0, 7), false, false);
        check("pseudo header", ":method", exact("GET"), false, true);
        check("one of several fields", "twice", exact("b"), false, true);
        check("fields are not joined", "twice", exact("a,b"), false, false);
        check("none of several fields", "twice", exact("a"), true, false);
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
            let matcher = QueryMatcher { name: parameter.as_bytes().into(), value, absent: false };
            assert_eq!(matcher.matches(path.as_bytes()), expect, "{name}");
        }
    }

    #[test]
    fn cookies() {
        for (name, cookie, invert, expect) in [
            ("among others", Some("a=b; k=v"), false, true),
            ("quoted", Some("k=\"v\""), false, true),
            ("other value", Some("k=w"), false, false),
            ("missing", None, false, false),
            ("missing, inverted", None, true, true),
            ("inverted", Some("k=v"), true, false),
        ] {
            let value = string(StringPattern::Exact(b"v"[..].into()), false);
            let matcher = CookieMatcher { name: b"k"[..].into(), value, invert };
            let headers = cookie.into_iter().map(|cookie| ("cookie", cookie)).collect();
            assert_eq!(matcher.matches(&headers), expect, "{name}");
        }
    }
}
