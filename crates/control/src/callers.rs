//! Who may open a stream: a Pod, by its ServiceAccount token, as the proxy it claims to be.

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::Client;
use kube::api::{Api, PostParams};
use lateen_pilot::ProxyNode;
use tonic::Status;

/// The audience that tokens for the control plane carry (Istio's).
const AUDIENCE: &str = "istio-ca";

/// Asks the API who holds a token.
#[derive(Clone)]
pub(crate) struct Callers {
    client: Client,
}

/// A ServiceAccount by namespace and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Callers {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Lets the caller have a stream as `node`, or says why not.
    pub(crate) async fn admit(&self, client: &lateen_xds::Client, node: &ProxyNode) -> Result<(), Status> {
        let token = client
            .metadata
            .get("authorization")
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "))
            .ok_or_else(|| Status::unauthenticated("show the Pod's token: authorization: Bearer TOKEN"))?;
        let account = self.review(token, Some(AUDIENCE)).await?;
        claims_match(&account, node)
    }

    /// Whose token this is: one for the control plane, or one for the API.
    pub(crate) async fn identify(&self, token: &str) -> Result<Account, Status> {
        match self.review(token, Some(AUDIENCE)).await {
            Err(status) if status.code() == tonic::Code::Unauthenticated => self.review(token, None).await,
            other => other,
        }
    }

    async fn review(&self, token: &str, audience: Option<&str>) -> Result<Account, Status> {
        let audiences = audience.map(|audience| vec![audience.to_owned()]);
        let review = TokenReview {
            spec: TokenReviewSpec { token: token.to_owned(), audiences },
            ..TokenReview::default()
        };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let reviewed = api
            .create(&PostParams::default(), &review)
            .await
            .map_err(|error| Status::unavailable(format!("the token cannot be checked now: {error}")))?;
        let status = reviewed.status.unwrap_or_default();
        let user = status.user.and_then(|user| user.username).unwrap_or_default();
        if status.authenticated != Some(true) {
            let reason = status.error.unwrap_or_else(|| "it is not valid".to_owned());
            return Err(Status::unauthenticated(format!("the token is refused: {reason}")));
        }
        parse_account(&user).ok_or_else(|| {
            Status::permission_denied(format!("{user} is no ServiceAccount; only Pods may connect"))
        })
    }
}

/// `system:serviceaccount:NAMESPACE:NAME`.
fn parse_account(user: &str) -> Option<Account> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    Some(Account { namespace: namespace.to_owned(), name: name.to_owned() })
}

/// A proxy may only speak for its own namespace and account.
fn claims_match(account: &Account, node: &ProxyNode) -> Result<(), Status> {
    let claimed = Account { namespace: node.namespace.to_string(), name: node.service_account.clone() };
    if claimed.namespace == account.namespace && (claimed.name.is_empty() || claimed.name == account.name) {
        return Ok(());
    }
    Err(Status::permission_denied(format!(
        "the token is that of {}/{}, but node {} claims to be {}/{}",
        account.namespace, account.name, node.id, claimed.namespace, claimed.name
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_proxy_speaks_for_its_own_account_only() {
        let check = |user: &str, namespace: &str, account: &str, expect: bool| {
            let metadata = json!({"NAMESPACE": namespace, "SERVICE_ACCOUNT": account});
            let id = format!("sidecar~10.0.0.1~pod.{namespace}~{namespace}.svc.cluster.local");
            let node = ProxyNode::parse(&id, metadata.as_object().unwrap()).unwrap();
            let admitted = parse_account(user).is_some_and(|account| claims_match(&account, &node).is_ok());
            assert_eq!(admitted, expect, "{user} as {namespace}/{account}");
        };
        check("system:serviceaccount:shop:reviews", "shop", "reviews", true);
        check("system:serviceaccount:shop:reviews", "shop", "ratings", false);
        check("system:serviceaccount:shop:reviews", "bank", "reviews", false);
        check("system:node:lateen", "shop", "reviews", false);
    }
}
