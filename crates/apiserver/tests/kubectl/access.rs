//! Who may do what, as `kubectl` asks.

use super::{Fixture, Outcome};

const ROBOT: &str = "system:serviceaccount:default:robot";

impl Fixture {
    /// A command of somebody else, whom the administrator impersonates.
    fn someone(&self, name: &str, arguments: &[&str]) -> Outcome {
        let user = format!("--as={name}");
        let mut all = arguments.to_vec();
        all.push(&user);
        self.kubectl(&all)
    }

    /// A command that shows a token instead of a certificate.
    fn with_token(&self, token: &str, arguments: &[&str]) -> Outcome {
        let text = std::fs::read_to_string(self.folder.path().join("kubeconfig")).expect("the kubeconfig");
        let mut config: serde_json::Value = serde_saphyr::from_str(&text).expect("it is YAML");
        config["users"][0]["user"] = serde_json::json!({"token": token});
        let path = self.file("token-kubeconfig", &config.to_string());
        let mut command = self.command(arguments);
        command.env("KUBECONFIG", path);
        self.run(command, arguments)
    }
}

#[test]
fn roles_decide() {
    let fixture = Fixture::start();
    fixture.kubectl(&["create", "serviceaccount", "robot"]).ok();
    fixture.kubectl(&["auth", "can-i", "delete", "pods", "--all-namespaces"]).says("yes");
    let no = fixture.someone(ROBOT, &["auth", "can-i", "get", "pods"]);
    assert!(!no.success && no.out.contains("no"), "{}{}", no.out, no.err);
    fixture.someone(ROBOT, &["get", "pods"]).refuses(
        "pods is forbidden: User \"system:serviceaccount:default:robot\" cannot list resource \"pods\" in API group \
         \"\" in the namespace \"default\"",
    );
    fixture.kubectl(&["create", "role", "reader", "--verb=get,list", "--resource=pods,pods/log"]).ok();
    fixture
        .kubectl(&["create", "rolebinding", "reads", "--role=reader", "--serviceaccount=default:robot"])
        .ok();
    fixture.someone(ROBOT, &["auth", "can-i", "list", "pods"]).says("yes");
    fixture.someone(ROBOT, &["get", "pods"]).ok();
    fixture.someone(ROBOT, &["get", "pods", "-n", "kube-system"]).refuses("in the namespace \"kube-system\"");
    fixture.someone(ROBOT, &["auth", "can-i", "--list"]).says("pods/log");
    fixture.kubectl(&["get", "rolebindings", "-o", "wide"]).says("default/robot");
    // The default roles, aggregated.
    fixture.kubectl(&["create", "clusterrolebinding", "sees", "--clusterrole=view", "--user=eve"]).ok();
    fixture.someone("eve", &["get", "configmaps", "-A"]).says("kube-root-ca.crt");
    fixture.someone("eve", &["get", "secrets"]).refuses("cannot list resource \"secrets\"");
    let more =
        fixture.kubectl(&["create", "clusterrole", "sees-secrets", "--verb=list", "--resource=secrets"]);
    more.ok();
    fixture
        .kubectl(&[
            "label",
            "clusterrole",
            "sees-secrets",
            "rbac.authorization.k8s.io/aggregate-to-view=true",
        ])
        .ok();
    let deadline = std::time::Instant::now() + super::PATIENCE;
    while !fixture.someone("eve", &["get", "secrets"]).success {
        assert!(std::time::Instant::now() < deadline, "the role was not aggregated");
    }
    fixture.kubectl(&["auth", "whoami"]).says("admin");
    fixture.someone("eve", &["auth", "whoami"]).says("eve");
    fixture.someone("eve", &["get", "pods", "--as-group=x", "--as-uid=u"]).ok();
    fixture.kubectl(&["get", "clusterroles"]).says("cluster-admin");
}

#[test]
fn nobody_grants_what_he_does_not_have() {
    let fixture = Fixture::start();
    fixture.kubectl(&["create", "rolebinding", "adam", "--clusterrole=admin", "--user=adam"]).ok();
    fixture.someone("adam", &["create", "role", "pods", "--verb=get", "--resource=pods"]).ok();
    fixture
        .someone("adam", &["create", "role", "nodes", "--verb=get", "--resource=nodes"])
        .refuses("is attempting to grant RBAC permissions not currently held");
    fixture
        .someone("adam", &["create", "rolebinding", "more", "--clusterrole=cluster-admin", "--user=adam"])
        .refuses("is attempting to grant RBAC permissions not currently held");
    fixture.someone("adam", &["create", "rolebinding", "less", "--clusterrole=view", "--user=eve"]).ok();
    fixture
        .someone("adam", &["create", "clusterrole", "x", "--verb=get", "--resource=pods"])
        .refuses("forbidden");
    let change = r#"{"roleRef":{"name":"edit"}}"#;
    fixture
        .kubectl(&["patch", "rolebinding", "less", "--type=merge", "-p", change])
        .refuses("cannot change roleRef");
    fixture.someone("adam", &["get", "pods", "--as-group=system:masters"]).ok();
    let file = fixture.file("bad.yaml", "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: bad}\nrules: [{verbs: [get]}]\n");
    fixture.kubectl(&["apply", "-f", &file]).refuses("resource rules must supply at least one api group");
}

#[test]
fn tokens_carry_their_accounts_roles() {
    let fixture = Fixture::start();
    fixture.kubectl(&["create", "serviceaccount", "robot"]).ok();
    let token = fixture.kubectl(&["create", "token", "robot"]).ok();
    let token = token.trim();
    fixture.with_token(token, &["auth", "whoami"]).says(ROBOT);
    fixture.with_token(token, &["get", "configmaps"]).refuses("cannot list resource \"configmaps\"");
    fixture
        .kubectl(&["create", "rolebinding", "r", "--clusterrole=edit", "--serviceaccount=default:robot"])
        .ok();
    fixture.with_token(token, &["create", "configmap", "made", "--from-literal=a=b"]).says("created");
    fixture.with_token(token, &["get", "configmaps", "-A"]).refuses("at the cluster scope");
    fixture
        .with_token(token, &["get", "configmaps", "--as=eve"])
        .refuses("cannot impersonate resource \"users\"");
    fixture.kubectl(&["delete", "serviceaccount", "robot"]).ok();
    fixture.with_token(token, &["get", "configmaps"]).refuses("Unauthorized");
}
