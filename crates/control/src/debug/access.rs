//! Who may read the debug pages: what runs on this host, and whoever shows a token of a ServiceAccount that may.
//!
//! As istiod has it: from the same host (which is where `port-forward` comes from too) anything; with a token of the
//! control plane's namespace anything; with a token of another namespace what concerns proxies of that namespace.

use std::net::SocketAddr;

use http::{HeaderMap, StatusCode};
use lateen_base::admin::{self, Reply};

use super::Query;
use crate::callers::{Account, Callers};

/// Both ends of the connection that a request came on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends {
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
}

/// Pages that show one proxy, which everybody in its namespace may see.
const OF_A_PROXY: [&str; 3] = ["/debug/config_dump", "/debug/edsz", "/debug/ndsz"];

impl Ends {
    /// Whether both are on one host.
    fn same_host(&self) -> bool {
        let (peer, local) = (self.peer.ip().to_canonical(), self.local.ip().to_canonical());
        peer.is_loopback() || peer == local
    }
}

/// Lets the request pass, or says why not.
pub(super) async fn check(
    callers: &Callers,
    root_namespace: &str,
    ends: Ends,
    headers: &HeaderMap,
    path: &str,
    query: &Query<'_>,
) -> Result<(), Reply> {
    if ends.same_host() {
        return Ok(());
    }
    let Some(token) = bearer(headers) else {
        let text = "debug pages are for this host, and for who shows a ServiceAccount's token: \
                    authorization: Bearer TOKEN\n";
        return Err(admin::text(StatusCode::UNAUTHORIZED, text));
    };
    let account = callers.identify(token).await.map_err(|status| {
        let code = match status.code() {
            tonic::Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            tonic::Code::PermissionDenied => StatusCode::FORBIDDEN,
            _ => StatusCode::UNAUTHORIZED,
        };
        admin::text(code, format!("{}\n", status.message()))
    })?;
    match may_read(&account, root_namespace, path, query.get("proxyID")) {
        true => Ok(()),
        false => {
            let text = format!(
                "ServiceAccount {}/{} may read {} about proxies of its own namespace only; others are for accounts \
                 of {root_namespace}\n",
                account.namespace,
                account.name,
                OF_A_PROXY.join(", ")
            );
            Err(admin::text(StatusCode::FORBIDDEN, text))
        }
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(http::header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

fn may_read(account: &Account, root_namespace: &str, path: &str, proxy: &str) -> bool {
    let of_namespace = proxy.rsplit_once('.').is_some_and(|(_, namespace)| namespace == account.namespace);
    account.namespace == root_namespace || of_namespace && OF_A_PROXY.contains(&path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for (peer, local, same) in [
            ("127.0.0.1:1", "127.0.0.1:8080", true),
            ("[::1]:1", "[::1]:8080", true),
            ("[::ffff:127.0.0.1]:1", "[::ffff:127.0.0.1]:8080", true),
            ("10.244.0.1:1", "10.244.0.1:8080", true),
            ("10.244.0.7:1", "10.244.0.1:8080", false),
        ] {
            let ends = Ends { peer: peer.parse().unwrap(), local: local.parse().unwrap() };
            assert_eq!(ends.same_host(), same, "{peer} to {local}");
        }
    }

    #[test]
    fn accounts() {
        for (name, namespace, path, proxy, allowed) in [
            ("the control plane's", "istio-system", "/debug/configz", "", true),
            ("the control plane's, of a proxy", "istio-system", "/debug/config_dump", "a.shop", true),
            ("its own proxies", "shop", "/debug/config_dump", "a.shop", true),
            ("another's", "shop", "/debug/config_dump", "a.bank", false),
            ("all of the mesh", "shop", "/debug/configz", "", false),
            ("cutting its own", "shop", "/debug/force_disconnect", "a.shop", false),
        ] {
            let account = Account { namespace: namespace.to_owned(), name: "default".to_owned() };
            assert_eq!(may_read(&account, "istio-system", path, proxy), allowed, "{name}");
        }
    }
}
