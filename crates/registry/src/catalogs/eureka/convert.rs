//! Eureka's instances as those of the mesh.

use std::collections::{BTreeMap, BTreeSet};

use lateen_model::{Health, Locality};
use serde_json::Value;

use super::{InstanceInfo, PortInfo};
use crate::catalogs::service::{Instance, InstancePort};

impl InstanceInfo {
    /// The services that it is an instance of: its virtual addresses, else its application.
    pub(super) fn service_names(&self, application: &str) -> BTreeSet<String> {
        let listed = [&self.vip_address, &self.secure_vip_address];
        let names: BTreeSet<String> = listed
            .into_iter()
            .flatten()
            .flat_map(|list| list.split(','))
            .map(|name| name.trim().to_ascii_lowercase())
            .filter(|name| !name.is_empty())
            .collect();
        if names.is_empty() { [application.to_ascii_lowercase()].into() } else { names }
    }

    /// The instance.
    pub(super) fn instance(&self) -> Instance {
        let labels: BTreeMap<String, String> = self
            .metadata
            .iter()
            .flatten()
            // `@class` is Java's, and no label.
            .filter(|(name, _)| !name.starts_with('@'))
            .map(|(name, value)| (name.clone(), text(value)))
            .collect();
        let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
        let address = if self.ip_addr.is_empty() { &self.host_name } else { &self.ip_addr };
        let protocol = label("protocol");
        let mut ports = Vec::new();
        if let Some(number) = self.port.number() {
            let protocol = if protocol.is_empty() { "http".to_owned() } else { protocol };
            let service_port = label("service-port").parse().unwrap_or_default();
            ports.push(InstancePort { name: label("port-name"), number, protocol, service_port });
        }
        if let Some(number) = self.secure_port.number() {
            ports.push(InstancePort { number, protocol: "https".into(), ..InstancePort::default() });
        }
        Instance {
            addresses: vec![address.clone()],
            ports,
            locality: self.locality(&labels),
            network: label("network"),
            service_account: label("service-account"),
            health: match self.status.as_str() {
                "UP" => Health::Healthy,
                // Taken out of service by its operators, who wait for it to become idle.
                "OUT_OF_SERVICE" => Health::Draining,
                _ => Health::Unhealthy,
            },
            labels,
            weight: 0,
        }
    }

    /// The metadata's `region` and `zone`, else Amazon's zone, whose last letter is not of the region's name.
    fn locality(&self, labels: &BTreeMap<String, String>) -> Locality {
        let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
        let center = self.data_center_info.metadata.as_ref();
        let amazon = center.and_then(|center| center.get("availability-zone")).map(text).unwrap_or_default();
        let zone = if label("zone").is_empty() { amazon.clone() } else { label("zone") };
        let region = if label("region").is_empty() {
            amazon.trim_end_matches(|letter: char| letter.is_ascii_lowercase()).to_owned()
        } else {
            label("region")
        };
        Locality { region, zone, subzone: String::new() }
    }
}

impl PortInfo {
    /// The number, where the port is enabled.
    fn number(&self) -> Option<u16> {
        let number = text(&self.number).parse().ok().filter(|number| *number != 0);
        number.filter(|_| text(&self.enabled).eq_ignore_ascii_case("true"))
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn info(change: Value) -> InstanceInfo {
        let mut info = json!({
            "instanceId": "host:reviews:9080", "hostName": "host", "app": "REVIEWS", "ipAddr": "10.0.0.1",
            "status": "UP", "overriddenStatus": "UNKNOWN", "port": {"$": 9080, "@enabled": "true"},
            "securePort": {"$": 443, "@enabled": "false"}, "countryId": 1,
            "dataCenterInfo": {"@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn"},
            "metadata": {"@class": "java.util.Collections$EmptyMap", "version": "v1"},
            "vipAddress": "reviews", "secureVipAddress": "reviews", "actionType": "ADDED"});
        for (field, value) in change.as_object().unwrap() {
            info[field] = value.clone();
        }
        serde_json::from_value(info).unwrap()
    }

    #[test]
    fn an_instance() {
        let got = info(json!({})).instance();
        assert_eq!(got.addresses, ["10.0.0.1"]);
        assert_eq!(got.labels, [("version".to_owned(), "v1".to_owned())].into());
        let ports: Vec<(u16, &str)> =
            got.ports.iter().map(|port| (port.number, port.protocol.as_str())).collect();
        assert_eq!(ports, [(9080, "http")]);
    }

    #[test]
    fn statuses() {
        for (status, expected) in [
            ("UP", Health::Healthy),
            ("DOWN", Health::Unhealthy),
            ("STARTING", Health::Unhealthy),
            ("UNKNOWN", Health::Unhealthy),
            ("OUT_OF_SERVICE", Health::Draining),
        ] {
            assert_eq!(info(json!({"status": status})).instance().health, expected, "{status}");
        }
    }

    #[test]
    fn ports_zones_and_names() {
        let both =
            info(json!({"securePort": {"$": "8443", "@enabled": true}, "metadata": {"protocol": "grpc"}}));
        let instance = both.instance();
        let ports: Vec<(u16, &str)> =
            instance.ports.iter().map(|port| (port.number, port.protocol.as_str())).collect();
        assert_eq!(ports, [(9080, "grpc"), (8443, "https")]);
        for (name, change, region, zone) in [
            (
                "amazon",
                json!({"dataCenterInfo": {"name": "Amazon", "metadata": {"availability-zone": "us-east-1c"}}}),
                "us-east-1",
                "us-east-1c",
            ),
            ("metadata", json!({"metadata": {"zone": "z1", "region": "r"}}), "r", "z1"),
            ("nothing", json!({"metadata": null}), "", ""),
        ] {
            let locality = info(change).instance().locality;
            assert_eq!((locality.region.as_str(), locality.zone.as_str()), (region, zone), "{name}");
        }
        for (name, change, expected) in [
            ("one", json!({}), vec!["reviews"]),
            ("several", json!({"vipAddress": "a, B", "secureVipAddress": "s"}), vec!["a", "b", "s"]),
            ("none", json!({"vipAddress": null, "secureVipAddress": ""}), vec!["reviews"]),
        ] {
            let got: Vec<String> = info(change).service_names("REVIEWS").into_iter().collect();
            assert_eq!(got, expected, "{name}");
        }
    }
}
