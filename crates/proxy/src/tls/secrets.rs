//! Secrets by name, and the contexts that are made of them.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use lateen_dataplane::tls::{
    CertificateSource, DataSource, Secret, SecretReference, SecretSource, ValidationSource,
};
use parking_lot::Mutex;
use rustls::crypto::aws_lc_rs;
use tokio::sync::watch;

use super::TlsError;
use super::material;
use crate::stats::{SecretStats, SharedShard, Stats};

/// A secret is known by where it comes from and its name.
pub type SecretKey = (SecretSource, Arc<str>);

/// A context that is made anew when a secret changes.
pub(super) trait Dependent: std::fmt::Debug + Send + Sync {
    /// The secrets it needs.
    fn references(&self) -> Vec<SecretReference>;
    /// Makes its configuration anew.
    fn rebuild(&self, secrets: &Secrets);
}

/// All secrets. Written by the thread of the configuration alone.
pub struct Secrets {
    values: Mutex<HashMap<SecretKey, Secret>>,
    dependents: Mutex<Vec<Weak<dyn Dependent>>>,
    changed: watch::Sender<()>,
    pub(super) shard: SharedShard,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_list().entries(self.values.lock().keys()).finish()
    }
}

impl Secrets {
    /// None yet. The shard counts what happens to them.
    pub fn new(shard: SharedShard) -> Self {
        Self {
            values: Mutex::default(),
            dependents: Mutex::default(),
            changed: watch::Sender::new(()),
            shard,
        }
    }

    pub(super) fn register(&self, dependent: Weak<dyn Dependent>) {
        let mut dependents = self.dependents.lock();
        dependents.retain(|dependent| dependent.strong_count() > 0);
        dependents.push(dependent);
        self.changed.send_replace(());
    }

    /// Hears of new contexts and of new secrets.
    pub fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn live(&self) -> Vec<Arc<dyn Dependent>> {
        self.dependents.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// The secret, if it is there.
    pub fn get(&self, reference: &SecretReference) -> Option<Secret> {
        self.values.lock().get(&(reference.source.clone(), Arc::clone(&reference.name))).cloned()
    }

    /// Whether it is there.
    pub fn has(&self, reference: &SecretReference) -> bool {
        self.values.lock().contains_key(&(reference.source.clone(), Arc::clone(&reference.name)))
    }

    /// Adds or replaces a secret. Its material is read first: what cannot be used changes nothing.
    pub fn put(
        &self,
        stats: &Stats,
        source: &SecretSource,
        name: Arc<str>,
        secret: Secret,
    ) -> Result<(), TlsError> {
        let checked = check(&secret);
        if *source != SecretSource::Static {
            let counters = SecretStats::new(stats, &name);
            self.shard.increment(if checked.is_ok() {
                counters.update_success
            } else {
                counters.update_rejected
            });
        }
        checked?;
        let key = (source.clone(), Arc::clone(&name));
        self.values.lock().insert(key, secret);
        self.rebuild(|reference| reference.source == *source && reference.name == name);
        self.changed.send_replace(());
        Ok(())
    }

    fn rebuild(&self, concerned: impl Fn(&SecretReference) -> bool) {
        for dependent in self.live() {
            if dependent.references().iter().any(&concerned) {
                dependent.rebuild(self);
            }
        }
    }

    /// Reads the files of a source anew. What cannot be used changes nothing.
    pub fn reread(&self, stats: &Stats, source: &SecretSource) {
        let own: Vec<(Arc<str>, Secret)> = self
            .values
            .lock()
            .iter()
            .filter(|((other, _), _)| other == source)
            .map(|((_, name), secret)| (Arc::clone(name), secret.clone()))
            .collect();
        for (name, secret) in own {
            if let Err(error) = check(&secret) {
                tracing::warn!(secret = %name, %error, "changed files are not used");
                self.shard.increment(SecretStats::new(stats, &name).key_rotation_failed);
                return;
            }
        }
        self.rebuild(|reference| reference.source == *source);
    }

    /// The sources, other than files of secrets, whose secrets name files.
    pub fn sources_with_files(&self) -> Vec<SecretSource> {
        let sources: std::collections::HashSet<SecretSource> =
            self.values.lock().keys().map(|(source, _)| source.clone()).collect();
        let other = |source: &SecretSource| !matches!(source, SecretSource::Path(_) | SecretSource::Static);
        sources.into_iter().filter(other).filter(|source| !self.files(source).is_empty()).collect()
    }

    /// All references of contexts that live.
    pub fn references(&self) -> Vec<SecretReference> {
        let mut references: Vec<SecretReference> = Vec::new();
        for dependent in self.live() {
            for reference in dependent.references() {
                if !references.contains(&reference) {
                    references.push(reference);
                }
            }
        }
        references
    }

    /// Whether anything is wanted from a source.
    pub fn wants(&self, source: &SecretSource) -> bool {
        self.references().iter().any(|reference| reference.source == *source)
    }

    /// The certificate of a reference.
    pub(super) fn certificate(&self, reference: &SecretReference) -> Option<CertificateSource> {
        match self.get(reference)? {
            Secret::Certificate(source) => Some(source),
            _ => None,
        }
    }

    /// The validation of a reference.
    pub(super) fn validation(&self, reference: &SecretReference) -> Option<ValidationSource> {
        match self.get(reference)? {
            Secret::Validation(source) => Some(source),
            _ => None,
        }
    }

    /// The ticket keys of a reference.
    pub(super) fn ticket_keys(&self, reference: &SecretReference) -> Option<Vec<DataSource>> {
        match self.get(reference)? {
            Secret::TicketKeys(keys) => Some(keys),
            _ => None,
        }
    }

    /// The files that the secrets of a source name, to be watched.
    pub fn files(&self, source: &SecretSource) -> Vec<std::path::PathBuf> {
        let values = self.values.lock();
        let own = values.iter().filter(|((other, _), _)| other == source).map(|(_, secret)| secret);
        own.flat_map(|secret| match secret {
            Secret::Certificate(certificate) => {
                let sources = [Some(&certificate.chain), Some(&certificate.key), certificate.staple.as_ref()];
                material::files(sources.into_iter().flatten())
            }
            Secret::Validation(validation) => {
                let domains = validation.trust_domains.iter().map(|(_, bundle)| bundle);
                material::files(validation.trusted.iter().chain(&validation.revoked).chain(domains))
            }
            Secret::TicketKeys(keys) => material::files(keys.iter()),
            Secret::Generic => Vec::new(),
        })
        .collect()
    }
}

/// Whether the material can be used.
fn check(secret: &Secret) -> Result<(), TlsError> {
    match secret {
        Secret::Certificate(source) => material::identity(source, &aws_lc_rs::default_provider()).map(drop),
        Secret::Validation(source) => {
            lateen_identity::verify::Verifier::new(material::validation(source, false)?, false).map(drop)
        }
        Secret::TicketKeys(keys) => {
            keys.iter().try_for_each(|key| material::read("session_ticket_keys", key).map(drop))
        }
        Secret::Generic => Ok(()),
    }
}
