//! A tree of matchers in place of a list of routes (`VirtualHost.matcher`, `xds.type.matcher.v3.Matcher`).

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use super::{Facts, Route};
use crate::head::{RequestHead, split_query};
use crate::matcher::StringMatcher;

/// What of a request is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A field of the head, its values joined (`HttpRequestHeaderMatchInput`).
    Header(Box<[u8]>),
    /// A parameter of the query (`HttpRequestQueryParamMatchInput`).
    QueryParameter(Box<[u8]>),
}

impl Input {
    fn value<'a>(&self, head: &'a RequestHead) -> Option<Cow<'a, [u8]>> {
        match self {
            Self::Header(name) => {
                let first = head.field(name)?;
                let mut others = head.headers.get_all(name).skip(1).peekable();
                if others.peek().is_none() {
                    return Some(first.into());
                }
                let mut joined = first.to_vec();
                for other in others {
                    joined.push(b',');
                    joined.extend_from_slice(other);
                }
                Some(joined.into())
            }
            Self::QueryParameter(wanted) => {
                let query = split_query(head.path()).1?;
                query.split(|byte| *byte == b'&').find_map(|pair| {
                    let (name, value) = match pair.iter().position(|byte| *byte == b'=') {
                        Some(at) => (&pair[..at], &pair[at + 1..]),
                        None => (pair, &b""[..]),
                    };
                    (name == &wanted[..]).then_some(value.into())
                })
            }
        }
    }
}

/// A condition of an entry of a list.
#[derive(Debug, Clone)]
pub enum Predicate {
    /// A value that is there and matches.
    Value(Input, StringMatcher),
    /// One of these.
    Any(Vec<Predicate>),
    /// All of these.
    All(Vec<Predicate>),
    /// Not this.
    Not(Box<Predicate>),
}

impl Predicate {
    fn matches(&self, head: &RequestHead) -> bool {
        match self {
            Self::Value(input, matcher) => input.value(head).is_some_and(|value| matcher.matches(&value)),
            Self::Any(all) => all.iter().any(|one| one.matches(head)),
            Self::All(all) => all.iter().all(|one| one.matches(head)),
            Self::Not(one) => !one.matches(head),
        }
    }
}

/// Where the tree leads.
#[derive(Debug, Clone)]
pub enum OnMatch {
    /// To the first of these routes that applies; where none does, to nowhere.
    Routes(Vec<Arc<Route>>),
    /// To another tree.
    Tree(Box<Tree>),
}

/// How a tree branches.
#[derive(Debug, Clone)]
pub enum Branches {
    /// The first that holds.
    List(Vec<(Predicate, OnMatch)>),
    /// The one of that value.
    Exact(Input, HashMap<Box<[u8]>, OnMatch>),
    /// The one with the longest prefix of the value; longest first.
    Prefix(Input, Vec<(Box<[u8]>, OnMatch)>),
}

/// A tree.
#[derive(Debug, Clone)]
pub struct Tree {
    /// How it branches.
    pub branches: Branches,
    /// Where it leads otherwise.
    pub otherwise: Option<OnMatch>,
}

impl Tree {
    /// The route of a request.
    pub fn find(&self, head: &RequestHead, random: u64, facts: Facts<'_>) -> Option<&Arc<Route>> {
        self.branch(head).or(self.otherwise.as_ref())?.find(head, random, facts)
    }

    fn branch(&self, head: &RequestHead) -> Option<&OnMatch> {
        match &self.branches {
            Branches::List(list) => {
                list.iter().find(|(predicate, _)| predicate.matches(head)).map(|(_, on)| on)
            }
            Branches::Exact(input, table) => table.get(&*input.value(head)?),
            Branches::Prefix(input, table) => {
                let value = input.value(head)?;
                table.iter().find(|(prefix, _)| value.starts_with(prefix)).map(|(_, on)| on)
            }
        }
    }

    /// All routes of the tree.
    pub fn routes(&self) -> Vec<&Arc<Route>> {
        let branches: Vec<&OnMatch> = match &self.branches {
            Branches::List(list) => list.iter().map(|(_, on)| on).collect(),
            Branches::Exact(_, table) => table.values().collect(),
            Branches::Prefix(_, table) => table.iter().map(|(_, on)| on).collect(),
        };
        branches.into_iter().chain(&self.otherwise).flat_map(OnMatch::routes).collect()
    }
}

impl OnMatch {
    fn find(&self, head: &RequestHead, random: u64, facts: Facts<'_>) -> Option<&Arc<Route>> {
        match self {
            Self::Routes(routes) => {
                routes.iter().find(|route| route.matcher.matches_with(head, random, facts))
            }
            Self::Tree(tree) => tree.find(head, random, facts),
        }
    }

    fn routes(&self) -> Vec<&Arc<Route>> {
        match self {
            Self::Routes(routes) => routes.iter().collect(),
            Self::Tree(tree) => tree.routes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use lateen_envoy::json::from_json;
    use serde_json::{Value, json};

    use crate::compile::compile_routes;
    use crate::head::RequestHead;

    fn route(name: &str) -> Value {
        json!({"action": {"name": "a", "typed_config": {
            "@type": "type.googleapis.com/envoy.config.route.v3.Route",
            "name": name, "match": {"prefix": "/"}, "direct_response": {"status": 200}}}})
    }

    fn header(name: &str) -> Value {
        json!({"name": "i", "typed_config": {
            "@type": "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput", "header_name": name}})
    }

    #[test]
    fn the_first_branch_that_holds_counts() {
        let value = |name: &str, exact: &str| json!({"single_predicate": {"input": header(name), "value_match": {"exact": exact}}});
        let list = json!({"matcher_list": {"matchers": [
            {"predicate": {"and_matcher": {"predicate": [value("a", "1"), {"not_matcher": value("b", "1")}]}},
             "on_match": route("first")},
            {"predicate": {"or_matcher": {"predicate": [value("a", "1"), value("c", "1")]}},
             "on_match": {"matcher": {"matcher_tree": {"input": header(":path"),
                "prefix_match_map": {"map": {"/x": route("short"), "/x/y": route("long")}}}}}}]},
            "on_no_match": route("otherwise")});
        let table = json!({"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"], "matcher": list}]});
        let table = compile_routes(from_json(&table).unwrap()).unwrap().value;
        for (name, path, fields, expect) in [
            ("both hold", "/", &[("a", "1")][..], Some("first")),
            ("one does not", "/x/z", &[("a", "1"), ("b", "1")], Some("short")),
            ("the longest prefix", "/x/y/z", &[("c", "1")], Some("long")),
            ("no branch of the inner tree", "/z", &[("c", "1")], None),
            ("none", "/x", &[("a", "2")], Some("otherwise")),
        ] {
            let mut head = RequestHead::new("GET", "h", path);
            fields.iter().for_each(|(name, value)| head.headers.append(*name, *value));
            let found = table.find(&head, 0).map(|found| found.route.name.to_string());
            assert_eq!(found.as_deref(), expect, "{name}");
        }
    }
}
