//! Calling webhooks over HTTPS, with connections that are kept.

use crate::seam::{Objects, Resource};
use base64::Engine;
use parking_lot::Mutex;
use reqwest::{Client, Url};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::Value;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// The largest answer that is read.
const ANSWER_LIMIT: usize = 3 << 20;

/// Trusted certificates, host, addresses.
type ClientKey = (String, String, Vec<SocketAddr>);

/// HTTP clients by what they trust and where they connect to; each keeps its connections.
pub struct Clients {
    objects: Arc<dyn Objects>,
    known: Mutex<HashMap<ClientKey, Client>>,
}

/// Where to call, and which addresses stand behind the name.
struct Target {
    url: Url,
    addresses: Vec<SocketAddr>,
}

impl Clients {
    /// No clients yet.
    pub fn new(objects: Arc<dyn Objects>) -> Clients {
        Clients { objects, known: Mutex::default() }
    }

    /// Drops the clients; configurations have changed.
    pub fn forget(&self) {
        self.known.lock().clear();
    }

    /// Posts a review to where a `clientConfig` says, and reads the answer.
    pub async fn call(&self, config: &Value, timeout: Duration, review: &Value) -> Result<Value, String> {
        let target = self.target(config)?;
        let client = self.client(config, &target)?;
        let mut url = target.url;
        url.query_pairs_mut().append_pair("timeout", &format!("{}s", timeout.as_secs()));
        let answer = async {
            let sent = client.post(url).json(review).send().await.map_err(|error| causes(&error))?;
            let code = sent.status();
            let body = sent.bytes().await.map_err(|error| causes(&error))?;
            if body.len() > ANSWER_LIMIT {
                return Err(format!("the answer is longer than {ANSWER_LIMIT} bytes"));
            }
            if !code.is_success() {
                let text = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
                return Err(format!("the webhook answered {code}: {text}"));
            }
            serde_json::from_slice(&body).map_err(|error| format!("the answer is no JSON: {error}"))
        };
        match tokio::time::timeout(timeout, answer).await {
            Ok(result) => result.map_err(|error| format!("failed to call webhook: {error}")),
            Err(_) => Err(format!("no answer within {} s (context deadline exceeded)", timeout.as_secs())),
        }
    }

    fn target(&self, config: &Value) -> Result<Target, String> {
        if let Some(text) = config["url"].as_str() {
            let url = Url::parse(text).map_err(|error| format!("clientConfig.url {text:?}: {error}"))?;
            return Ok(Target { url, addresses: Vec::new() });
        }
        let service = &config["service"];
        let namespace = service["namespace"].as_str().unwrap_or_default();
        let name = service["name"].as_str().unwrap_or_default();
        let path = service["path"].as_str().unwrap_or("/");
        let port = service["port"].as_u64().unwrap_or(443);
        let addresses = self.endpoints(namespace, name, port)?;
        let port = addresses.first().map(SocketAddr::port).unwrap_or(443);
        let text = format!("https://{name}.{namespace}.svc:{port}/{}", path.trim_start_matches('/'));
        let url = Url::parse(&text).map_err(|error| format!("{text:?}: {error}"))?;
        Ok(Target { url, addresses })
    }

    /// The ready addresses behind a port of a Service.
    fn endpoints(&self, namespace: &str, name: &str, port: u64) -> Result<Vec<SocketAddr>, String> {
        let service = self.objects.get(Resource::new("", "services"), namespace, name);
        let service =
            service.ok_or_else(|| format!("service {name:?} not found in namespace {namespace:?}"))?;
        let ports = service["spec"]["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
        let wanted = ports.iter().find(|entry| entry["port"].as_u64() == Some(port));
        let wanted = wanted.ok_or_else(|| format!("service {namespace}/{name} has no port {port}"))?;
        let port_name = wanted["name"].as_str().unwrap_or_default();
        let mut addresses = Vec::new();
        for slice in self.objects.list(Resource::new("discovery.k8s.io", "endpointslices"), Some(namespace)) {
            if slice["metadata"]["labels"]["kubernetes.io/service-name"] != name {
                continue;
            }
            let mut slice_ports = slice["ports"].as_array().into_iter().flatten();
            let found = slice_ports.find(|entry| entry["name"].as_str().unwrap_or_default() == port_name);
            let Some(number) =
                found.and_then(|entry| entry["port"].as_u64()).and_then(|port| u16::try_from(port).ok())
            else {
                continue;
            };
            for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
                if endpoint["conditions"]["ready"] == false {
                    continue;
                }
                let parsed = endpoint["addresses"][0].as_str().and_then(|text| text.parse::<IpAddr>().ok());
                addresses.extend(parsed.map(|address| SocketAddr::new(address, number)));
            }
        }
        // One port has to do for the URL: that of the first address.
        let first = addresses.first().map(SocketAddr::port);
        addresses.retain(|address| Some(address.port()) == first);
        if addresses.is_empty() {
            return Err(format!("no endpoints available for service {name:?} in namespace {namespace:?}"));
        }
        Ok(addresses)
    }

    fn client(&self, config: &Value, target: &Target) -> Result<Client, String> {
        let bundle = config["caBundle"].as_str().unwrap_or_default();
        let host = target.url.host_str().unwrap_or_default();
        let key = (bundle.to_owned(), host.to_owned(), target.addresses.clone());
        if let Some(client) = self.known.lock().get(&key) {
            return Ok(client.clone());
        }
        let mut builder = Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .tls_backend_preconfigured(trust(bundle)?);
        if !target.addresses.is_empty() {
            builder = builder.resolve_to_addrs(host, &target.addresses);
        }
        let client = builder.build().map_err(|error| causes(&error))?;
        self.known.lock().insert(key, client.clone());
        Ok(client)
    }
}

/// Trust in a `caBundle`: PEM in base64.
fn trust(bundle: &str) -> Result<ClientConfig, String> {
    let clean: String = bundle.chars().filter(|character| !character.is_whitespace()).collect();
    let pem = base64::engine::general_purpose::STANDARD
        .decode(clean)
        .map_err(|error| format!("clientConfig.caBundle is not base64: {error}"))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| format!("clientConfig.caBundle: {error}"))?;
        roots.add(certificate).map_err(|error| format!("clientConfig.caBundle: {error}"))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

/// An error with its causes: `reqwest` alone says little.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
