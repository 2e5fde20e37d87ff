//! The text and JSON forms of `/stats`.

use std::fmt::Write;

use serde_json::{Value as Json, json};

use lateen_dataplane::stat_tags::StatsConfig;

use super::histogram::{QUANTILES, Snapshot};
use super::{Sample, Value};

/// How histograms are shown (`histogram_buckets=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Buckets {
    /// Quantiles.
    #[default]
    Summary,
    /// How many values are at most each bound.
    Cumulative,
    /// How many values are between bounds.
    Disjoint,
    /// All buckets, and quantiles.
    Detailed,
}

/// `name: value` lines, as Envoy's `/stats`.
pub fn text(samples: &[Sample], buckets: Buckets, config: &StatsConfig) -> String {
    let mut out = String::new();
    for Sample { name, value, .. } in samples {
        let _ = match value {
            Value::Counter(value) | Value::Gauge(value) => writeln!(out, "{name}: {value}"),
            Value::Text(text) => writeln!(out, "{name}: \"{text}\""),
            Value::Histogram(snapshot) => {
                writeln!(out, "{name}: {}", histogram(snapshot, buckets, config.bounds(name)))
            }
        };
    }
    out
}

fn histogram(snapshot: &Snapshot, buckets: Buckets, bounds: &[f64]) -> String {
    if snapshot.buckets.is_empty() {
        return "No recorded values".to_owned();
    }
    match buckets {
        Buckets::Summary => snapshot.text(),
        Buckets::Cumulative | Buckets::Disjoint => {
            let mut before = 0;
            let mut parts = Vec::with_capacity(bounds.len());
            for bound in bounds {
                let count = snapshot.up_to(*bound);
                let shown = if buckets == Buckets::Disjoint { count - before } else { count };
                before = count;
                parts.push(format!("B{}(0,{shown})", general(*bound)));
            }
            parts.join(" ")
        }
        Buckets::Detailed => {
            let totals = snapshot.buckets.iter();
            let totals: Vec<String> =
                totals.map(|bucket| format!("{},{}:{}", bucket.low, bucket.width, bucket.count)).collect();
            format!("\n  totals={}\n  intervals=\n  summary={}", totals.join(", "), snapshot.text())
        }
    }
}

/// As C's `%g`: six digits, and an exponent where there would be more.
fn general(value: f64) -> String {
    if value.abs() < 1e6 {
        return value.to_string();
    }
    let exponent = value.abs().log10().floor() as i32;
    let mantissa = value / 10f64.powi(exponent);
    format!("{mantissa}e+{exponent:02}")
}

/// `{"stats": [...]}`, as Envoy's `/stats?format=json`.
pub fn json(samples: &[Sample], buckets: Buckets, config: &StatsConfig) -> Json {
    let mut stats = Vec::new();
    let mut histograms = Vec::new();
    for Sample { name, value, .. } in samples {
        match value {
            Value::Counter(value) | Value::Gauge(value) => stats.push(json!({"name": name, "value": value})),
            Value::Text(text) => stats.push(json!({"name": name, "value": text})),
            Value::Histogram(snapshot) => histograms.push(json_histogram(name, snapshot, buckets, config)),
        }
    }
    if !histograms.is_empty() {
        stats.push(json!({"histograms": match buckets {
            Buckets::Summary => json!({"supported_quantiles": QUANTILES, "computed_quantiles": histograms}),
            Buckets::Detailed => json!({"supported_percentiles": QUANTILES, "details": histograms}),
            _ => json!(histograms),
        }}));
    }
    json!({"stats": stats})
}

fn json_histogram(name: &str, snapshot: &Snapshot, buckets: Buckets, config: &StatsConfig) -> Json {
    let quantiles: Vec<Json> = QUANTILES
        .iter()
        .map(|quantile| {
            let value = snapshot.quantile(*quantile);
            json!({"cumulative": if value.is_nan() { Json::Null } else { json!(value) }, "interval": null})
        })
        .collect();
    match buckets {
        Buckets::Summary => json!({"name": name, "values": quantiles}),
        Buckets::Detailed => {
            let totals: Vec<Json> = snapshot
                .buckets
                .iter()
                .map(
                    |bucket| json!({"lower_bound": bucket.low, "width": bucket.width, "count": bucket.count}),
                )
                .collect();
            json!({"name": name, "totals": totals, "intervals": [], "percentiles": quantiles})
        }
        Buckets::Cumulative | Buckets::Disjoint => {
            let mut before = 0;
            let mut list = Vec::new();
            for bound in config.bounds(name) {
                let count = snapshot.up_to(*bound);
                let shown = if buckets == Buckets::Disjoint { count - before } else { count };
                before = count;
                list.push(json!({"upper_bound": bound, "interval": 0, "cumulative": shown}));
            }
            json!({"name": name, "buckets": list})
        }
    }
}
