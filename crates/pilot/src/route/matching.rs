//! Conditions on requests.

use lateen_api::networking::{HttpMatchRequest, StringMatch};

use crate::proto::{matcher, route};
use matcher::string_matcher::MatchPattern;
use route::header_matcher::HeaderMatchSpecifier;
use route::query_parameter_matcher::QueryParameterMatchSpecifier;
use route::route_match::PathSpecifier;

/// Every path.
pub(super) fn everything() -> route::RouteMatch {
    route::RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".to_owned())), ..Default::default() }
}

/// Whether the condition holds for every request that could get here.
pub(super) fn takes_all(request: &HttpMatchRequest) -> bool {
    let any_path = request.uri.as_ref().is_none_or(|uri| uri.prefix.as_deref() == Some("/"));
    any_path
        && request.method.is_none()
        && request.scheme.is_none()
        && request.authority.is_none()
        && request.headers.is_empty()
        && request.without_headers.is_empty()
        && request.query_params.is_empty()
}

/// A condition as Envoy has it.
pub(super) fn request(request: &HttpMatchRequest) -> route::RouteMatch {
    let mut message = everything();
    if let Some(uri) = &request.uri {
        message.path_specifier = Some(path(uri));
        if request.ignore_uri_case {
            message.case_sensitive = Some(false);
        }
    }
    for (name, value) in
        [(":method", &request.method), (":authority", &request.authority), (":scheme", &request.scheme)]
    {
        if let Some(value) = value {
            message.headers.push(header(name, value, false));
        }
    }
    message.headers.extend(request.headers.iter().map(|(name, value)| header(name, value, false)));
    message.headers.extend(request.without_headers.iter().map(|(name, value)| header(name, value, true)));
    message.query_parameters.extend(request.query_params.iter().map(|(name, value)| {
        let specifier = match pattern(value) {
            Some(pattern) => QueryParameterMatchSpecifier::StringMatch(string(pattern)),
            None => QueryParameterMatchSpecifier::PresentMatch(true),
        };
        route::QueryParameterMatcher { name: name.clone(), query_parameter_match_specifier: Some(specifier) }
    }));
    message
}

/// Makes a prefix of the text of the path a prefix of its segments (`/a` no longer takes `/ab`), as Kubernetes' Ingress
/// and the Gateway API have it.
pub(super) fn by_segments(message: &mut route::RouteMatch) {
    if let Some(PathSpecifier::Prefix(prefix)) = &message.path_specifier {
        let prefix = prefix.trim_end_matches('/');
        if !prefix.is_empty() {
            message.path_specifier = Some(PathSpecifier::PathSeparatedPrefix(prefix.to_owned()));
        }
    }
}

fn path(uri: &StringMatch) -> PathSpecifier {
    match pattern(uri) {
        Some(MatchPattern::Exact(exact)) => PathSpecifier::Path(exact),
        Some(MatchPattern::SafeRegex(regex)) => PathSpecifier::SafeRegex(regex),
        Some(MatchPattern::Prefix(prefix)) => PathSpecifier::Prefix(prefix),
        _ => PathSpecifier::Prefix("/".to_owned()),
    }
}

fn header(name: &str, value: &StringMatch, invert: bool) -> route::HeaderMatcher {
    let specifier = match pattern(value) {
        Some(pattern) => HeaderMatchSpecifier::StringMatch(string(pattern)),
        None => HeaderMatchSpecifier::PresentMatch(true),
    };
    // A header that must not have a value may as well be missing.
    let missing_is_empty = invert && matches!(specifier, HeaderMatchSpecifier::StringMatch(_));
    route::HeaderMatcher {
        name: name.to_owned(),
        invert_match: invert,
        treat_missing_header_as_empty: missing_is_empty,
        header_match_specifier: Some(specifier),
    }
}

/// What a value must look like; `None` where it only must be there.
fn pattern(value: &StringMatch) -> Option<MatchPattern> {
    if let Some(exact) = &value.exact {
        Some(MatchPattern::Exact(exact.clone()))
    } else if let Some(prefix) = &value.prefix {
        // Every value begins with nothing.
        (!prefix.is_empty()).then(|| MatchPattern::Prefix(prefix.clone()))
    } else {
        value
            .regex
            .as_ref()
            .filter(|regex| *regex != "*")
            .map(|expression| MatchPattern::SafeRegex(regex(expression)))
    }
}

/// A string matcher of any kind, for other conditions too.
pub(super) fn string_match(value: &StringMatch) -> matcher::StringMatcher {
    string(pattern(value).unwrap_or_else(|| MatchPattern::SafeRegex(regex(".*"))))
}

fn string(pattern: MatchPattern) -> matcher::StringMatcher {
    matcher::StringMatcher { match_pattern: Some(pattern), ..Default::default() }
}

/// A regular expression that must match the whole value.
pub(super) fn regex(expression: &str) -> matcher::RegexMatcher {
    matcher::RegexMatcher { regex: expression.to_owned(), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: serde_json::Value) -> route::RouteMatch {
        request(&serde_json::from_value(json).unwrap())
    }

    #[test]
    fn paths() {
        for (name, uri, expected) in [
            ("exact", serde_json::json!({"exact": "/a"}), PathSpecifier::Path("/a".into())),
            ("prefix", serde_json::json!({"prefix": "/a"}), PathSpecifier::Prefix("/a".into())),
            ("regex", serde_json::json!({"regex": "/a.*"}), PathSpecifier::SafeRegex(regex("/a.*"))),
        ] {
            assert_eq!(check(serde_json::json!({"uri": uri})).path_specifier, Some(expected), "{name}");
        }
        let message = check(serde_json::json!({"uri": {"prefix": "/a"}, "ignoreUriCase": true}));
        assert_eq!(message.case_sensitive, Some(false));
    }

    #[test]
    fn prefixes_by_segments() {
        for (name, prefix, expected) in [
            ("segment", "/a", PathSpecifier::PathSeparatedPrefix("/a".into())),
            ("slash at the end", "/a/", PathSpecifier::PathSeparatedPrefix("/a".into())),
            ("everything", "/", PathSpecifier::Prefix("/".into())),
        ] {
            let mut message = check(serde_json::json!({"uri": {"prefix": prefix}}));
            by_segments(&mut message);
            assert_eq!(message.path_specifier, Some(expected), "{name}");
        }
    }

    #[test]
    fn headers() {
        let message = check(serde_json::json!({
            "headers": {"end-user": {"exact": "jason"}, "x": {}},
            "withoutHeaders": {"y": {"prefix": "a"}, "z": {}},
            "method": {"exact": "GET"},
        }));
        let seen: Vec<_> = message
            .headers
            .iter()
            .map(|header| (header.name.as_str(), header.invert_match, header.treat_missing_header_as_empty))
            .collect();
        assert_eq!(
            seen,
            [
                (":method", false, false),
                ("end-user", false, false),
                ("x", false, false),
                ("y", true, true),
                ("z", true, false),
            ]
        );
    }
}
