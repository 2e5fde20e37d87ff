//! All names of the zone, from Services and their endpoints.

use std::collections::HashMap;
use std::net::IpAddr;

use hickory_proto::rr::rdata::{CNAME, PTR, SRV, TXT};
use hickory_proto::rr::{Name, RData};

use super::CLUSTER_DOMAIN;

/// A Service as DNS sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What its name leads to.
    pub kind: ServiceKind,
    /// Its ports; those of a headless Service are its endpoints'.
    pub ports: Vec<ServicePort>,
}

/// The three ways a Service's name resolves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceKind {
    /// To its cluster IPs.
    ClusterIp(Vec<IpAddr>),
    /// To its endpoints: ready ones, or all where `publishNotReadyAddresses` says so.
    Headless(Vec<Endpoint>),
    /// To another name.
    ExternalName(String),
}

/// A port with a name has an SRV record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty where there is none.
    pub name: String,
    /// `TCP` or `UDP`, in any case.
    pub protocol: String,
    /// The port clients use.
    pub port: u16,
}

/// An endpoint of a headless Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// The Pod's `hostname`, where it has one and its `subdomain` is the Service.
    pub hostname: Option<String>,
}

/// The zone, immutable.
#[derive(Debug, Clone, Default)]
pub struct Records {
    /// By name in lower case, without the final dot. A name without data exists all the same (NODATA, not NXDOMAIN).
    names: HashMap<String, Vec<RData>>,
}

impl Records {
    /// The zone of these Services. What cannot be a DNS name is left out.
    pub fn new<'a>(services: impl IntoIterator<Item = &'a Service>) -> Self {
        let mut records = Self::default();
        records.add(CLUSTER_DOMAIN, None);
        records.add(&format!("svc.{CLUSTER_DOMAIN}"), None);
        records.add(&format!("pod.{CLUSTER_DOMAIN}"), None);
        let version = RData::TXT(TXT::new(vec!["1.1.0".to_owned()]));
        records.add(&format!("dns-version.{CLUSTER_DOMAIN}"), Some(version));
        for service in services {
            records.add_service(service);
        }
        records
    }

    /// What `name` (lower case, no final dot) has; none where it does not exist.
    pub(super) fn get(&self, name: &str) -> Option<&[RData]> {
        self.names.get(name).map(Vec::as_slice)
    }

    fn add_service(&mut self, service: &Service) {
        let base =
            format!("{}.{}.svc.{CLUSTER_DOMAIN}", service.name, service.namespace).to_ascii_lowercase();
        self.add(&base, None);
        match &service.kind {
            ServiceKind::ClusterIp(addresses) => {
                for address in addresses {
                    self.add_address(&base, *address);
                }
                for port in &service.ports {
                    self.add_srv(&base, port, &base);
                }
            }
            ServiceKind::Headless(endpoints) => {
                for endpoint in endpoints {
                    let host = endpoint.hostname.clone().unwrap_or_else(|| dashed(endpoint.address));
                    let host = format!("{host}.{base}").to_ascii_lowercase();
                    self.add(&base, Some(address_data(endpoint.address)));
                    self.add_address(&host, endpoint.address);
                    for port in &service.ports {
                        self.add_srv(&base, port, &host);
                    }
                }
            }
            ServiceKind::ExternalName(target) => {
                if let Some(target) = absolute(target) {
                    self.add(&base, Some(RData::CNAME(CNAME(target))));
                }
            }
        }
    }

    fn add_srv(&mut self, base: &str, port: &ServicePort, target: &str) {
        if port.name.is_empty() {
            return;
        }
        if let Some(target) = absolute(target) {
            let name = format!("_{}._{}.{base}", port.name, port.protocol).to_ascii_lowercase();
            self.add(&name, Some(RData::SRV(SRV::new(0, 100, port.port, target))));
        }
    }

    /// The address and the way back from it.
    fn add_address(&mut self, name: &str, address: IpAddr) {
        self.add(name, Some(address_data(address)));
        if let Some(target) = absolute(name) {
            let reverse = Name::from(address).to_ascii().trim_end_matches('.').to_owned();
            let data = RData::PTR(PTR(target));
            let held = self.names.entry(reverse).or_default();
            if !held.contains(&data) {
                held.push(data);
            }
        }
    }

    /// Adds the name with its data, and the names between it and the zone.
    fn add(&mut self, name: &str, data: Option<RData>) {
        let held = self.names.entry(name.to_owned()).or_default();
        held.extend(data.filter(|data| !held.contains(data)));
        let mut rest = name;
        while let Some((_, parent)) = rest.split_once('.') {
            if parent == "local" || self.names.contains_key(parent) {
                break;
            }
            self.names.insert(parent.to_owned(), Vec::new());
            rest = parent;
        }
    }
}

pub(super) fn address_data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(address.into()),
        IpAddr::V6(address) => RData::AAAA(address.into()),
    }
}

fn absolute(name: &str) -> Option<Name> {
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// An address as one label, as in the names of Pods.
fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}
