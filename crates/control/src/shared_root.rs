//! The root that all replicas of the control plane share: Secret `istio-ca-secret` of the control plane's namespace, made
//! by the first replica, with Istio's keys. It is also the first that is asked of a cluster, so this is where an API that
//! does not answer is waited for, and one that will never let us in ends the process.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, PostParams};
use lateen_base::backoff::Backoff;
use lateen_base::paths::write_atomically;
use lateen_citadel::root::SelfSignedRoot;

const SECRET: &str = "istio-ca-secret";
const CERTIFICATE: &str = "ca-cert.pem";
const KEY: &str = "ca-key.pem";
const ROOT: &str = "root-cert.pem";
/// How long one attempt may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The mesh's root, waiting for the API as long as it takes. `folder` keeps a copy.
pub(crate) async fn load(
    config: &kube::Config,
    namespace: &str,
    folder: &Path,
) -> anyhow::Result<SelfSignedRoot> {
    let mut config = config.clone();
    // The first failure is told at once; the attempts after it are made here.
    config.default_retry = false;
    let address = config.cluster_url.to_string();
    let api: Api<Secret> = Api::namespaced(Client::try_from(config)?, namespace);
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    let mut told = false;
    loop {
        let attempt = tokio::time::timeout(PATIENCE, secret(&api, folder)).await;
        let reason = match attempt {
            Ok(Ok(secret)) => return keep(secret, folder),
            Ok(Err(Failure::Local(error))) => return Err(error),
            Ok(Err(Failure::Api(error))) => match hopeless(&error, namespace) {
                Some(remedy) => bail!("the API at {address} cannot be used: {}; {remedy}", words(&error)),
                None => words(&error),
            },
            Err(_) => "no answer in time".to_owned(),
        };
        if !std::mem::replace(&mut told, true) {
            tracing::warn!("the API at {address} does not answer, and is waited for: {reason}");
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

enum Failure {
    Api(kube::Error),
    Local(anyhow::Error),
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        Self::Api(error)
    }
}

/// The Secret, made of what `folder` holds if there is none.
async fn secret(api: &Api<Secret>, folder: &Path) -> Result<Secret, Failure> {
    if let Some(secret) = api.get_opt(SECRET).await? {
        return Ok(secret);
    }
    let local = SelfSignedRoot::load_or_create(folder).map_err(|error| Failure::Local(error.into()))?;
    let key_file = folder.join("root-key.pem");
    let key = std::fs::read(&key_file)
        .with_context(|| format!("cannot read {}", key_file.display()))
        .map_err(Failure::Local)?;
    let certificate = ByteString(local.certificate().as_bytes().to_vec());
    let data = [
        (CERTIFICATE.to_owned(), certificate.clone()),
        (KEY.to_owned(), ByteString(key)),
        (ROOT.to_owned(), certificate),
    ];
    let mut secret =
        Secret { data: Some(data.into()), type_: Some("istio.io/ca-root".to_owned()), ..Secret::default() };
    secret.metadata.name = Some(SECRET.to_owned());
    match api.create(&PostParams::default(), &secret).await {
        // Another replica was quicker.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(api.get(SECRET).await?),
        made => Ok(made?),
    }
}

/// Puts the Secret's root into `folder`, and loads it from there.
fn keep(secret: Secret, folder: &Path) -> anyhow::Result<SelfSignedRoot> {
    let data = secret.data.unwrap_or_default();
    let part = |name: &str| {
        data.get(name).filter(|bytes| !bytes.0.is_empty()).with_context(|| {
            format!(
                "Secret {SECRET} has no {name}: give it one, or delete the Secret to have a new root made"
            )
        })
    };
    let (certificate, key) = (part(CERTIFICATE)?, part(KEY)?);
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (name, contents, mode) in [("root-key.pem", key, 0o600), ("root-cert.pem", certificate, 0o644)] {
        let path = folder.join(name);
        write_atomically(&path, &contents.0, mode)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    SelfSignedRoot::load_or_create(folder).with_context(|| format!("Secret {SECRET} holds no usable root"))
}

/// What to do about a failure that does not pass by waiting.
fn hopeless(error: &kube::Error, namespace: &str) -> Option<String> {
    if let kube::Error::Api(status) = error {
        return match status.code {
            401 => Some("the kubeconfig's credentials are not, or no longer, valid there".to_owned()),
            403 => Some(format!(
                "its account must be allowed to read and create Secrets in namespace {namespace}"
            )),
            404 => Some(format!("create namespace {namespace} first")),
            _ => None,
        };
    }
    let words = words(error);
    let distrusted = words.contains("certificate") || words.contains("UnknownIssuer");
    distrusted.then(|| "the kubeconfig's certificate-authority is not that of this API".to_owned())
}

/// The whole chain of an error, each part once.
fn words(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return status.message.clone();
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        let part = error.to_string();
        if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
        source = error.source();
    }
    text
}
