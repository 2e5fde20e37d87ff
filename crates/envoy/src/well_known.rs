//! Conversions between Google's well-known types and Rust's.

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value as Json};

use crate::google::protobuf::value::Kind;
use crate::google::protobuf::{self, ListValue, Struct, Timestamp, Value};

impl From<Duration> for protobuf::Duration {
    fn from(duration: Duration) -> Self {
        Self {
            seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
            // Below one billion, so it fits.
            nanos: duration.subsec_nanos() as i32,
        }
    }
}

/// A protobuf duration that is negative, which the standard library's cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a duration of {seconds} s and {nanos} ns is negative")]
pub struct NegativeDuration {
    seconds: i64,
    nanos: i32,
}

impl TryFrom<protobuf::Duration> for Duration {
    type Error = NegativeDuration;

    fn try_from(duration: protobuf::Duration) -> Result<Self, Self::Error> {
        let error = NegativeDuration { seconds: duration.seconds, nanos: duration.nanos };
        let seconds = u64::try_from(duration.seconds).map_err(|_| error)?;
        let nanos = u64::try_from(duration.nanos).map_err(|_| error)?;
        Ok(Self::from_secs(seconds).saturating_add(Self::from_nanos(nanos)))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => {
                Self { seconds: since.as_secs().cast_signed(), nanos: since.subsec_nanos().cast_signed() }
            }
            Err(before) => {
                let before = before.duration();
                let borrow = i64::from(before.subsec_nanos() > 0);
                Self {
                    seconds: -before.as_secs().cast_signed() - borrow,
                    nanos: (1_000_000_000 * borrow).wrapping_sub(i64::from(before.subsec_nanos())) as i32,
                }
            }
        }
    }
}

impl From<Json> for Value {
    fn from(json: Json) -> Self {
        Self {
            kind: Some(match json {
                Json::Null => Kind::NullValue(0),
                Json::Bool(flag) => Kind::BoolValue(flag),
                Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
                Json::String(text) => Kind::StringValue(text),
                Json::Array(items) => {
                    Kind::ListValue(ListValue { values: items.into_iter().map(Self::from).collect() })
                }
                Json::Object(object) => Kind::StructValue(object.into()),
            }),
        }
    }
}

impl From<Map<String, Json>> for Struct {
    fn from(object: Map<String, Json>) -> Self {
        Self { fields: object.into_iter().map(|(key, value)| (key, value.into())).collect() }
    }
}

impl From<Value> for Json {
    fn from(value: Value) -> Self {
        match value.kind {
            None | Some(Kind::NullValue(_)) => Self::Null,
            Some(Kind::BoolValue(flag)) => Self::Bool(flag),
            Some(Kind::NumberValue(number)) => number_to_json(number),
            Some(Kind::StringValue(text)) => Self::String(text),
            Some(Kind::ListValue(list)) => Self::Array(list.values.into_iter().map(Self::from).collect()),
            Some(Kind::StructValue(object)) => Self::Object(object.into()),
        }
    }
}

impl From<Struct> for Map<String, Json> {
    fn from(object: Struct) -> Self {
        object.fields.into_iter().map(|(key, value)| (key, value.into())).collect()
    }
}

/// Whole numbers are written without a fraction, as every JSON writer that keeps doubles does.
fn number_to_json(number: f64) -> Json {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() < EXACT {
        return Json::from(number as i64);
    }
    serde_json::Number::from_f64(number).map_or(Json::Null, Json::Number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_go_there_and_back() {
        for duration in [Duration::ZERO, Duration::from_millis(1500), Duration::from_nanos(1)] {
            assert_eq!(Duration::try_from(protobuf::Duration::from(duration)), Ok(duration));
        }
        assert!(Duration::try_from(protobuf::Duration { seconds: -1, nanos: 0 }).is_err());
    }

    #[test]
    fn a_time_before_the_epoch_has_positive_nanoseconds() {
        let time = SystemTime::UNIX_EPOCH - Duration::from_millis(1500);
        assert_eq!(Timestamp::from(time), Timestamp { seconds: -2, nanos: 500_000_000 });
    }

    #[test]
    fn json_goes_there_and_back() {
        let json = serde_json::json!({"a": [1, 2.5, "x", null, true], "b": {"c": {}}});
        let Json::Object(object) = json.clone() else { unreachable!() };
        assert_eq!(Json::Object(Struct::from(object).into()), json);
    }
}
