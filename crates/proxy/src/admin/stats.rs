//! `/stats`, `/stats/prometheus`, `/reset_counters`.

use http::StatusCode;
use lateen_base::admin::{Reply, json, text};

use super::{Query, Served, pattern};
use crate::stats::text::Buckets;
use crate::stats::{Sample, Value};

/// What of all statistics is shown.
struct Selection {
    used_only: bool,
    filter: Option<regex::Regex>,
    invert: bool,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    All,
    Counters,
    Gauges,
    Histograms,
    Texts,
}

impl Selection {
    fn new(query: &Query) -> Result<Self, Reply> {
        let kind = match query.get("type").map(String::as_str) {
            None | Some("" | "All") => Kind::All,
            Some("Counters") => Kind::Counters,
            Some("Gauges") => Kind::Gauges,
            Some("Histograms") => Kind::Histograms,
            Some("TextReadouts") => Kind::Texts,
            Some(_) => return Err(text(StatusCode::BAD_REQUEST, "invalid &type= param")),
        };
        Ok(Self {
            used_only: query.contains_key("usedonly"),
            filter: pattern(query, "filter")?,
            invert: query.contains_key("invert_filter"),
            kind,
        })
    }

    fn takes(&self, sample: &Sample) -> bool {
        let kind = match sample.value {
            Value::Counter(_) => Kind::Counters,
            Value::Gauge(_) => Kind::Gauges,
            Value::Histogram(_) => Kind::Histograms,
            Value::Text(_) => Kind::Texts,
        };
        (self.kind == Kind::All || self.kind == kind)
            && (sample.used || !self.used_only)
            && self.filter.as_ref().is_none_or(|filter| filter.is_match(&sample.name) != self.invert)
    }
}

impl Served {
    pub(super) fn stats(&self, query: &Query) -> Reply {
        let format = query.get("format").map_or("text", String::as_str);
        if format == "prometheus" {
            return self.prometheus(query);
        }
        let selection = match Selection::new(query) {
            Ok(selection) => selection,
            Err(reply) => return reply,
        };
        let buckets = match query.get("histogram_buckets").map(String::as_str) {
            None | Some("" | "none" | "summary") => Buckets::Summary,
            Some("cumulative") => Buckets::Cumulative,
            Some("disjoint") => Buckets::Disjoint,
            Some("detailed") => Buckets::Detailed,
            Some(_) => {
                let message = "usage: /stats?histogram_buckets=(cumulative|disjoint|detailed|summary)\n";
                return text(StatusCode::BAD_REQUEST, message);
            }
        };
        self.refresh();
        let stats = &self.state.stats;
        let mut samples = stats.samples();
        samples.retain(|sample| selection.takes(sample));
        match format {
            "json" => json(crate::stats::text::json(&samples, buckets, &stats.config()).to_string()),
            "text" | "" => text(StatusCode::OK, crate::stats::text::text(&samples, buckets, &stats.config())),
            _ => text(
                StatusCode::BAD_REQUEST,
                "usage: /stats?format=(html|active-html|json|prometheus|text)\n\n",
            ),
        }
    }

    pub(super) fn prometheus(&self, query: &Query) -> Reply {
        let selection = match Selection::new(query) {
            Ok(selection) => selection,
            Err(reply) => return reply,
        };
        self.refresh();
        text(StatusCode::OK, self.state.stats.prometheus_of(|sample| selection.takes(sample)))
    }

    pub(super) fn reset_counters(&self, _query: &Query) -> Reply {
        self.state.stats.reset_counters();
        text(StatusCode::OK, "OK\n")
    }
}
