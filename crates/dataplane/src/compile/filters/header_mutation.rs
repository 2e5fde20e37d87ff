//! `envoy.extensions.filters.http.header_mutation.v3`.

use std::mem::take;

use lateen_envoy::envoy::config::common::mutation_rules::v3 as rules;
use lateen_envoy::envoy::config::core::v3 as core;
use lateen_envoy::envoy::extensions::filters::http::header_mutation::v3 as proto;

use crate::compile::common::{added, leftover, string};
use crate::error::{Context, Result};
use crate::filters::{HeaderMutation, Mutation, Mutations, QueryMutation};
use crate::metadata::Value;
use crate::route::AppendAction;

pub(super) fn header_mutation(
    context: &Context<'_>,
    mut value: proto::HeaderMutation,
) -> Result<HeaderMutation> {
    let compiled = HeaderMutation {
        own: mutations(&context.field("mutations"), value.mutations.take().unwrap_or_default())?,
        nearest_wins: take(&mut value.most_specific_header_mutations_wins),
    };
    leftover(context, &value);
    Ok(compiled)
}

pub(super) fn mutations(context: &Context<'_>, mut value: proto::Mutations) -> Result<Mutations> {
    let mut query = Vec::new();
    for (at, each) in take(&mut value.query_parameter_mutations).into_iter().enumerate() {
        query.extend(query_mutation(&context.field("query_parameter_mutations").index(at), each)?);
    }
    let compiled = Mutations {
        request: list(&context.field("request_mutations"), take(&mut value.request_mutations))?,
        query,
        request_trailers: list(
            &context.field("request_trailers_mutations"),
            take(&mut value.request_trailers_mutations),
        )?,
        response: list(&context.field("response_mutations"), take(&mut value.response_mutations))?,
        response_trailers: list(
            &context.field("response_trailers_mutations"),
            take(&mut value.response_trailers_mutations),
        )?,
    };
    leftover(context, &value);
    Ok(compiled)
}

/// Header changes as several messages have them.
pub(crate) fn list(context: &Context<'_>, values: Vec<rules::HeaderMutation>) -> Result<Vec<Mutation>> {
    use rules::header_mutation::Action;
    let mut out = Vec::with_capacity(values.len());
    for (at, value) in values.into_iter().enumerate() {
        let context = context.index(at);
        match value.action {
            Some(Action::Remove(name)) => {
                out.push(Mutation::Remove(name.to_ascii_lowercase().into_bytes().into()));
            }
            Some(Action::Append(option)) => {
                out.extend(added(&context.field("append"), vec![option])?.into_iter().map(Mutation::Add));
            }
            Some(Action::RemoveOnMatch(remove)) => {
                let context = context.field("remove_on_match.key_matcher");
                let matcher = remove.key_matcher.ok_or_else(|| context.error("say which names"))?;
                out.push(Mutation::RemoveMatching(string(&context, matcher)?));
            }
            None => return Err(context.error("say what to do: remove, append or remove_on_match")),
        }
    }
    Ok(out)
}

fn query_mutation(context: &Context<'_>, mut value: core::KeyValueMutation) -> Result<Vec<QueryMutation>> {
    let mut out = Vec::new();
    if let Some(mut append) = value.append.take() {
        let context = context.field("append");
        let action = match take(&mut append.action) {
            1 => AppendAction::AddIfAbsent,
            2 => AppendAction::Overwrite,
            3 => AppendAction::OverwriteIfExists,
            _ => AppendAction::Append,
        };
        // `record` has any value, the older `entry` bytes.
        let (name, text) = match (append.record.take(), append.entry.take()) {
            (Some(record), _) => {
                let value = record.value.map(crate::compile::values::value).unwrap_or_default();
                let Value::String(text) = value else {
                    return Err(context.field("record.value").error("only strings are supported"));
                };
                (record.key, text.to_string())
            }
            (None, Some(entry)) => (entry.key, String::from_utf8_lossy(&entry.value).into_owned()),
            (None, None) => return Err(context.error("name the parameter: record")),
        };
        let value = context.field("record.value").format(&text)?;
        out.push(QueryMutation::Add { name: name.into_bytes().into(), value, action });
        leftover(&context, &append);
    }
    let remove = take(&mut value.remove);
    if !remove.is_empty() {
        out.push(QueryMutation::Remove(remove.into_bytes().into()));
    }
    leftover(context, &value);
    Ok(out)
}
