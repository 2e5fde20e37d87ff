//! Parts of names that become labels: Envoy's default tags and those of `stats_config`.

use std::ops::Range;

use regex::Regex;

use crate::matcher::StringMatcher;

/// Envoy's default bounds for Prometheus (`HistogramSettingsImpl::defaultBuckets`).
pub const DEFAULT_BOUNDS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10000.0,
    30000.0,
    60000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// A label and its value.
pub type Label = (String, String);

/// How names are shown and tagged (`envoy.config.metrics.v3.StatsConfig`).
#[derive(Debug, Clone)]
pub struct StatsConfig {
    /// Whether Envoy's own tags are extracted.
    pub default_tags: bool,
    /// Tags of the configuration: those found by a pattern, or by a default under its name.
    pub tags: Vec<Tag>,
    /// Labels that everything has.
    pub fixed: Vec<Label>,
    /// Which names there are at all.
    pub matcher: Matcher,
    /// Bounds of histograms by name; the first that matches counts.
    pub buckets: Vec<(StringMatcher, Vec<f64>)>,
}

/// A tag of the configuration.
#[derive(Debug, Clone)]
pub enum Tag {
    /// The first group is cut out, the second (or else the first) is the value.
    Pattern(String, Regex),
    /// One of Envoy's defaults.
    Default(&'static str),
}

/// Which statistics exist (`stats_config.stats_matcher`).
#[derive(Debug, Clone, Default)]
pub enum Matcher {
    /// All.
    #[default]
    All,
    /// None.
    Nothing,
    /// Those that match.
    Only(Vec<StringMatcher>),
    /// Those that do not match.
    Except(Vec<StringMatcher>),
}

impl Default for StatsConfig {
    fn default() -> Self {
        Self {
            default_tags: true,
            tags: Vec::new(),
            fixed: Vec::new(),
            matcher: Matcher::All,
            buckets: Vec::new(),
        }
    }
}

impl StatsConfig {
    /// Whether a statistic of that name exists.
    pub fn shows(&self, name: &str) -> bool {
        let any = |list: &[StringMatcher]| list.iter().any(|matcher| matcher.matches(name.as_bytes()));
        match &self.matcher {
            Matcher::All => true,
            Matcher::Nothing => false,
            Matcher::Only(list) => any(list),
            Matcher::Except(list) => !any(list),
        }
    }

    /// The bounds of a histogram.
    pub fn bounds(&self, name: &str) -> &[f64] {
        let own = self.buckets.iter().find(|(matcher, _)| matcher.matches(name.as_bytes()));
        own.map_or(&DEFAULT_BOUNDS, |(_, bounds)| bounds)
    }

    /// The name without its tags, and these.
    pub fn extract(&self, name: &str) -> (String, Vec<Label>) {
        let mut labels = self.fixed.clone();
        let mut cuts: Vec<Range<usize>> = Vec::new();
        let mut add = |label: &str, found: Option<(Range<usize>, Range<usize>)>| {
            if let Some((cut, value)) = found
                && !labels.iter().any(|(other, _)| other == label)
            {
                labels.push((label.to_owned(), name[value].to_owned()));
                cuts.push(cut);
            }
        };
        if self.default_tags {
            for (label, rule) in DEFAULTS {
                add(label, rule.find(name));
            }
        }
        for tag in &self.tags {
            match tag {
                Tag::Default(label) => {
                    for (_, rule) in DEFAULTS.iter().filter(|(other, _)| other == label) {
                        add(label, rule.find(name));
                    }
                }
                Tag::Pattern(label, pattern) => add(
                    label,
                    pattern.captures(name).and_then(|groups| {
                        let cut = groups.get(1)?;
                        Some((cut.range(), groups.get(2).unwrap_or(cut).range()))
                    }),
                ),
            }
        }
        (without(name, cuts), labels)
    }
}

fn without(name: &str, mut cuts: Vec<Range<usize>>) -> String {
    cuts.sort_by_key(|cut| cut.start);
    let mut out = String::with_capacity(name.len());
    let mut at = 0;
    for cut in cuts {
        if cut.start >= at {
            out.push_str(&name[at..cut.start]);
        }
        at = at.max(cut.end);
    }
    out.push_str(&name[at..]);
    out
}

/// How a default tag is found (Envoy's `well_known_names.cc`).
#[derive(Debug, Clone, Copy)]
enum Rule {
    /// `_rq_503` at the end; `_503` is cut out.
    Code,
    /// `_rq_5xx` at the end; the digit is cut out.
    Class,
    /// Segments between dots: words are themselves, `*` is any, `$` is the tag. More segments follow.
    Segments(&'static [&'static str]),
    /// Behind `listener.ANY.http.`.
    ListenerHttp,
    /// `_0` of `worker_0`, behind this beginning.
    Worker(&'static str),
    /// An address behind `listener.`.
    Address,
    /// Behind `http.ANY.rds.`, to the last dot.
    RouteConfig,
}

const DEFAULTS: &[(&str, Rule)] = &[
    ("envoy_response_code", Rule::Code),
    ("envoy_response_code_class", Rule::Class),
    ("envoy_virtual_cluster", Rule::Segments(&["vhost", "*", "vcluster", "$"])),
    ("envoy_fault_downstream_cluster", Rule::Segments(&["http", "*", "fault", "$"])),
    ("envoy_tcp_prefix", Rule::Segments(&["tcp", "$"])),
    ("envoy_ratelimit_prefix", Rule::Segments(&["ratelimit", "$"])),
    ("envoy_cluster_name", Rule::Segments(&["cluster", "$"])),
    ("envoy_http_conn_manager_prefix", Rule::ListenerHttp),
    ("envoy_http_conn_manager_prefix", Rule::Segments(&["http", "$"])),
    ("envoy_worker_id", Rule::Worker("listener.")),
    ("envoy_worker_id", Rule::Worker("server.")),
    ("envoy_worker_id", Rule::Worker("thread_local_cluster_manager.")),
    ("envoy_listener_address", Rule::Address),
    ("envoy_virtual_host", Rule::Segments(&["vhost", "$"])),
    ("envoy_route", Rule::Segments(&["vhost", "*", "route", "$"])),
    ("envoy_rds_route_config", Rule::RouteConfig),
    ("envoy_local_http_ratelimit_prefix", Rule::Segments(&["$", "http_local_rate_limit"])),
    ("envoy_local_network_ratelimit_prefix", Rule::Segments(&["local_rate_limit", "$"])),
    ("envoy_local_listener_ratelimit_prefix", Rule::Segments(&["listener_local_ratelimit", "$"])),
    ("envoy_connection_limit_prefix", Rule::Segments(&["connection_limit", "$"])),
];

type Found = Option<(Range<usize>, Range<usize>)>;

impl Rule {
    /// What is cut out, and the value.
    fn find(self, name: &str) -> Found {
        match self {
            Self::Code => {
                let at = name.len().checked_sub(3)?;
                let digits = name.get(at..)?;
                let ends = name[..at].ends_with("_rq_") && digits.bytes().all(|byte| byte.is_ascii_digit());
                ends.then(|| (at - 1..name.len(), at..name.len()))
            }
            Self::Class => {
                let at = name.strip_suffix("xx")?.len().checked_sub(1)?;
                let digit = name.as_bytes()[at].is_ascii_digit();
                (digit && name[..at].ends_with("_rq_")).then(|| (at..at + 1, at..at + 1))
            }
            Self::Segments(pattern) => segments(name, pattern),
            Self::ListenerHttp => {
                let rest = name.strip_prefix("listener.")?;
                let start = name.len() - rest.len() + rest.find(".http.")? + ".http.".len();
                let end = start + name[start..].find('.')?;
                Some((start..end + 1, start..end))
            }
            Self::Worker(beginning) => {
                let rest = name.strip_prefix(beginning)?;
                let at = if rest.starts_with("worker_") { 0 } else { rest.find(".worker_")? + 1 };
                let start = name.len() - rest.len() + at + "worker_".len();
                let end = start + name[start..].find('.')?;
                let digits = end > start && name[start..end].bytes().all(|byte| byte.is_ascii_digit());
                digits.then(|| (start - 1..end, start..end))
            }
            Self::Address => {
                let start = name.strip_prefix("listener.").map(|_| "listener.".len())?;
                let length = address_length(&name[start..])?;
                Some((start..start + length + 1, start..start + length))
            }
            Self::RouteConfig => {
                let rest = name.strip_prefix("http.")?;
                let start = name.len() - rest.len() + rest.find(".rds.")? + ".rds.".len();
                let end = name.rfind('.').filter(|end| *end > start)?;
                Some((start..end + 1, start..end))
            }
        }
    }
}

fn segments(name: &str, pattern: &[&str]) -> Found {
    let mut at = 0;
    let mut value = None;
    for part in pattern {
        let end = at + name[at..].find('.')?;
        match *part {
            "*" => {}
            "$" => value = Some(at..end),
            word if &name[at..end] == word => {}
            _ => return None,
        }
        at = end + 1;
    }
    let value = value?;
    (at < name.len()).then(|| (value.start..value.end + 1, value))
}

/// The length of `1.2.3.4_80` or `[__1]_80` at the beginning, with a dot behind it.
fn address_length(text: &str) -> Option<usize> {
    let host = if text.starts_with('[') {
        text.find(']')? + 1
    } else {
        let underscore = text.find('_')?;
        text[..underscore].parse::<std::net::Ipv4Addr>().ok()?;
        underscore
    };
    let digits = text[host..].strip_prefix('_')?;
    let length = digits.find('.')?;
    let all = length > 0 && digits[..length].bytes().all(|byte| byte.is_ascii_digit());
    all.then_some(host + 1 + length)
}

/// A default tag of that label.
pub(crate) fn default_tag(label: &str) -> Option<Tag> {
    DEFAULTS.iter().find(|(name, _)| *name == label).map(|(name, _)| Tag::Default(name))
}

/// A name as Prometheus allows it.
pub fn sanitized(name: &str) -> String {
    name.chars()
        .map(|character| match character {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | ':' => character,
            _ => '_',
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_tags_are_envoys() {
        // Left: text name; right: what Envoy 1.40's Prometheus page makes of it.
        for (name, bare, labels) in [
            ("cluster.a.upstream_rq_total", "cluster.upstream_rq_total", "envoy_cluster_name=a"),
            ("cluster.a.b.upstream_rq_total", "cluster.b.upstream_rq_total", "envoy_cluster_name=a"),
            (
                "cluster.a.upstream_rq_503",
                "cluster.upstream_rq",
                "envoy_response_code=503 envoy_cluster_name=a",
            ),
            (
                "cluster.a.external.upstream_rq_2xx",
                "cluster.external.upstream_rq_xx",
                "envoy_response_code_class=2 envoy_cluster_name=a",
            ),
            (
                "http.in.downstream_rq_5xx",
                "http.downstream_rq_xx",
                "envoy_response_code_class=5 envoy_http_conn_manager_prefix=in",
            ),
            (
                "listener.127.0.0.1_80.http.in.downstream_rq_1xx",
                "listener.http.downstream_rq_xx",
                "envoy_response_code_class=1 envoy_http_conn_manager_prefix=in envoy_listener_address=127.0.0.1_80",
            ),
            (
                "listener.[__1]_80.worker_0.downstream_cx_total",
                "listener.worker.downstream_cx_total",
                "envoy_worker_id=0 envoy_listener_address=[__1]_80",
            ),
            ("listener.admin.downstream_cx_total", "listener.admin.downstream_cx_total", ""),
            (
                "vhost.v.vcluster.c.upstream_rq_404",
                "vhost.vcluster.upstream_rq",
                "envoy_response_code=404 envoy_virtual_cluster=c envoy_virtual_host=v",
            ),
            ("tcp.t.idle_timeout", "tcp.idle_timeout", "envoy_tcp_prefix=t"),
            ("server.worker_3.watchdog_miss", "server.worker.watchdog_miss", "envoy_worker_id=3"),
            (
                "x.http_local_rate_limit.enabled",
                "http_local_rate_limit.enabled",
                "envoy_local_http_ratelimit_prefix=x",
            ),
            ("server.live", "server.live", ""),
        ] {
            let (found, tags) = StatsConfig::default().extract(name);
            let tags: Vec<String> = tags.iter().map(|(label, value)| format!("{label}={value}")).collect();
            assert_eq!((found.as_str(), tags.join(" ").as_str()), (bare, labels), "{name}");
        }
    }

    #[test]
    fn tags_of_the_configuration() {
        let config = StatsConfig {
            default_tags: false,
            fixed: vec![("zone".into(), "a".into())],
            tags: vec![
                Tag::Pattern(
                    "cluster_name".into(),
                    Regex::new(r"^cluster\.((.+?(\..+?\.svc\.cluster\.local)?)\.)").unwrap(),
                ),
                Tag::Default("envoy_response_code"),
            ],
            ..StatsConfig::default()
        };
        let (name, labels) = config.extract("cluster.outbound|80||a.b.svc.cluster.local.upstream_rq_200");
        assert_eq!(name, "cluster.upstream_rq");
        let labels: Vec<_> = labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(
            labels,
            [
                ("zone", "a"),
                ("cluster_name", "outbound|80||a.b.svc.cluster.local"),
                ("envoy_response_code", "200")
            ]
        );
    }
}
