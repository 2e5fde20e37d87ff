//! Whether what an object names is there: gateways, hosts, subsets.

use std::collections::{HashMap, HashSet};

use lateen_api::networking::{Destination, VirtualService};
use lateen_model::{Config, ConfigKey, ConfigKind, ConfigReference, Hostname, Namespace, Snapshot};

use crate::rules::full_host;

/// What objects of a snapshot may name, indexed once for many questions.
#[derive(Debug)]
pub struct References<'a> {
    snapshot: &'a Snapshot,
    hosts: HashSet<&'a Hostname>,
    wildcards: Vec<&'a Hostname>,
    subsets: HashMap<Hostname, HashSet<&'a str>>,
}

impl<'a> References<'a> {
    /// Indexes a snapshot.
    pub fn new(snapshot: &'a Snapshot) -> Self {
        let names = || snapshot.services().map(|service| &service.key.hostname);
        let mut subsets: HashMap<Hostname, HashSet<&str>> = HashMap::new();
        for rule in snapshot.configs().destination_rules.values() {
            let host = full_host(&rule.spec.host, &rule.meta.namespace);
            subsets.entry(host).or_default().extend(rule.spec.subsets.iter().map(|subset| &*subset.name));
        }
        Self {
            snapshot,
            hosts: names().collect(),
            wildcards: names().filter(|name| name.is_wildcard()).collect(),
            subsets,
        }
    }

    /// What the object names and is not there, each with the path of the field; nothing for kinds that name nothing.
    pub fn unresolved(&self, object: &ConfigReference) -> Vec<String> {
        let configs = self.snapshot.configs();
        let key = ConfigKey { namespace: object.namespace.clone(), name: object.name.clone() };
        match object.kind {
            ConfigKind::VirtualService => configs
                .virtual_services
                .get(&key)
                .map(|config| self.virtual_service(config))
                .unwrap_or_default(),
            ConfigKind::DestinationRule => configs
                .destination_rules
                .get(&key)
                .and_then(|config| {
                    let host = &config.spec.host;
                    self.host(host, &key.namespace).err().map(|reason| vec![format!("spec.host: {reason}")])
                })
                .unwrap_or_default(),
            _ => Vec::new(),
        }
    }

    fn virtual_service(&self, config: &Config<VirtualService>) -> Vec<String> {
        let (spec, namespace) = (&config.spec, &config.meta.namespace);
        let mut missing = Vec::new();
        for (index, gateway) in spec.gateways.iter().enumerate() {
            if gateway != "mesh" && !self.gateway(gateway, namespace) {
                missing.push(format!("spec.gateways[{index}]: there is no Gateway {gateway}"));
            }
        }
        let mut check = |path: String, destination: &Destination| {
            if let Err(reason) = self.destination(destination, namespace) {
                missing.push(format!("{path}: {reason}"));
            }
        };
        for (index, http) in spec.http.iter().enumerate() {
            for (nth, route) in http.route.iter().enumerate() {
                check(format!("spec.http[{index}].route[{nth}].destination"), &route.destination);
            }
            if let Some(mirror) = &http.mirror {
                check(format!("spec.http[{index}].mirror"), mirror);
            }
            for (nth, mirror) in http.mirrors.iter().enumerate() {
                check(format!("spec.http[{index}].mirrors[{nth}].destination"), &mirror.destination);
            }
        }
        for (index, tls) in spec.tls.iter().enumerate() {
            for (nth, route) in tls.route.iter().enumerate() {
                check(format!("spec.tls[{index}].route[{nth}].destination"), &route.destination);
            }
        }
        for (index, tcp) in spec.tcp.iter().enumerate() {
            for (nth, route) in tcp.route.iter().enumerate() {
                check(format!("spec.tcp[{index}].route[{nth}].destination"), &route.destination);
            }
        }
        missing
    }

    fn gateway(&self, name: &str, namespace: &Namespace) -> bool {
        let (namespace, name) = match name.split_once('/') {
            Some((namespace, name)) => (namespace.into(), name),
            None => (namespace.clone(), name),
        };
        let key = ConfigKey { namespace, name: name.to_owned() };
        self.snapshot.configs().gateways.contains_key(&key)
    }

    fn host(&self, host: &str, namespace: &Namespace) -> Result<Hostname, String> {
        let full = full_host(host, namespace);
        let known = self.hosts.contains(&full)
            || self.wildcards.iter().any(|wildcard| wildcard.covers(&full))
            || full.is_wildcard() && self.hosts.iter().any(|known| full.covers(known));
        if known { Ok(full) } else { Err(format!("no platform and no ServiceEntry knows the host {full}")) }
    }

    fn destination(&self, destination: &Destination, namespace: &Namespace) -> Result<(), String> {
        let host = self.host(&destination.host, namespace)?;
        if destination.subset.is_empty() {
            return Ok(());
        }
        let found = self.subsets.iter().any(|(rule, subsets)| {
            (*rule == host || rule.is_wildcard() && rule.covers(&host))
                && subsets.contains(&*destination.subset)
        });
        if found {
            Ok(())
        } else {
            Err(format!("no DestinationRule of {host} defines the subset {}", destination.subset))
        }
    }
}
