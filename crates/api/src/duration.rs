//! Durations as Istio's API writes them.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A length of time, written like `7s`, `1.5s`, `250ms` or `1h30m`.
///
/// Protobuf's JSON knows seconds only; Istio's API servers accept every unit of Go's durations, so we do too. It is
/// written back in the shortest exact form.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(std::time::Duration);

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseDurationError {
    text: String,
    reason: &'static str,
}

// === impl Duration ===

impl Duration {
    /// A duration of so many whole seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(std::time::Duration::from_secs(seconds))
    }

    /// A duration of so many milliseconds.
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(std::time::Duration::from_millis(milliseconds))
    }

    /// The standard library's form.
    pub const fn get(self) -> std::time::Duration {
        self.0
    }

    /// Whether it is no time at all.
    pub const fn is_zero(self) -> bool {
        self.0.is_zero()
    }
}

impl From<std::time::Duration> for Duration {
    fn from(value: std::time::Duration) -> Self {
        Self(value)
    }
}

impl From<Duration> for std::time::Duration {
    fn from(value: Duration) -> Self {
        value.0
    }
}

impl FromStr for Duration {
    type Err = ParseDurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text)
            .map(|nanoseconds| {
                Self(std::time::Duration::new(
                    (nanoseconds / 1_000_000_000) as u64,
                    (nanoseconds % 1_000_000_000) as u32,
                ))
            })
            .map_err(|reason| ParseDurationError { text: text.to_owned(), reason })
    }
}

/// Nanoseconds of a text such as `1h2.5s`.
fn parse(text: &str) -> Result<u128, &'static str> {
    // 10 000 years, protobuf's limit, in nanoseconds.
    const LIMIT: u128 = 315_576_000_000 * 1_000_000_000;
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.starts_with('-') {
        return Err("it is negative");
    }
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err("it is empty");
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or("the unit is missing")?;
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let scale: u128 = match unit {
            "h" => 3_600_000_000_000,
            "m" => 60_000_000_000,
            "s" => 1_000_000_000,
            "ms" => 1_000_000,
            "us" | "µs" | "μs" => 1_000,
            "ns" => 1,
            _ => return Err("its unit is none of h, m, s, ms, us, ns"),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() {
            return Err("a number is missing");
        }
        let mut nanoseconds = match whole {
            "" => 0,
            digits => digits.parse::<u64>().map_err(|_| "a number is too large")? as u128 * scale,
        };
        let mut place = scale;
        for digit in fraction.chars() {
            let digit = digit.to_digit(10).ok_or("a number has two points")?;
            place /= 10;
            nanoseconds += u128::from(digit) * place;
        }
        total += nanoseconds;
        if total > LIMIT {
            return Err("it is longer than 10000 years");
        }
        rest = tail;
    }
    Ok(total)
}

impl fmt::Display for Duration {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanoseconds = self.0.subsec_nanos();
        if nanoseconds == 0 {
            return write!(formatter, "{}s", self.0.as_secs());
        }
        let fraction = format!("{nanoseconds:09}");
        write!(formatter, "{}.{}s", self.0.as_secs(), fraction.trim_end_matches('0'))
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "x-kubernetes-validations": [{
                "rule": "duration(self) >= duration('1ms')",
                "message": "must be a duration of at least 1ms, such as 250ms, 5s or 1h30m",
            }],
        })
    }
}

// === impl ParseDurationError ===

impl fmt::Display for ParseDurationError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{:?} is not a duration: {}; write it like 250ms, 5s or 1h30m",
            self.text, self.reason
        )
    }
}

impl std::error::Error for ParseDurationError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes() {
        let table = [
            ("seconds", "7s", Some("7s")),
            ("fraction", "1.5s", Some("1.5s")),
            ("milliseconds", "250ms", Some("0.250s")),
            ("compound", "1h30m", Some("5400s")),
            ("zero without unit", "0", Some("0s")),
            ("leading point", ".5s", Some("0.5s")),
            ("nanoseconds", "1ns", Some("0.000000001s")),
            ("empty", "", None),
            ("no unit", "5", None),
            ("unknown unit", "5d", None),
            ("negative", "-1s", None),
            ("only a point", ".s", None),
            ("two points", "1.2.3s", None),
            ("far too long", "99999999999999h", None),
        ];
        for (name, text, expect) in table {
            let got = text.parse::<Duration>().ok().map(|duration| duration.get());
            let expect = expect.map(|text| text.parse::<Duration>().unwrap().get());
            assert_eq!(got, expect, "{name}");
        }
        assert_eq!(Duration::from_millis(250).to_string(), "0.25s");
        assert_eq!(Duration::from_millis(1500).get(), std::time::Duration::new(1, 500_000_000));
        assert_eq!("1h30m".parse::<Duration>().unwrap(), Duration::from_secs(5400));
    }

    #[test]
    fn error_says_what_to_write() {
        let error = serde_json::from_str::<Duration>("\"5 s\"").unwrap_err().to_string();
        assert!(error.contains("\"5 s\" is not a duration"), "{error}");
        assert!(error.contains("1h30m"), "{error}");
    }
}
