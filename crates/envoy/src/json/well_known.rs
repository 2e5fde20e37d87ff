//! The text forms of durations and times.

use crate::google::protobuf::{Duration, Timestamp};

/// Ten thousand years, which the protocol allows a duration to have.
const MAX_SECONDS: i64 = 315_576_000_000;

/// `1.500s`.
pub(super) fn read_duration(text: &str) -> Result<Duration, String> {
    let malformed = || format!("{text:?} is no duration, such as \"1.5s\"");
    let (negative, number) = match text.strip_suffix('s').ok_or_else(malformed)? {
        number if number.starts_with('-') => (true, &number[1..]),
        number => (false, number),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 9 || whole.len() + fraction.len() == 0 {
        return Err(malformed());
    }
    let seconds: i64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| malformed())? };
    if seconds > MAX_SECONDS {
        return Err(format!("{text:?} is longer than {MAX_SECONDS}s"));
    }
    let nanos: i32 = format!("{fraction:0<9}").parse().map_err(|_| malformed())?;
    Ok(if negative { Duration { seconds: -seconds, nanos: -nanos } } else { Duration { seconds, nanos } })
}

/// None where it is out of range.
pub(super) fn write_duration(duration: &Duration) -> Option<String> {
    let Duration { seconds, nanos } = *duration;
    let opposed = (seconds > 0 && nanos < 0) || (seconds < 0 && nanos > 0);
    if opposed || nanos.unsigned_abs() >= 1_000_000_000 || seconds.unsigned_abs() > MAX_SECONDS as u64 {
        return None;
    }
    let sign = if seconds < 0 || nanos < 0 { "-" } else { "" };
    Some(format!("{sign}{}{}s", seconds.unsigned_abs(), fraction(nanos.unsigned_abs())))
}

/// Nothing, or three, six or nine digits.
fn fraction(nanos: u32) -> String {
    match nanos {
        0 => String::new(),
        nanos if nanos.is_multiple_of(1_000_000) => format!(".{:03}", nanos / 1_000_000),
        nanos if nanos.is_multiple_of(1000) => format!(".{:06}", nanos / 1000),
        nanos => format!(".{nanos:09}"),
    }
}

/// RFC 3339.
pub(super) fn read_timestamp(text: &str) -> Result<Timestamp, String> {
    let time: jiff::Timestamp = text.parse().map_err(|error| format!("{text:?} is no time: {error}"))?;
    // Nanoseconds count forward from the second before, also before 1970.
    let (mut seconds, mut nanos) = (time.as_second(), time.subsec_nanosecond());
    if nanos < 0 {
        seconds -= 1;
        nanos += 1_000_000_000;
    }
    Ok(Timestamp { seconds, nanos })
}

/// None where it is out of range.
pub(super) fn write_timestamp(time: &Timestamp) -> Option<String> {
    let nanos = u32::try_from(time.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    let text = jiff::Timestamp::from_second(time.seconds).ok()?.to_string();
    Some(format!("{}{}Z", text.strip_suffix('Z')?, fraction(nanos)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, seconds, nanos, written) in [
            ("1s", 1, 0, "1s"),
            ("0.25s", 0, 250_000_000, "0.250s"),
            ("1.000001s", 1, 1000, "1.000001s"),
            ("1.000000001s", 1, 1, "1.000000001s"),
            ("-0.5s", 0, -500_000_000, "-0.500s"),
            ("-2.5s", -2, -500_000_000, "-2.500s"),
            (".5s", 0, 500_000_000, "0.500s"),
        ] {
            let duration = Duration { seconds, nanos };
            assert_eq!(read_duration(text), Ok(duration), "{text}");
            assert_eq!(write_duration(&duration).as_deref(), Some(written), "{text}");
        }
        for text in ["", "s", ".s", "1", "1ms", "1.0000000001s", "+1s", "1 s", "-", "--1s", "400000000000s"] {
            assert!(read_duration(text).is_err(), "{text}");
        }
        assert_eq!(write_duration(&Duration { seconds: 1, nanos: -1 }), None);
        assert_eq!(write_duration(&Duration { seconds: i64::MIN, nanos: 0 }), None);
    }

    #[test]
    fn times() {
        for (text, seconds, nanos, written) in [
            ("1970-01-01T00:00:00Z", 0, 0, "1970-01-01T00:00:00Z"),
            ("2024-02-29T12:30:01.5Z", 1_709_209_801, 500_000_000, "2024-02-29T12:30:01.500Z"),
            ("2024-02-29T12:30:01+01:00", 1_709_206_201, 0, "2024-02-29T11:30:01Z"),
            ("1969-12-31T23:59:59.25Z", -1, 250_000_000, "1969-12-31T23:59:59.250Z"),
        ] {
            let time = Timestamp { seconds, nanos };
            assert_eq!(read_timestamp(text), Ok(time), "{text}");
            assert_eq!(write_timestamp(&time).as_deref(), Some(written), "{text}");
        }
        assert!(read_timestamp("yesterday").is_err());
        assert_eq!(write_timestamp(&Timestamp { seconds: 0, nanos: -1 }), None);
        assert_eq!(write_timestamp(&Timestamp { seconds: i64::MAX, nanos: 0 }), None);
    }
}
