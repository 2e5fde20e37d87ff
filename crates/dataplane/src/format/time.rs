//! Times as Envoy's `START_TIME` writes them: strftime, with `%f` for parts of a second.

use std::io::Write;
use std::time::Duration;

/// How a time is written.
#[derive(Debug, Clone, Default)]
pub(super) enum TimeFormat {
    /// `2026-11-20T10:11:12.123Z`.
    #[default]
    Rfc3339Millis,
    /// As described.
    Strftime(Box<str>),
}

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// A moment of UTC, taken apart.
struct Moment {
    since_epoch: Duration,
    days: u64,
    year: u64,
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
}

impl Moment {
    fn new(since_epoch: Duration) -> Self {
        let seconds = since_epoch.as_secs();
        let days = seconds / 86_400;
        let (year, month, day) = civil(days);
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        Self { since_epoch, days, year, month, day, hour, minute, second }
    }

    fn nanos(&self, places: usize, out: &mut Vec<u8>) {
        let nanos = format!("{:09}", self.since_epoch.subsec_nanos());
        out.extend_from_slice(&nanos.as_bytes()[..places.clamp(1, 9)]);
    }
}

impl TimeFormat {
    pub(super) fn compile(argument: Option<&str>) -> Self {
        match argument {
            None | Some("") => Self::Rfc3339Millis,
            Some(format) => Self::Strftime(format.into()),
        }
    }

    pub(super) fn write(&self, since_epoch: Duration, out: &mut Vec<u8>) {
        let moment = Moment::new(since_epoch);
        match self {
            Self::Rfc3339Millis => {
                let Moment { year, month, day, hour, minute, second, .. } = moment;
                let millis = since_epoch.subsec_millis();
                let _ = write!(
                    out,
                    "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z"
                );
            }
            Self::Strftime(format) => strftime(&moment, format, out),
        }
    }
}

fn strftime(moment: &Moment, format: &str, out: &mut Vec<u8>) {
    let mut rest = format.chars().peekable();
    while let Some(character) = rest.next() {
        if character != '%' {
            let mut bytes = [0; 4];
            out.extend_from_slice(character.encode_utf8(&mut bytes).as_bytes());
            continue;
        }
        let digits: String = std::iter::from_fn(|| rest.next_if(char::is_ascii_digit)).collect();
        match rest.next() {
            // `%E4S`, `%E*S`, `%Ez` of the library that Envoy formats with.
            Some('E') => extended(moment, &mut rest, out),
            Some('f') => moment.nanos(digits.parse().unwrap_or(9), out),
            Some(letter) if digits.is_empty() => conversion(moment, letter, out),
            Some(other) => out.extend_from_slice(format!("%{digits}{other}").as_bytes()),
            None => out.extend_from_slice(format!("%{digits}").as_bytes()),
        }
    }
}

fn extended(moment: &Moment, rest: &mut std::iter::Peekable<std::str::Chars<'_>>, out: &mut Vec<u8>) {
    let digits: String =
        std::iter::from_fn(|| rest.next_if(|next| next.is_ascii_digit() || *next == '*')).collect();
    let _ = match rest.next() {
        Some('S') => {
            let _ = write!(out, "{:02}", moment.second);
            match digits.parse::<usize>() {
                Ok(places) if places > 0 => {
                    out.push(b'.');
                    moment.nanos(places, out);
                }
                _ if digits == "*" && moment.since_epoch.subsec_nanos() > 0 => {
                    let nanos = format!("{:09}", moment.since_epoch.subsec_nanos());
                    let _ = write!(out, ".{}", nanos.trim_end_matches('0'));
                }
                _ => {}
            }
            Ok(())
        }
        Some('z') => write!(out, "+00:00"),
        Some('T') => write!(out, "T"),
        Some(other) => write!(out, "%E{digits}{other}"),
        None => write!(out, "%E{digits}"),
    };
}

fn conversion(moment: &Moment, letter: char, out: &mut Vec<u8>) {
    let Moment { year, month, day, hour, minute, second, days, .. } = *moment;
    let weekday = (days + 4) % 7;
    let twelve = if hour % 12 == 0 { 12 } else { hour % 12 };
    let half = if hour < 12 { "AM" } else { "PM" };
    let (day_name, month_name) = (DAYS[weekday as usize], MONTHS[(month - 1) as usize]);
    let _ = match letter {
        'Y' => write!(out, "{year:04}"),
        'C' => write!(out, "{:02}", year / 100),
        'y' => write!(out, "{:02}", year % 100),
        'm' => write!(out, "{month:02}"),
        'd' => write!(out, "{day:02}"),
        'e' => write!(out, "{day:2}"),
        'H' => write!(out, "{hour:02}"),
        'k' => write!(out, "{hour:2}"),
        'I' => write!(out, "{twelve:02}"),
        'l' => write!(out, "{twelve:2}"),
        'M' => write!(out, "{minute:02}"),
        'S' => write!(out, "{second:02}"),
        'p' => write!(out, "{half}"),
        'F' => write!(out, "{year:04}-{month:02}-{day:02}"),
        'D' | 'x' => write!(out, "{month:02}/{day:02}/{:02}", year % 100),
        'T' | 'X' => write!(out, "{hour:02}:{minute:02}:{second:02}"),
        'R' => write!(out, "{hour:02}:{minute:02}"),
        'r' => write!(out, "{twelve:02}:{minute:02}:{second:02} {half}"),
        'c' => write!(
            out,
            "{} {} {day:2} {hour:02}:{minute:02}:{second:02} {year:04}",
            &day_name[..3],
            &month_name[..3]
        ),
        's' => write!(out, "{}", moment.since_epoch.as_secs()),
        'j' => write!(out, "{:03}", days - days_before_year(year) + 1),
        'a' => write!(out, "{}", &day_name[..3]),
        'A' => write!(out, "{day_name}"),
        'b' | 'h' => write!(out, "{}", &month_name[..3]),
        'B' => write!(out, "{month_name}"),
        'u' => write!(out, "{}", if weekday == 0 { 7 } else { weekday }),
        'w' => write!(out, "{weekday}"),
        'z' => write!(out, "+0000"),
        'Z' => write!(out, "UTC"),
        'n' => writeln!(out),
        't' => write!(out, "\t"),
        '%' => write!(out, "%"),
        other => write!(out, "%{other}"),
    };
}

/// Days from the epoch to the first of January.
fn days_before_year(year: u64) -> u64 {
    let before = year - 1;
    before * 365 + before / 4 - before / 100 + before / 400 - 719_162
}

/// Year, month, day of a day since the epoch (Howard Hinnant's `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        // 2025-11-20T10:31:12.045006789Z, a Thursday.
        let time = Duration::new(1_763_634_672, 45_006_789);
        for (format, expect) in [
            (None, "2025-11-20T10:31:12.045Z"),
            (Some(""), "2025-11-20T10:31:12.045Z"),
            (Some("%s"), "1763634672"),
            (Some("%s.%3f"), "1763634672.045"),
            (Some("%f %6f %1f"), "045006789 045006 0"),
            (Some("%Y/%m/%dT%H:%M:%S%z"), "2025/11/20T10:31:12+0000"),
            (Some("%F %T %Z %D %R"), "2025-11-20 10:31:12 UTC 11/20/25 10:31"),
            (Some("%a %A %b %B %e %j %u %w"), "Thu Thursday Nov November 20 324 4 4"),
            (Some("%I:%M %p %y %C"), "10:31 AM 25 20"),
            (Some("%E3S %E*S %Ez %ES"), "12.045 12.045006789 +00:00 12"),
            (Some("%d%%"), "20%"),
            (Some("%c|%r"), "Thu Nov 20 10:31:12 2025|10:31:12 AM"),
            (Some("é%Q%"), "é%Q%"),
        ] {
            let mut out = Vec::new();
            TimeFormat::compile(format).write(time, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expect, "{format:?}");
        }
    }
}
