//! The Prometheus form (text exposition format 0.0.4), as Envoy's `/stats/prometheus` has it.

use std::collections::BTreeMap;
use std::fmt::Write;

use lateen_dataplane::stat_tags::{Label, StatsConfig, sanitized};

use super::histogram::Snapshot;
use super::{Sample, Stats, Value};

fn escape(value: &str, out: &mut String) {
    for character in value.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            _ => out.push(character),
        }
    }
}

fn labels_text(labels: &[Label]) -> String {
    let mut out = String::new();
    for (name, value) in labels {
        if !out.is_empty() {
            out.push(',');
        }
        out.push_str(name);
        out.push_str("=\"");
        escape(value, &mut out);
        out.push('"');
    }
    out
}

/// What Prometheus gets of some samples.
pub(super) fn render(samples: &[Sample], config: &StatsConfig) -> String {
    let mut families: [BTreeMap<String, String>; 3] = Default::default();
    for sample in samples {
        let (name, labels) = match &sample.labels {
            Some(labels) => (sanitized(sample.metric()), (**labels).clone()),
            None => {
                let (bare, labels) = config.extract(&sample.name);
                (format!("envoy_{}", sanitized(&bare)), labels)
            }
        };
        let labels = labels_text(&labels);
        match &sample.value {
            Value::Counter(value) => {
                let lines = families[0].entry(name.clone()).or_default();
                let _ = writeln!(lines, "{name}{{{labels}}} {value}");
            }
            Value::Gauge(value) => {
                let lines = families[1].entry(name.clone()).or_default();
                let _ = writeln!(lines, "{name}{{{labels}}} {value}");
            }
            Value::Histogram(snapshot) => {
                let bounds = config.bounds(&sample.name);
                histogram(&name, &labels, snapshot, bounds, families[2].entry(name.clone()).or_default());
            }
            Value::Text(_) => {}
        }
    }
    let mut out = String::new();
    for (kind, families) in ["counter", "gauge", "histogram"].into_iter().zip(families) {
        for (name, lines) in families {
            let _ = writeln!(out, "# TYPE {name} {kind}");
            out.push_str(&lines);
        }
    }
    out
}

fn histogram(name: &str, labels: &str, snapshot: &Snapshot, bounds: &[f64], out: &mut String) {
    let comma = if labels.is_empty() { "" } else { "," };
    for bound in bounds {
        let count = snapshot.up_to(*bound);
        let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}");
    }
    let count = snapshot.count();
    let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}");
    let _ = writeln!(out, "{name}_sum{{{labels}}} {}", snapshot.sum);
    let _ = writeln!(out, "{name}_count{{{labels}}} {count}");
}

impl Stats {
    /// Everything for Prometheus.
    pub fn prometheus(&self) -> String {
        self.prometheus_of(|_| true)
    }

    /// What passes, for Prometheus. A histogram without values is left out, as Envoy does.
    pub fn prometheus_of(&self, passes: impl Fn(&Sample) -> bool) -> String {
        let mut samples = self.samples();
        samples
            .retain(|sample| passes(sample) && (sample.used || !matches!(sample.value, Value::Histogram(_))));
        render(&samples, &self.config())
    }
}
