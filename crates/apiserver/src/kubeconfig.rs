//! The kubeconfig file, by which `kubectl` and every client library find and trust the server.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

/// Renders a kubeconfig with one cluster, one user with a client certificate, and one context, all named `lateen`.
///
/// `server` is a URL; the rest is PEM. The text holds a private key: the caller writes it with mode 0600.
pub fn render(server: &str, ca: &str, client_certificate: &str, client_key: &str) -> String {
    let data = |pem: &str| BASE64_STANDARD.encode(pem);
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lateen", "cluster": {"server": server, "certificate-authority-data": data(ca)}}],
        "users": [{"name": "lateen", "user": {
            "client-certificate-data": data(client_certificate), "client-key-data": data(client_key)}}],
        "contexts": [{"name": "lateen", "context": {"cluster": "lateen", "user": "lateen", "namespace": "default"}}],
        "current-context": "lateen",
        "preferences": {},
    });
    // YAML contains JSON, but a person who opens the file expects YAML.
    serde_saphyr::to_string(&config).unwrap_or_else(|_| config.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_yaml_with_everything_in_it() {
        let text = render("https://127.0.0.1:6443", "CA", "CERTIFICATE", "KEY");
        let config: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(config["clusters"][0]["cluster"]["server"], "https://127.0.0.1:6443");
        assert_eq!(config["users"][0]["user"]["client-key-data"], "S0VZ");
        assert_eq!(config["contexts"][0]["name"], config["current-context"]);
        assert!(text.contains("current-context: lateen"), "{text}");
    }
}
