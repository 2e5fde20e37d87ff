//! Path templates (`envoy.extensions.path.match.uri_template.v3` and `envoy.extensions.path.rewrite.uri_template.v3`),
//! compiled to a regular expression and a substitution: `/a/{name}/*/{rest=**}`.

use lateen_envoy::TypeUrl;
use lateen_envoy::envoy::config::core::v3::TypedExtensionConfig;
use lateen_envoy::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
use lateen_envoy::envoy::extensions::path::rewrite::uri_template::v3::UriTemplateRewriteConfig;
use regex::bytes::Regex;

use super::checked::unpack;
use crate::error::{Context, Result};

/// The pattern of a `path_match_policy`.
pub(super) fn template(context: &Context<'_>, policy: TypedExtensionConfig) -> Result<Regex> {
    let any = policy.typed_config.unwrap_or_default();
    if any.type_url != UriTemplateMatchConfig::TYPE_URL {
        return Err(context.error(format!("`{}` is not supported; use a path template", any.type_url)));
    }
    let value: UriTemplateMatchConfig = unpack(context, &any)?;
    let context = context.field("path_template");
    let pattern = pattern(&value.path_template)
        .ok_or_else(|| context.error(format!("`{}` is not a path template", value.path_template)))?;
    Regex::new(&pattern).map_err(|error| context.error(error))
}

/// The substitution of a `path_rewrite_policy`.
pub(super) fn rewrite(context: &Context<'_>, policy: TypedExtensionConfig) -> Result<Box<[u8]>> {
    let any = policy.typed_config.unwrap_or_default();
    if any.type_url != UriTemplateRewriteConfig::TYPE_URL {
        return Err(context.error(format!("`{}` is not supported; use a path template", any.type_url)));
    }
    let value: UriTemplateRewriteConfig = unpack(context, &any)?;
    let text = value.path_template_rewrite.replace('$', "$$").replace('{', "${");
    Ok(text.into_bytes().into())
}

/// None where it is not a template.
fn pattern(template: &str) -> Option<String> {
    let mut out = String::from("^");
    let mut rest = template.strip_prefix('/')?;
    loop {
        out.push('/');
        let (segment, next) = split_segment(rest);
        out.push_str(&segment_pattern(segment)?);
        match next {
            Some(next) => rest = next,
            None => break,
        }
    }
    out.push('$');
    Some(out)
}

/// At the next slash that is not within braces.
fn split_segment(text: &str) -> (&str, Option<&str>) {
    let mut depth = 0;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            b'/' if depth == 0 => return (&text[..at], Some(&text[at + 1..])),
            _ => {}
        }
    }
    (text, None)
}

fn segment_pattern(segment: &str) -> Option<String> {
    match segment {
        "*" => return Some("[^/]+".into()),
        "**" => return Some(".*".into()),
        _ => {}
    }
    let Some(open) = segment.find('{') else {
        return (!segment.contains(['}', '*'])).then(|| regex::escape(segment));
    };
    let close = segment.rfind('}')?;
    let (before, after) = (&segment[..open], &segment[close + 1..]);
    let (name, inner) = segment[open + 1..close].split_once('=').unwrap_or((&segment[open + 1..close], "*"));
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return None;
    }
    let parts: Option<Vec<String>> = inner.split('/').map(segment_pattern).collect();
    Some(format!("{}(?P<{name}>{}){}", regex::escape(before), parts?.join("/"), regex::escape(after)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates() {
        for (template, path, expect) in [
            ("/tpl/{a}/*/x/{b=**}", "/tpl/1/2/x/3/4", true),
            ("/tpl/{a}/*/x/{b=**}", "/tpl/1/2/y", false),
            ("/tpl/{a}/*/x/{b=**}", "/tpl/1/2/x/", true),
            ("/a/*", "/a/b", true),
            ("/a/*", "/a/", false),
            ("/a/*", "/a/b/c", false),
            ("/v{n=*}.json", "/v1.json", true),
            ("/{a=x/*}/y", "/x/1/y", true),
            ("/{a=x/*}/y", "/z/1/y", false),
        ] {
            let regex = Regex::new(&pattern(template).unwrap()).unwrap();
            assert_eq!(regex.is_match(path.as_bytes()), expect, "{template} {path}");
        }
        for template in ["a", "/{", "/{a-b}", "/a*"] {
            assert!(pattern(template).is_none(), "{template}");
        }
    }
}
