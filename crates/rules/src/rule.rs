//! One rule against one value.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use regex::Regex;

use crate::read::Value;
use crate::tables::{Range, Text, Type};

/// What a value has to be (`validate.FieldRules`).
#[derive(Debug, Clone, Copy)]
#[allow(dead_code, reason = "not every rule occurs in every version of the definitions")]
pub(crate) enum Rule {
    /// The field exists no more.
    Removed,
    /// Items of a list.
    Least(u64),
    Most(u64),
    Unique,
    /// The rules that follow do not concern an empty value.
    UnlessEmpty,
    Truth(bool),
    OneOf(Range),
    NoneOf(Range),
    Above(f64),
    From(f64),
    Below(f64),
    UpTo(f64),
    Is(f64),
    /// Characters.
    MinLength(u64),
    MaxLength(u64),
    MinBytes(u64),
    MaxBytes(u64),
    Prefix(Text),
    Suffix(Text),
    Pattern(Text),
    /// One of the texts that it may be: all of these rules in a row are one.
    MayBe(Text),
    /// Strictly, or anything without line ends.
    HeaderName(bool),
    HeaderValue(bool),
}

/// The rules of a list as a whole.
pub(crate) fn check_list(rules: &[Rule], values: &[&Value<'_>]) -> Result<(), String> {
    for rule in rules {
        match rule {
            Rule::Least(1) if values.is_empty() => return Err("at least one is needed".to_owned()),
            Rule::Least(least) if (values.len() as u64) < *least => {
                return Err(format!("at least {least} are needed; there are {}", values.len()));
            }
            Rule::Most(most) if values.len() as u64 > *most => {
                return Err(format!("at most {most} are possible; there are {}", values.len()));
            }
            Rule::Unique if values.iter().enumerate().any(|(at, value)| values[..at].contains(value)) => {
                return Err("no two may be the same".to_owned());
            }
            Rule::Removed if !values.is_empty() => return Err(removed()),
            _ => {}
        }
    }
    Ok(())
}

fn removed() -> String {
    "this field is not taken any more; remove it".to_owned()
}

/// The rules of a value.
pub(crate) fn check(rules: &'static [Rule], kind: Type, value: &Value<'_>) -> Result<(), String> {
    if rules.is_empty() {
        return Ok(());
    }
    let (value, kind) = value.unwrapped(kind);
    if kind != Type::Text && kind != Type::Bytes && is_outside(rules, value.number(kind)) {
        return Ok(());
    }
    for rule in rules {
        match rule {
            Rule::UnlessEmpty if value.is_empty() => return Ok(()),
            Rule::UnlessEmpty | Rule::Least(_) | Rule::Most(_) | Rule::Unique => {}
            Rule::Removed => {
                if !value.is_empty() {
                    return Err(removed());
                }
            }
            Rule::MayBe(_) => return may_be(rules, &value.text()),
            rule if kind == Type::Text || kind == Type::Bytes => text(*rule, &value)?,
            rule => number(*rule, value.number(kind), kind)?,
        }
    }
    Ok(())
}

/// Whether two bounds exclude what lies between them, and the value lies outside (`lte: 0, gte: 1`).
fn is_outside(rules: &[Rule], value: f64) -> bool {
    let bound = |lower: bool| {
        rules.iter().find_map(|rule| match rule {
            Rule::Above(bound) | Rule::From(bound) if lower => Some((*bound, rule)),
            Rule::Below(bound) | Rule::UpTo(bound) if !lower => Some((*bound, rule)),
            _ => None,
        })
    };
    let (Some((lower, from)), Some((upper, to))) = (bound(true), bound(false)) else { return false };
    let above = if matches!(from, Rule::From(_)) { value >= lower } else { value > lower };
    let below = if matches!(to, Rule::UpTo(_)) { value <= upper } else { value < upper };
    lower > upper && (above || below)
}

fn may_be(rules: &[Rule], text: &str) -> Result<(), String> {
    let possible = rules.iter().filter_map(|rule| match rule {
        Rule::MayBe(text) => Some(text.get()),
        _ => None,
    });
    let possible: Vec<&str> = possible.collect();
    match possible.contains(&text) {
        true => Ok(()),
        false => Err(format!("`{text}` is none of {}", possible.join(", "))),
    }
}

fn number(rule: Rule, value: f64, kind: Type) -> Result<(), String> {
    let unit = if kind == Type::Duration { " s" } else { "" };
    let bad = |what: &str, bound: f64| Err(format!("{value}{unit}: this has to be {what} {bound}{unit}"));
    match rule {
        Rule::Truth(wanted) if (value != 0.0) != wanted => Err(format!("this can only be {wanted}")),
        Rule::Above(bound) if value <= bound || value.is_nan() => bad("more than", bound),
        Rule::From(bound) if value < bound || value.is_nan() => bad("at least", bound),
        Rule::Below(bound) if value >= bound || value.is_nan() => bad("less than", bound),
        Rule::UpTo(bound) if value > bound || value.is_nan() => bad("at most", bound),
        Rule::Is(bound) if value != bound => bad("equal to", bound),
        Rule::OneOf(possible) if !possible.numbers().contains(&(value as i64)) => {
            Err(format!("{value} is none of its values"))
        }
        Rule::NoneOf(wrong) if wrong.numbers().contains(&(value as i64)) => {
            Err(format!("it cannot be {value}"))
        }
        _ => Ok(()),
    }
}

fn text(rule: Rule, value: &Value<'_>) -> Result<(), String> {
    let bytes = value.bytes();
    let characters = || value.text().chars().count() as u64;
    match rule {
        Rule::MinLength(1) | Rule::MinBytes(1) if bytes.is_empty() => Err("this may not be empty".to_owned()),
        Rule::MinLength(least) if characters() < least => {
            Err(format!("this has to have at least {least} characters"))
        }
        Rule::MaxLength(most) if characters() > most => {
            Err(format!("this may have {most} characters at most"))
        }
        Rule::MinBytes(least) if (bytes.len() as u64) < least => {
            Err(format!("this has to have at least {least} bytes"))
        }
        Rule::MaxBytes(most) if bytes.len() as u64 > most => {
            Err(format!("this may have {most} bytes at most"))
        }
        Rule::Prefix(prefix) if !bytes.starts_with(prefix.get().as_bytes()) => {
            Err(format!("`{}` has to begin with `{}`", value.text(), prefix.get()))
        }
        Rule::Suffix(suffix) if !bytes.ends_with(suffix.get().as_bytes()) => {
            Err(format!("`{}` has to end with `{}`", value.text(), suffix.get()))
        }
        Rule::Pattern(pattern) if !matches(pattern.get(), &value.text()) => {
            Err(format!("`{}` does not look like `{}`", value.text(), pattern.get()))
        }
        Rule::HeaderName(strict) if !bytes.is_empty() && !is_header_name(bytes, strict) => {
            Err(format!("`{}` is not a header name", value.text()))
        }
        Rule::HeaderValue(strict) if !is_header_value(bytes, strict) => {
            Err(format!("`{}` is not a header value", value.text().escape_debug()))
        }
        _ => Ok(()),
    }
}

/// The patterns of the definitions are few, and each is made once.
fn matches(pattern: &'static str, text: &str) -> bool {
    static PATTERNS: LazyLock<Mutex<HashMap<&'static str, Option<Regex>>>> = LazyLock::new(Mutex::default);
    let mut patterns = PATTERNS.lock().unwrap_or_else(PoisonError::into_inner);
    let regex = patterns.entry(pattern).or_insert_with(|| Regex::new(pattern).ok());
    // What cannot be asked is not held against anybody.
    regex.as_ref().is_none_or(|regex| regex.is_match(text))
}

/// `KnownRegex.HTTP_HEADER_NAME`: a token, for pseudo headers with a colon before it.
fn is_header_name(bytes: &[u8], strict: bool) -> bool {
    if !strict {
        return !bytes.iter().any(|byte| matches!(byte, 0 | b'\n' | b'\r'));
    }
    let name = bytes.strip_prefix(b":").unwrap_or(bytes);
    // The range from `+` to `.` is in the pattern, and with it the comma.
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+,-.^_|~`".contains(byte);
    !name.is_empty() && name.iter().all(token)
}

/// `KnownRegex.HTTP_HEADER_VALUE`.
fn is_header_value(bytes: &[u8], strict: bool) -> bool {
    let wrong = |byte: &u8| match strict {
        true => (*byte < b' ' && *byte != b'\t') || *byte == 127,
        false => matches!(byte, 0 | b'\n' | b'\r'),
    };
    !bytes.iter().any(wrong)
}
