//! Changes of heads, trailers and query parameters (`envoy.extensions.filters.http.header_mutation.v3`).

use crate::format::{Format, Source};
use crate::head::{Headers, RequestHead, ResponseHead, split_query};
use crate::matcher::StringMatcher;
use crate::route::{AppendAction, HeaderValue};

/// One change (`envoy.config.common.mutation_rules.v3.HeaderMutation`).
#[derive(Debug, Clone)]
pub enum Mutation {
    /// Removes all fields of a name.
    Remove(Box<[u8]>),
    /// Removes fields by their names.
    RemoveMatching(StringMatcher),
    /// Adds a field.
    Add(HeaderValue),
}

/// A change of the query (`envoy.config.core.v3.KeyValueMutation`).
#[derive(Debug, Clone)]
pub enum QueryMutation {
    /// Removes a parameter.
    Remove(Box<[u8]>),
    /// Adds a parameter.
    Add {
        /// Its name.
        name: Box<[u8]>,
        /// Its value.
        value: Format,
        /// How it meets what is there.
        action: AppendAction,
    },
}

/// What one level says.
#[derive(Debug, Clone, Default)]
pub struct Mutations {
    /// Of the request's head.
    pub request: Vec<Mutation>,
    /// Of the request's query.
    pub query: Vec<QueryMutation>,
    /// Of the request's trailers.
    pub request_trailers: Vec<Mutation>,
    /// Of the response's head.
    pub response: Vec<Mutation>,
    /// Of the response's trailers.
    pub response_trailers: Vec<Mutation>,
}

/// The filter as a chain configures it.
#[derive(Debug, Clone, Default)]
pub struct HeaderMutation {
    /// Done first.
    pub own: Mutations,
    /// Whether, of several levels of the route configuration, the nearest is done last.
    pub nearest_wins: bool,
}

impl Mutations {
    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.request.is_empty()
            && self.query.is_empty()
            && self.request_trailers.is_empty()
            && self.response.is_empty()
            && self.response_trailers.is_empty()
    }

    /// Changes a request's head.
    pub fn change_request(&self, head: &mut RequestHead, info: &crate::StreamInfo, hostname: &str) {
        for mutation in &self.request {
            match mutation {
                Mutation::Remove(name) => {
                    head.headers.remove(name);
                }
                Mutation::RemoveMatching(matcher) => {
                    head.headers.retain(|name, _| !matcher.matches(name));
                }
                Mutation::Add(value) => value.add_to_request(head, info, hostname),
            }
        }
        if !self.query.is_empty() {
            self.change_query(head, info, hostname);
        }
    }

    /// Changes a response's head.
    pub fn change_response(
        &self,
        head: &mut ResponseHead,
        request: &RequestHead,
        info: &crate::StreamInfo,
        hostname: &str,
    ) {
        for mutation in &self.response {
            match mutation {
                Mutation::Add(value) => value.add_to_response(head, request, info, hostname),
                other => other.remove_from(&mut head.headers),
            }
        }
    }

    /// Parameters come out in the order of their names, as Envoy writes them.
    fn change_query(&self, head: &mut RequestHead, info: &crate::StreamInfo, hostname: &str) {
        let (path, query) = split_query(head.path());
        let mut parameters: Vec<(Vec<u8>, Vec<u8>)> = query
            .into_iter()
            .flat_map(|query| query.split(|byte| *byte == b'&'))
            .filter(|pair| !pair.is_empty())
            .map(|pair| match pair.iter().position(|byte| *byte == b'=') {
                Some(at) => (pair[..at].to_vec(), pair[at + 1..].to_vec()),
                None => (pair.to_vec(), Vec::new()),
            })
            .collect();
        let mut out = path.to_vec();
        let source = Source { info, request: Some(head), response: None, trailers: None, hostname };
        for mutation in &self.query {
            match mutation {
                QueryMutation::Remove(name) => parameters.retain(|(other, _)| other[..] != name[..]),
                QueryMutation::Add { name, value, action } => {
                    let mut text = Vec::new();
                    value.header_value(&source, &mut text);
                    add_parameter(&mut parameters, name, text, *action);
                }
            }
        }
        parameters.sort_by(|left, right| left.0.cmp(&right.0));
        for (at, (name, value)) in parameters.iter().enumerate() {
            out.push(if at == 0 { b'?' } else { b'&' });
            out.extend_from_slice(name);
            out.push(b'=');
            out.extend_from_slice(value);
        }
        head.set_path(out);
    }
}

fn add_parameter(
    parameters: &mut Vec<(Vec<u8>, Vec<u8>)>,
    name: &[u8],
    value: Vec<u8>,
    action: AppendAction,
) {
    let there = parameters.iter().position(|(other, _)| other == name);
    match (action, there) {
        (AppendAction::Append, _) | (AppendAction::AddIfAbsent | AppendAction::Overwrite, None) => {
            parameters.push((name.to_vec(), value));
        }
        (AppendAction::AddIfAbsent, Some(_)) | (AppendAction::OverwriteIfExists, None) => {}
        (AppendAction::Overwrite | AppendAction::OverwriteIfExists, Some(at)) => {
            let mut index = 0;
            parameters.retain(|(other, _)| {
                index += 1;
                index - 1 == at || other != name
            });
            parameters[at].1 = value;
        }
    }
}

impl Mutation {
    /// The change with its value worked out, for trailers that come when its sources are gone.
    #[must_use]
    pub fn resolve(&self, source: &Source<'_>) -> Self {
        match self {
            Self::Add(value) => Self::Add(value.resolve(source)),
            other => other.clone(),
        }
    }

    /// Changes trailers; of a [`resolve`](Self::resolve)d change.
    pub fn change_trailers(&self, trailers: &mut Headers) {
        match self {
            Self::Add(value) => value.add_literal(trailers),
            other => other.remove_from(trailers),
        }
    }

    fn remove_from(&self, headers: &mut Headers) {
        match self {
            Self::Remove(name) => {
                headers.remove(name);
            }
            Self::RemoveMatching(matcher) => {
                headers.retain(|name, _| !matcher.matches(name));
            }
            Self::Add(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_parameters() {
        let add = |name: &str, value: &str, action| QueryMutation::Add {
            name: name.as_bytes().into(),
            value: Format::compile(value).unwrap(),
            action,
        };
        let mutations = Mutations {
            query: vec![
                add("a", "1", AppendAction::Append),
                add("b", "2", AppendAction::Overwrite),
                add("c", "3", AppendAction::AddIfAbsent),
                add("d", "4", AppendAction::OverwriteIfExists),
                QueryMutation::Remove(b"e"[..].into()),
            ],
            ..Mutations::default()
        };
        for (name, path, expect) in [
            ("all there", "/q?a=0&b=0&c=0&e=9&z", "/q?a=0&a=1&b=2&c=0&z="),
            ("no query", "/q", "/q?a=1&b=2&c=3"),
            ("in the order of names", "/q?d=1&b=1&b=2", "/q?a=1&b=2&c=3&d=4"),
        ] {
            let mut head = RequestHead::new("GET", "a", path);
            mutations.change_request(&mut head, &crate::StreamInfo::default(), "");
            assert_eq!(String::from_utf8_lossy(head.path()), expect, "{name}");
        }
    }
}
