//! Who asks, and whether they may.
//!
//! A client certificate of the client CA makes a user (common name) in groups (organisations); a ServiceAccount's token
//! makes that account; who shows neither is `system:anonymous`. `Impersonate-*` headers make another user of who may.
//! Members of the administrators' groups may do everything; everybody else what his roles say (`rbac`).

mod impersonate;

pub use impersonate::impersonate;

use crate::api::Api;
use crate::rbac;
use crate::seam::UserInfo;
use crate::status::Status;
use crate::token::ISSUER;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The group whose members may do everything, as in Kubernetes.
pub const MASTERS: &str = "system:masters";
const AUTHENTICATED: &str = "system:authenticated";
const ANONYMOUS: &str = "system:anonymous";
const UNAUTHENTICATED: &str = "system:unauthenticated";

/// The user of a verified client certificate (DER).
pub fn user_of_certificate(certificate: &[u8]) -> Option<UserInfo> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let mut groups: Vec<String> =
        subject.iter_organization().filter_map(|group| group.as_str().ok()).map(str::to_owned).collect();
    groups.push(AUTHENTICATED.to_owned());
    Some(UserInfo { name, groups, ..UserInfo::default() })
}

/// Finds out who asks, from the connection's certificate or the request's token.
pub fn authenticate(
    api: &Api,
    certificate: Option<&UserInfo>,
    headers: &HeaderMap,
) -> Result<UserInfo, Status> {
    if let Some(user) = certificate {
        return Ok(user.clone());
    }
    let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let Some(token) = header.strip_prefix("Bearer ").or_else(|| header.strip_prefix("bearer ")) else {
        let groups = vec![UNAUTHENTICATED.to_owned()];
        return Ok(UserInfo { name: ANONYMOUS.to_owned(), groups, ..UserInfo::default() });
    };
    let audiences = [ISSUER.to_owned()];
    api.tokens.verify(token.trim(), &audiences, &api.store).map(|(user, _)| user).map_err(|error| {
        tracing::info!(%error, "a bearer token was refused");
        Status::unauthorized("Unauthorized")
    })
}

/// What is to be done, as authorization sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action<'a> {
    /// Something with a resource.
    Resource {
        /// Verb, such as `list`.
        verb: &'a str,
        /// API group.
        group: &'a str,
        /// Plural.
        plural: &'a str,
        /// Subresource.
        subresource: Option<&'a str>,
        /// Namespace.
        namespace: Option<&'a str>,
        /// Name.
        name: &'a str,
    },
    /// Something with a path that is no resource: discovery, version, OpenAPI.
    Path {
        /// Verb: the method in lower case.
        verb: &'a str,
        /// The path.
        path: &'a str,
    },
}

/// Whether a user may do something.
pub fn is_allowed(api: &Api, user: &UserInfo, action: &Action<'_>) -> bool {
    user.groups.iter().any(|group| api.admin_groups.contains(group))
        || rbac::is_allowed(&api.store.snapshot(), user, action)
}

/// Refuses what a user may not do.
pub fn authorize(api: &Api, user: &UserInfo, action: &Action<'_>) -> Result<(), Status> {
    if is_allowed(api, user, action) {
        return Ok(());
    }
    let (verb, group, plural, subresource, namespace, name) = match action {
        Action::Path { verb, path } => {
            let message = format!("forbidden: User {:?} cannot {verb} path {path:?}", user.name);
            return Err(Status::new(http::StatusCode::FORBIDDEN, "Forbidden", message));
        }
        Action::Resource { verb, group, plural, subresource, namespace, name } => {
            (verb, group, plural, subresource, namespace, name)
        }
    };
    let resource = subresource.map_or_else(|| (*plural).to_owned(), |sub| format!("{plural}/{sub}"));
    let scope = namespace
        .map_or("at the cluster scope".to_owned(), |namespace| format!("in the namespace {namespace:?}"));
    let message =
        format!("User {:?} cannot {verb} resource {resource:?} in API group {group:?} {scope}", user.name);
    Err(Status::forbidden(group, plural, name, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_names_user_and_groups() {
        let leaf = lateen_testkit::Authority::new("ca").user("admin", &[MASTERS]);
        let user = user_of_certificate(&leaf.der()).unwrap();
        assert_eq!(user.name, "admin");
        assert_eq!(user.groups, [MASTERS, AUTHENTICATED]);
        assert_eq!(user_of_certificate(b"x"), None);
    }
}
