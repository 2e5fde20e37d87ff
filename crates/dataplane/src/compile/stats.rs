//! `StatsConfig` of the bootstrap.

use lateen_envoy::envoy::config::metrics::v3 as proto;
use lateen_envoy::envoy::config::metrics::v3::stats_matcher::StatsMatcher as Proto;
use lateen_envoy::envoy::config::metrics::v3::tag_specifier::TagValue;
use lateen_envoy::envoy::r#type::matcher::v3 as matcher;
use regex::Regex;

use super::common::{leftover, string};
use crate::error::{Context, Result};
use crate::matcher::StringMatcher;
use crate::stat_tags::{Matcher, StatsConfig, Tag, default_tag, sanitized};

pub(crate) fn stats_config(context: &Context<'_>, mut value: proto::StatsConfig) -> Result<StatsConfig> {
    let mut out = StatsConfig {
        default_tags: value.use_all_default_tags.take().unwrap_or(true),
        ..StatsConfig::default()
    };
    for (at, tag) in std::mem::take(&mut value.stats_tags).into_iter().enumerate() {
        let context = context.field("stats_tags").index(at);
        if tag.tag_name.is_empty() {
            return Err(context.field("tag_name").error("name the tag"));
        }
        let label = sanitized(&tag.tag_name);
        match tag.tag_value {
            Some(TagValue::FixedValue(fixed)) => out.fixed.push((label, fixed)),
            Some(TagValue::Regex(regex)) if !regex.is_empty() => {
                let pattern = tag_pattern(&context.field("regex"), &regex)?;
                out.tags.push(Tag::Pattern(label, pattern));
            }
            _ => out.tags.push(default_tag(&label).ok_or_else(|| {
                context.field("tag_name").error(format!(
                    "`{}` is none of the default tags; give it a regex or a fixed_value",
                    tag.tag_name
                ))
            })?),
        }
    }
    if let Some(matcher) = value.stats_matcher.take().and_then(|matcher| matcher.stats_matcher) {
        let context = context.field("stats_matcher");
        out.matcher = match matcher {
            Proto::RejectAll(true) => Matcher::Nothing,
            Proto::RejectAll(false) => Matcher::All,
            Proto::InclusionList(list) => Matcher::Only(strings(&context.field("inclusion_list"), list)?),
            Proto::ExclusionList(list) => Matcher::Except(strings(&context.field("exclusion_list"), list)?),
        };
    }
    for (at, setting) in std::mem::take(&mut value.histogram_bucket_settings).into_iter().enumerate() {
        let context = context.field("histogram_bucket_settings").index(at);
        let matcher = setting.r#match.ok_or_else(|| context.field("match").error("say which histograms"))?;
        let mut bounds = setting.buckets;
        bounds.sort_by(f64::total_cmp);
        bounds.dedup();
        out.buckets.push((string(&context.field("match"), matcher)?, bounds));
    }
    leftover(context, &value);
    Ok(out)
}

/// The pattern of a tag. Envoy takes ECMAScript here, which can look ahead; what is looked at comes again in the pattern
/// (`^listener(?=\.).*?\.http`), so that it matches the same names without.
fn tag_pattern(context: &Context<'_>, regex: &str) -> Result<Regex> {
    Regex::new(regex).or_else(|error| {
        let mut plain = String::new();
        let mut rest = regex;
        while let Some(at) = rest.find("(?=") {
            let (before, looked) = rest.split_at(at);
            // Groups within are not taken apart.
            let end = looked.find(')').filter(|end| !looked[3..*end].contains('('));
            let end = end.ok_or_else(|| context.error(&error))?;
            plain.push_str(before);
            rest = &looked[end + 1..];
        }
        plain.push_str(rest);
        Regex::new(&plain).map_err(|_| context.error(error))
    })
}

fn strings(context: &Context<'_>, list: matcher::ListStringMatcher) -> Result<Vec<StringMatcher>> {
    list.patterns
        .into_iter()
        .enumerate()
        .map(|(at, pattern)| string(&context.field("patterns").index(at), pattern))
        .collect()
}
