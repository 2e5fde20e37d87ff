//! `RouteAction.hash_policy`.

use lateen_envoy::envoy::config::route::v3::route_action;

use super::common::{duration, substitution};
use crate::error::{Context, Result};
use crate::route::{HashCookie, HashPolicy, HashSource};

pub(crate) fn hashes(
    context: &Context<'_>,
    values: Vec<route_action::HashPolicy>,
) -> Result<Vec<HashPolicy>> {
    use route_action::hash_policy::PolicySpecifier as Proto;
    let mut out = Vec::new();
    for (at, value) in values.into_iter().enumerate() {
        let context = context.index(at);
        let source = match value.policy_specifier {
            Some(Proto::Header(header)) => {
                let rewrite = match header.regex_rewrite {
                    Some(rewrite) => Some(substitution(&context.field("header.regex_rewrite"), rewrite)?),
                    None => None,
                };
                let name = header.header_name.to_ascii_lowercase();
                HashSource::Header(name.into_bytes().into(), rewrite)
            }
            Some(Proto::Cookie(cookie)) => HashSource::Cookie(HashCookie {
                name: cookie.name.into(),
                lifetime: duration(&context.field("cookie.ttl"), cookie.ttl)?,
                path: cookie.path.into(),
                attributes: cookie
                    .attributes
                    .into_iter()
                    .map(|attribute| (attribute.name.into(), attribute.value.into()))
                    .collect(),
            }),
            Some(Proto::ConnectionProperties(properties)) => {
                if !properties.source_ip {
                    continue;
                }
                HashSource::SourceAddress
            }
            Some(Proto::QueryParameter(query)) => HashSource::Query(query.name.into_bytes().into()),
            Some(Proto::FilterState(state)) => {
                context.field("filter_state").warn(format!(
                    "no filter state `{}` has a hash here; this policy has no effect",
                    state.key
                ));
                continue;
            }
            None => return Err(context.error("say what is hashed: header, cookie, query_parameter, ...")),
        };
        out.push(HashPolicy { source, terminal: value.terminal });
    }
    Ok(out)
}
