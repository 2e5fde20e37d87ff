//! Impersonation: the `Impersonate-*` headers (documentation, "User impersonation").

use super::{ANONYMOUS, AUTHENTICATED, Action, UNAUTHENTICATED, authorize};
use crate::api::Api;
use crate::seam::UserInfo;
use crate::status::Status;
use http::HeaderMap;

const EXTRA: &str = "impersonate-extra-";

/// The user a request is to be answered as: who asks, or whom he names and may impersonate.
pub fn impersonate(api: &Api, user: UserInfo, headers: &HeaderMap) -> Result<UserInfo, Status> {
    let all = |name: &str| -> Vec<String> {
        headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).map(str::to_owned).collect()
    };
    let wanted = all("impersonate-user").into_iter().next().unwrap_or_default();
    let (mut groups, uid) = (all("impersonate-group"), all("impersonate-uid").into_iter().next());
    let extra: Vec<(String, Vec<String>)> = headers
        .keys()
        .filter_map(|name| name.as_str().strip_prefix(EXTRA))
        .map(|key| (unescape(key), all(&format!("{EXTRA}{key}"))))
        .collect();
    if wanted.is_empty() {
        if groups.is_empty() && uid.is_none() && extra.is_empty() {
            return Ok(user);
        }
        return Err(Status::bad_request(
            "groups, uid or extra are to be impersonated without a user: set the header Impersonate-User as well",
        ));
    }
    let may = |group: &str, plural: &str, subresource: Option<&str>, namespace: Option<&str>, name: &str| {
        let action = Action::Resource { verb: "impersonate", group, plural, subresource, namespace, name };
        authorize(api, &user, &action)
    };
    let account = wanted.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    match account {
        Some((namespace, name)) => may("", "serviceaccounts", None, Some(namespace), name)?,
        None => may("", "users", None, None, &wanted)?,
    }
    for group in &groups {
        may("", "groups", None, None, group)?;
    }
    for (key, values) in &extra {
        for value in values {
            may("authentication.k8s.io", "userextras", Some(key), None, value)?;
        }
    }
    if let Some(uid) = &uid {
        may("authentication.k8s.io", "uids", None, None, uid)?;
    }
    if let (Some((namespace, _)), true) = (account, groups.is_empty()) {
        groups = vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
    }
    let own = if wanted == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
    if !groups.iter().any(|group| group == own) {
        groups.push(own.to_owned());
    }
    Ok(UserInfo { name: wanted, uid: uid.unwrap_or_default(), groups, extra })
}

/// Keys of extra fields are escaped as in URLs.
fn unescape(key: &str) -> String {
    let mut out = Vec::with_capacity(key.len());
    let bytes = key.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let hex = || u8::from_str_radix(key.get(at + 1..at + 3)?, 16).ok();
        match (bytes[at], hex()) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
