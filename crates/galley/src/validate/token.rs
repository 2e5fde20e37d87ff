//! RequestAuthentication: where tokens come from and whose keys sign them.

use lateen_api::security::{JwtRule, RequestAuthentication};

use super::policy::attached;
use super::{Context, names};
use crate::Verdict;

pub(super) fn judge(policy: &RequestAuthentication, _: &Context<'_>, verdict: &mut Verdict) {
    attached(policy.selector.as_ref(), policy.target_ref.as_ref(), &policy.target_refs, verdict);
    for (index, rule) in policy.jwt_rules.iter().enumerate() {
        let path = format!("spec.jwtRules[{index}]");
        rule_parts(&path, rule, verdict);
        if rule.issuer.is_empty() && rule.jwks_uri.is_empty() && rule.jwks.is_empty() {
            verdict.error(format!("{path}.issuer"), "is missing", "name the issuer, or where its keys are");
        }
        if !rule.jwks_uri.is_empty() {
            let host =
                rule.jwks_uri.strip_prefix("https://").or_else(|| rule.jwks_uri.strip_prefix("http://"));
            if host.is_none_or(|host| host.is_empty() || host.starts_with('/') || !has_port_number(host)) {
                verdict.error(
                    format!("{path}.jwksUri"),
                    format!("{:?} is not an address", rule.jwks_uri),
                    "write https:// and the host",
                );
            }
        }
        if !rule.jwks.is_empty() {
            let keys = serde_json::from_str::<serde_json::Value>(&rule.jwks).ok();
            if keys.is_none_or(|keys| !keys["keys"].is_array() && !keys["kty"].is_string()) {
                verdict.error(
                    format!("{path}.jwks"),
                    "is not a set of keys",
                    "a JSON object with a list keys",
                );
            }
        }
        let places =
            rule.from_headers.len().min(1) + rule.from_params.len().min(1) + rule.from_cookies.len().min(1);
        if places > 1 || rule.from_headers.len() + rule.from_params.len() + rule.from_cookies.len() > 1 {
            verdict.warn(
                &path,
                "several places may carry the token",
                "a request with more than one is refused",
            );
        }
        for (index, claim) in rule.output_claim_to_headers.iter().enumerate() {
            let path = format!("{path}.outputClaimToHeaders[{index}]");
            names::plain_header_name(&format!("{path}.header"), &claim.header, verdict);
            if claim.claim.is_empty() {
                verdict.error(format!("{path}.claim"), "is empty", "name the claim");
            }
        }
    }
}

/// Whether what stands behind the host of an address is a number, if anything does.
fn has_port_number(rest: &str) -> bool {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let after = authority.rsplit_once(']').map_or(authority, |(_, after)| after);
    after.rsplit_once(':').is_none_or(|(_, port)| port.is_empty() || port.parse::<u16>().is_ok())
}

/// The parts of a rule that are lists of names.
fn rule_parts(path: &str, rule: &JwtRule, verdict: &mut Verdict) {
    let lists = [
        ("audiences", &rule.audiences),
        ("fromParams", &rule.from_params),
        ("fromCookies", &rule.from_cookies),
    ];
    for (name, values) in lists {
        for (index, _) in values.iter().enumerate().filter(|(_, value)| value.is_empty()) {
            verdict.error(format!("{path}.{name}[{index}]"), "is empty", "write a name");
        }
    }
    for (index, header) in rule.from_headers.iter().enumerate() {
        if header.name.is_empty() {
            verdict.error(format!("{path}.fromHeaders[{index}].name"), "is empty", "name the header");
        }
    }
    names::positive(&format!("{path}.timeout"), rule.timeout, verdict);
}
