//! Cluster IPs and node ports of Services.
//!
//! What is taken is read from the store, together with what writes under way have reserved; so a removed Service
//! releases what it had, and a restart forgets nothing. Automatic addresses come from behind a band that is left to
//! fixed ones, as Kubernetes does (KEP-3070).

use crate::object::meta;
use crate::seam::{KindInfo, Objects, Resource};
use crate::status::{Cause, Status};
use crate::store::Store;
use ipnet::Ipv4Net;
use parking_lot::Mutex;
use rand::Rng;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// What a Service can own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Item {
    Address(Ipv4Addr),
    Port(u16, String),
}

/// Gives Services their addresses and ports.
pub struct Allocator {
    store: Store,
    range: Ipv4Net,
    ports: RangeInclusive<u16>,
    reserved: Arc<Mutex<HashSet<Item>>>,
}

/// What a write under way has reserved; given up when it is dropped, by which time the store knows the Service, or
/// the write has failed.
#[derive(Debug, Default)]
#[must_use]
pub struct Reservation {
    items: Vec<Item>,
    reserved: Arc<Mutex<HashSet<Item>>>,
}

impl Reservation {
    /// The write is done.
    pub fn keep(self) {}
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.items.is_empty() {
            let mut reserved = self.reserved.lock();
            for item in &self.items {
                reserved.remove(item);
            }
        }
    }
}

impl Allocator {
    /// An allocator of a range of addresses and one of ports.
    pub fn new(store: Store, range: Ipv4Net, ports: RangeInclusive<u16>) -> Allocator {
        Allocator { store, range, ports, reserved: Arc::default() }
    }

    /// The address of `kubernetes.default`: the first of the range.
    pub fn first_address(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.range.network()) + 1)
    }

    /// Fills in what a Service needs; other kinds pass.
    pub fn allocate(
        &self,
        kind: &KindInfo,
        object: &mut Value,
        old: Option<&Value>,
    ) -> Result<Reservation, Status> {
        if !kind.group.is_empty() || kind.plural != "services" {
            return Ok(Reservation::default());
        }
        let ports = object["spec"]["ports"].as_array().into_iter().flatten();
        if !object["spec"].is_object() || !ports.clone().all(Value::is_object) {
            // Validation says what is wrong.
            return Ok(Reservation::default());
        }
        let name = meta(object, "name").to_owned();
        if let Some(old) = old {
            keep_allocated(object, old);
        }
        let mut reserved = self.reserved.lock();
        let taken = self.taken(object, &reserved);
        let mut work = Work { allocator: self, taken, new: Vec::new() };
        let result = work.address(object).and_then(|()| work.node_ports(object));
        result.map_err(|cause| Status::invalid("", "Service", &name, vec![cause]))?;
        let items = work.new;
        reserved.extend(items.iter().cloned());
        drop(reserved);
        Ok(Reservation { items, reserved: self.reserved.clone() })
    }

    /// What other Services own.
    fn taken(&self, object: &Value, reserved: &HashSet<Item>) -> HashSet<Item> {
        let own = (meta(object, "namespace"), meta(object, "name"));
        let mut taken = reserved.clone();
        for service in self.store.list(Resource::new("", "services"), None) {
            if (meta(&service, "namespace"), meta(&service, "name")) != own {
                taken.extend(items_of(&service));
            }
        }
        taken
    }
}

fn items_of(service: &Value) -> Vec<Item> {
    let spec = &service["spec"];
    let addresses =
        spec["clusterIPs"].as_array().into_iter().flatten().chain(std::iter::once(&spec["clusterIP"]));
    let mut items: Vec<Item> =
        addresses.filter_map(|address| address.as_str()?.parse().ok()).map(Item::Address).collect();
    for port in spec["ports"].as_array().into_iter().flatten() {
        if let Some(number) =
            port["nodePort"].as_u64().and_then(|number| u16::try_from(number).ok()).filter(|n| *n > 0)
        {
            items.push(Item::Port(number, protocol(port)));
        }
    }
    items
}

fn protocol(port: &Value) -> String {
    port["protocol"].as_str().unwrap_or("TCP").to_owned()
}

fn has_address(service: &Value) -> bool {
    service["spec"]["type"] != "ExternalName"
}

fn has_node_ports(service: &Value) -> bool {
    let spec = &service["spec"];
    spec["type"] == "NodePort"
        || (spec["type"] == "LoadBalancer" && spec["allocateLoadBalancerNodePorts"] != false)
}

/// An update that does not mention what was allocated keeps it; one that turns to a type without it gives it up.
fn keep_allocated(object: &mut Value, old: &Value) {
    if has_address(object) && has_address(old) {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            let missing = object["spec"]
                .get(field)
                .is_none_or(|value| value.is_null() || value == "" || *value == json!([]));
            if missing && !old["spec"][field].is_null() {
                object["spec"][field] = old["spec"][field].clone();
            }
        }
    } else if !has_address(object)
        && let Some(spec) = object["spec"].as_object_mut()
    {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if spec.get(field) == old["spec"].get(field) {
                spec.shift_remove(field);
            }
        }
    }
    let (needs, needed) = (has_node_ports(object), has_node_ports(old));
    let old_ports: Vec<Value> = old["spec"]["ports"].as_array().cloned().unwrap_or_default();
    let Some(ports) = object["spec"]["ports"].as_array_mut() else { return };
    let mut used: HashSet<(u64, String)> =
        ports.iter().filter_map(|port| Some((port["nodePort"].as_u64()?, protocol(port)))).collect();
    for port in ports {
        let same = |old: &&Value| old["port"] == port["port"] && protocol(old) == protocol(port);
        let Some(number) = old_ports.iter().find(same).and_then(|old| old["nodePort"].as_u64()) else {
            continue;
        };
        let mine = port["nodePort"].as_u64().unwrap_or(0);
        if needs && needed && mine == 0 && used.insert((number, protocol(port))) {
            port["nodePort"] = number.into();
        } else if !needs
            && mine == number
            && let Some(port) = port.as_object_mut()
        {
            port.shift_remove("nodePort");
        }
    }
}

struct Work<'a> {
    allocator: &'a Allocator,
    taken: HashSet<Item>,
    new: Vec<Item>,
}

impl Work<'_> {
    fn take(&mut self, item: Item) -> bool {
        let free = self.taken.insert(item.clone());
        if free {
            self.new.push(item);
        }
        free
    }

    fn address(&mut self, service: &mut Value) -> Result<(), Cause> {
        if !has_address(service) {
            return Ok(());
        }
        let spec = &mut service["spec"];
        if spec["ipFamilies"]
            .as_array()
            .is_some_and(|families| families.iter().any(|family| family != "IPv4"))
        {
            return Err(Cause::invalid(
                "spec.ipFamilies[0]",
                &spec["ipFamilies"][0],
                "not configured on this cluster",
            ));
        }
        let single = spec["clusterIP"].as_str().filter(|text| !text.is_empty());
        let listed = spec["clusterIPs"][0].as_str().filter(|text| !text.is_empty());
        let asked = match (single, listed) {
            (Some(single), Some(listed)) if single != listed => {
                let text = format!("must match the first of clusterIPs ({listed})");
                return Err(Cause::invalid("spec.clusterIP", &spec["clusterIP"], text));
            }
            (single, listed) => single.or(listed).map(str::to_owned),
        };
        let chosen = match asked.as_deref() {
            Some("None") => "None".to_owned(),
            Some(text) => self.fixed_address(text)?.to_string(),
            None => self.free_address()?.to_string(),
        };
        spec["clusterIP"] = chosen.clone().into();
        spec["clusterIPs"] = json!([chosen]);
        if spec["ipFamilies"].as_array().is_none_or(Vec::is_empty) {
            spec["ipFamilies"] = json!(["IPv4"]);
        }
        match spec["ipFamilyPolicy"].as_str() {
            None | Some("") => spec["ipFamilyPolicy"] = "SingleStack".into(),
            Some("RequireDualStack") => {
                return Err(Cause::invalid(
                    "spec.ipFamilyPolicy",
                    &spec["ipFamilyPolicy"],
                    "this cluster is not configured for dual-stack services",
                ));
            }
            Some(_) => {}
        }
        Ok(())
    }

    fn fixed_address(&mut self, text: &str) -> Result<Ipv4Addr, Cause> {
        let refuse = |why: String| {
            let message = format!("failed to allocate IP {text}: {why}");
            Cause::invalid("spec.clusterIPs", &json!([text]), message)
        };
        let address: Ipv4Addr = text.parse().map_err(|_| refuse("it is not an IPv4 address".to_owned()))?;
        let range = self.allocator.range;
        if !range.contains(&address) || address == range.network() || address == range.broadcast() {
            return Err(refuse(format!(
                "the provided IP is not in the valid range. The range of valid IPs is {range}"
            )));
        }
        if self.take(Item::Address(address)) {
            Ok(address)
        } else {
            Err(refuse("provided IP is already allocated".to_owned()))
        }
    }

    fn free_address(&mut self) -> Result<Ipv4Addr, Cause> {
        let range = self.allocator.range;
        let (network, last) = (u32::from(range.network()), u32::from(range.broadcast()));
        let size = last - network;
        let band = (size / 16).clamp(16, 256).min(size / 2);
        let dynamic = network + band..last;
        let start = rand::rng().random_range(dynamic.clone());
        // Behind the band first, from a random place on, so that a new Service does not get the address of one just
        // removed; the band is used when nothing else is left.
        let order = (start..last).chain(dynamic.start..start).chain(network + 1..dynamic.start);
        for number in order {
            if self.take(Item::Address(Ipv4Addr::from(number))) {
                return Ok(Ipv4Addr::from(number));
            }
        }
        Err(Cause::invalid(
            "spec.clusterIPs",
            &json!([]),
            format!("failed to allocate a serviceIP: range {range} is full"),
        ))
    }

    fn node_ports(&mut self, service: &mut Value) -> Result<(), Cause> {
        if !has_node_ports(service) {
            return Ok(());
        }
        let range = self.allocator.ports.clone();
        let Some(ports) = service["spec"]["ports"].as_array_mut() else { return Ok(()) };
        // Fixed ones first, so that an automatic one never takes what a later port asks for.
        for (index, port) in ports.iter().enumerate() {
            let Some(number) = port["nodePort"].as_u64().filter(|number| *number > 0) else { continue };
            let field = format!("spec.ports[{index}].nodePort");
            let known = u16::try_from(number).ok().filter(|number| range.contains(number));
            let Some(known) = known else {
                let text = format!(
                    "provided port is not in the valid range. The range of valid ports is {}-{}",
                    range.start(),
                    range.end()
                );
                return Err(Cause::invalid(field, &number.into(), text));
            };
            if !self.take(Item::Port(known, protocol(port))) {
                return Err(Cause::invalid(field, &number.into(), "provided port is already allocated"));
            }
        }
        for (index, port) in ports.iter_mut().enumerate() {
            if port["nodePort"].as_u64().is_some_and(|number| number > 0) {
                continue;
            }
            let start = rand::rng().random_range(range.clone());
            let mut order = (start..=*range.end()).chain(*range.start()..start);
            let protocol = protocol(port);
            let Some(number) = order.find(|number| self.take(Item::Port(*number, protocol.clone()))) else {
                let field = format!("spec.ports[{index}].nodePort");
                return Err(Cause::invalid(
                    field,
                    &Value::Null,
                    "failed to allocate a nodePort: range is full",
                ));
            };
            port["nodePort"] = number.into();
        }
        Ok(())
    }
}
