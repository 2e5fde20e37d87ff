//! `xds.type.matcher.v3.Matcher` of a virtual host to its runtime form.

use std::collections::HashMap;
use std::sync::Arc;

use lateen_envoy::TypeUrl;
use lateen_envoy::envoy::config::route::v3 as route_proto;
use lateen_envoy::envoy::r#type::matcher::v3 as inputs;
use lateen_envoy::xds::core::v3::TypedExtensionConfig;
use lateen_envoy::xds::r#type::matcher::v3 as proto;
use lateen_envoy::xds::r#type::matcher::v3::matcher as parts;

use super::checked::unpack;
use super::common::pattern;
use crate::error::{Context, Result};
use crate::matcher::{StringMatcher, StringPattern};
use crate::route::{Branches, Input, OnMatch, Predicate, Route, Tree};

/// Compiles a route of the tree.
pub(crate) type CompileRoute<'a> = &'a dyn Fn(&Context<'_>, route_proto::Route) -> Result<Route>;

pub(crate) fn tree(context: &Context<'_>, value: proto::Matcher, route: CompileRoute<'_>) -> Result<Tree> {
    let branches = match value.matcher_type {
        Some(parts::MatcherType::MatcherList(list)) => {
            let context = context.field("matcher_list.matchers");
            let entries = list.matchers.into_iter().enumerate().map(|(at, entry)| {
                let context = context.index(at);
                let condition =
                    entry.predicate.ok_or_else(|| context.field("predicate").error("say when"))?;
                Ok((
                    predicate(&context.field("predicate"), condition)?,
                    on_match(&context, entry.on_match, route)?,
                ))
            });
            Branches::List(entries.collect::<Result<_>>()?)
        }
        Some(parts::MatcherType::MatcherTree(tree)) => lookup(&context.field("matcher_tree"), tree, route)?,
        None => return Err(context.error("say how it branches: matcher_list or matcher_tree")),
    };
    let otherwise = match value.on_no_match {
        Some(on) => Some(leads_to(&context.field("on_no_match"), *on, route)?),
        None => None,
    };
    Ok(Tree { branches, otherwise })
}

fn on_match(
    context: &Context<'_>,
    value: Option<parts::OnMatch>,
    route: CompileRoute<'_>,
) -> Result<OnMatch> {
    let context = context.field("on_match");
    leads_to(&context, value.ok_or_else(|| context.error("say where it leads: action or matcher"))?, route)
}

fn leads_to(context: &Context<'_>, value: parts::OnMatch, route: CompileRoute<'_>) -> Result<OnMatch> {
    if value.keep_matching {
        return Err(context.field("keep_matching").error("a request has one route; remove this"));
    }
    match value.on_match {
        Some(parts::on_match::OnMatch::Matcher(inner)) => {
            Ok(OnMatch::Tree(Box::new(tree(&context.field("matcher"), *inner, route)?)))
        }
        Some(parts::on_match::OnMatch::Action(action)) => {
            let context = context.field("action.typed_config");
            let any = action.typed_config.unwrap_or_default();
            if any.type_url == route_proto::Route::TYPE_URL {
                return Ok(OnMatch::Routes(vec![Arc::new(route(&context, unpack(&context, &any)?)?)]));
            }
            if any.type_url == route_proto::RouteList::TYPE_URL {
                let list: route_proto::RouteList = unpack(&context, &any)?;
                let context = context.field("routes");
                let routes = list.routes.into_iter().enumerate();
                let routes = routes.map(|(at, one)| route(&context.index(at), one).map(Arc::new));
                return Ok(OnMatch::Routes(routes.collect::<Result<_>>()?));
            }
            Err(context.error(format!("`{}` is no action of a virtual host; write a Route", any.type_url)))
        }
        None => Err(context.error("say where it leads: action or matcher")),
    }
}

fn lookup(context: &Context<'_>, value: parts::MatcherTree, route: CompileRoute<'_>) -> Result<Branches> {
    let input = input(&context.field("input"), value.input)?;
    let table =
        |context: &Context<'_>, map: parts::matcher_tree::MatchMap| -> Result<HashMap<Box<[u8]>, OnMatch>> {
            let entries = map.map.into_iter().map(|(key, on)| {
                let place = context.field(&format!("map[{key:?}]"));
                Ok((key.into_bytes().into(), leads_to(&place, on, route)?))
            });
            entries.collect()
        };
    match value.tree_type {
        Some(parts::matcher_tree::TreeType::ExactMatchMap(map)) => {
            Ok(Branches::Exact(input, table(&context.field("exact_match_map"), map)?))
        }
        Some(parts::matcher_tree::TreeType::PrefixMatchMap(map)) => {
            let mut entries: Vec<_> = table(&context.field("prefix_match_map"), map)?.into_iter().collect();
            entries.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
            Ok(Branches::Prefix(input, entries))
        }
        Some(parts::matcher_tree::TreeType::CustomMatch(_)) => {
            Err(context.field("custom_match").error("matchers of extensions are not supported"))
        }
        None => Err(context.error("say how values are looked up: exact_match_map or prefix_match_map")),
    }
}

fn input(context: &Context<'_>, value: Option<TypedExtensionConfig>) -> Result<Input> {
    let context = context.field("typed_config");
    let any = value.and_then(|input| input.typed_config).unwrap_or_default();
    if any.type_url == inputs::HttpRequestHeaderMatchInput::TYPE_URL {
        let value: inputs::HttpRequestHeaderMatchInput = unpack(&context, &any)?;
        return Ok(Input::Header(value.header_name.to_ascii_lowercase().into_bytes().into()));
    }
    if any.type_url == inputs::HttpRequestQueryParamMatchInput::TYPE_URL {
        let value: inputs::HttpRequestQueryParamMatchInput = unpack(&context, &any)?;
        return Ok(Input::QueryParameter(value.query_param.into_bytes().into()));
    }
    Err(context
        .error(format!("the input `{}` is not supported; match a header of the request", any.type_url)))
}

fn predicate(context: &Context<'_>, value: parts::matcher_list::Predicate) -> Result<Predicate> {
    use parts::matcher_list::predicate::MatchType;
    let list = |context: &Context<'_>, list: parts::matcher_list::predicate::PredicateList| {
        let context = context.field("predicate");
        let each = list.predicate.into_iter().enumerate();
        each.map(|(at, one)| predicate(&context.index(at), one)).collect::<Result<Vec<_>>>()
    };
    Ok(match value.match_type {
        Some(MatchType::SinglePredicate(single)) => one(&context.field("single_predicate"), single)?,
        Some(MatchType::OrMatcher(all)) => Predicate::Any(list(&context.field("or_matcher"), all)?),
        Some(MatchType::AndMatcher(all)) => Predicate::All(list(&context.field("and_matcher"), all)?),
        Some(MatchType::NotMatcher(inner)) => {
            Predicate::Not(Box::new(predicate(&context.field("not_matcher"), *inner)?))
        }
        None => {
            return Err(context.error("say when: single_predicate, or_matcher, and_matcher or not_matcher"));
        }
    })
}

fn one(context: &Context<'_>, value: parts::matcher_list::predicate::SinglePredicate) -> Result<Predicate> {
    use parts::matcher_list::predicate::single_predicate::Matcher;
    let input = input(&context.field("input"), value.input)?;
    match value.matcher {
        Some(Matcher::ValueMatch(matcher)) => {
            Ok(Predicate::Value(input, string(&context.field("value_match"), matcher)?))
        }
        Some(Matcher::CustomMatch(_)) => Err(context
            .field("custom_match")
            .error("matchers of extensions are not supported; write value_match")),
        None => Err(context.error("say what the value has to be: value_match")),
    }
}

/// `xds.type.matcher.v3.StringMatcher`, which is Envoy's own in another package.
fn string(context: &Context<'_>, value: proto::StringMatcher) -> Result<StringMatcher> {
    use proto::string_matcher::MatchPattern;
    let mut ignore_case = value.ignore_case;
    let bytes = |text: String| -> Box<[u8]> {
        let text = if value.ignore_case { text.to_ascii_lowercase() } else { text };
        text.into_bytes().into()
    };
    let pattern = match value.match_pattern {
        Some(MatchPattern::Exact(text)) => StringPattern::Exact(bytes(text)),
        Some(MatchPattern::Prefix(text)) => StringPattern::Prefix(bytes(text)),
        Some(MatchPattern::Suffix(text)) => StringPattern::Suffix(bytes(text)),
        Some(MatchPattern::Contains(text)) => StringPattern::Contains(bytes(text)),
        Some(MatchPattern::SafeRegex(regex)) => {
            ignore_case = false;
            StringPattern::Regex(pattern(&context.field("safe_regex"), &regex.regex)?)
        }
        Some(MatchPattern::Custom(_)) => {
            return Err(context.field("custom").error("custom string matchers are not supported"));
        }
        None => return Err(context.error("say what to match: exact, prefix, suffix, contains or safe_regex")),
    };
    Ok(StringMatcher { pattern, ignore_case })
}
