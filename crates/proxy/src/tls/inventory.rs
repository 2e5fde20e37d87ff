//! All certificates that are in use, as the admin page `/certs` shows them (`envoy.admin.v3.Certificates`).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lateen_dataplane::tls::DataSource;
use lateen_identity::certificate::{Details, details};
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};

use crate::state::State;

/// What a context holds: where each came from, and what is in it.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    pub(super) trusted: Vec<(String, Details)>,
    pub(super) own: Vec<(String, Details)>,
}

impl Inventory {
    /// The trusted certificates of a source.
    pub(super) fn trust(&mut self, path: &str, certificates: &[CertificateDer<'static>]) {
        self.trusted
            .extend(certificates.iter().filter_map(|der| Some((path.to_owned(), details(der).ok()?))));
    }

    fn json(&self, now: i64) -> Value {
        let list = |all: &[(String, Details)]| -> Vec<Value> {
            all.iter().map(|(path, details)| certificate(path, details, now)).collect()
        };
        json!({"ca_cert": list(&self.trusted), "cert_chain": list(&self.own)})
    }
}

/// A source, as Envoy's dump calls it.
pub(super) fn path(source: &DataSource) -> String {
    match source {
        DataSource::File(path) => path.display().to_string(),
        DataSource::Inline(_) | DataSource::Environment(_) => "<inline>".to_owned(),
    }
}

fn seconds(now: SystemTime) -> i64 {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Whole days from now on; 0 where it is over.
fn days(details: &Details, now: i64) -> u64 {
    u64::try_from((details.not_after - now) / 86_400).unwrap_or(0)
}

fn certificate(path: &str, details: &Details, now: i64) -> Value {
    let time =
        |seconds: i64| jiff::Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default();
    let names: Vec<Value> = (details.dns.iter().map(|name| json!({"dns": name})))
        .chain(details.uris.iter().map(|uri| json!({"uri": uri})))
        .chain(details.ips.iter().map(|address| json!({"ip_address": address.to_string()})))
        .collect();
    json!({
        "path": path,
        "serial_number": details.serial,
        "subject_alt_names": names,
        "days_until_expiration": days(details, now).to_string(),
        "valid_from": time(details.not_before),
        "expiration_time": time(details.not_after),
    })
}

/// The certificates of all listeners and clusters.
pub fn certificates(state: &State, now: SystemTime) -> Value {
    let mut all = Vec::new();
    visit(state, |inventory| all.push(inventory.json(seconds(now))));
    json!({"certificates": all})
}

/// Days until the first certificate is not valid any more (`server.days_until_first_cert_expiring`); none where there
/// is no certificate.
pub fn days_until_first_expiration(state: &State, now: SystemTime) -> Option<u64> {
    let mut first = None;
    visit(state, |inventory| {
        let all = inventory.trusted.iter().chain(&inventory.own);
        let here = all.map(|(_, details)| days(details, seconds(now))).min();
        first = first.into_iter().chain(here).min();
    });
    first
}

fn visit(state: &State, mut see: impl FnMut(&Inventory)) {
    for handle in state.listeners.load().by_name.values() {
        for context in handle.active.load().tls_contexts() {
            if let Some(ready) = context.ready() {
                see(&ready.inventory);
            }
        }
    }
    for handle in state.clusters.load().values() {
        for context in handle.transports.iter().filter_map(|transport| transport.tls()) {
            if let Some(ready) = context.ready() {
                see(&ready.inventory);
            }
        }
    }
}
