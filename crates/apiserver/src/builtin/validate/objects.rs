//! Services, endpoints, configuration and webhooks.

use super::names::is_label;
use super::*;

impl Findings {
    // === services ===

    pub(super) fn service(&mut self, object: &Value, old: Option<&Value>) {
        let name = name(object);
        self.name(
            object,
            is_label(name, 63) && !name.starts_with(|first: char| first.is_ascii_digit()),
            LABEL_1035,
        );
        let (spec, path) = (&object["spec"], Path::Root.field("spec"));
        let types = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
        self.one_of(&path.field("type"), &spec["type"], &types);
        self.one_of(&path.field("sessionAffinity"), &spec["sessionAffinity"], &["ClientIP", "None"]);
        let ports = list(&spec["ports"]);
        let headless = spec["clusterIP"] == "None";
        let external = spec["type"] == "ExternalName";
        if ports.is_empty() && !headless && !external {
            self.required(&path.field("ports"), "");
        }
        if external && spec["externalName"].as_str().unwrap_or_default().is_empty() {
            self.required(&path.field("externalName"), "");
        }
        let mut names: Vec<&str> = Vec::new();
        let mut numbers: Vec<(&Value, &Value)> = Vec::new();
        for (index, port) in ports.iter().enumerate() {
            let all = path.field("ports");
            let place = all.index(index);
            let name = port["name"].as_str().unwrap_or_default();
            if name.is_empty() && ports.len() > 1 {
                self.required(&place.field("name"), "");
            } else if !name.is_empty() && !is_label(name, 63) {
                self.invalid(&place.field("name"), &port["name"], LABEL);
            } else if !name.is_empty() && names.contains(&name) {
                self.duplicate(&place.field("name"), &port["name"]);
            }
            names.push(name);
            self.port(&place.field("port"), &port["port"]);
            self.port(&place.field("targetPort"), &port["targetPort"]);
            self.port(&place.field("nodePort"), &port["nodePort"]);
            self.one_of(&place.field("protocol"), &port["protocol"], &["SCTP", "TCP", "UDP"]);
            let pair = (&port["port"], &port["protocol"]);
            if numbers.contains(&pair) {
                self.duplicate(&place, &serde_json::json!({"port": pair.0, "protocol": pair.1}));
            }
            numbers.push(pair);
        }
        self.labels(&spec["selector"], &path.field("selector"));
        if let Some(old) =
            old.map(|old| &old["spec"]).filter(|old| old["type"] != "ExternalName" && !external)
        {
            let (new_address, old_address) = (&spec["clusterIP"], &old["clusterIP"]);
            if !old_address.as_str().unwrap_or_default().is_empty() {
                self.immutable(&path.field("clusterIP"), new_address, old_address);
            }
        }
    }

    pub(super) fn endpoint_slice(&mut self, object: &Value, old: Option<&Value>) {
        let place = Path::Root.field("addressType");
        match object["addressType"].as_str().unwrap_or_default() {
            "" => self.required(&place, ""),
            _ => self.one_of(&place, &object["addressType"], &["FQDN", "IPv4", "IPv6"]),
        }
        if let Some(old) = old {
            self.immutable(&place, &object["addressType"], &old["addressType"]);
        }
        for (index, endpoint) in list(&object["endpoints"]).iter().enumerate() {
            let endpoints = Path::Root.field("endpoints");
            let here = endpoints.index(index);
            let addresses = here.field("addresses");
            if list(&endpoint["addresses"]).is_empty() {
                self.required(&addresses, "must contain at least 1 address");
            }
            for (index, address) in list(&endpoint["addresses"]).iter().enumerate() {
                let text = address.as_str().unwrap_or_default();
                let valid = match object["addressType"].as_str() {
                    Some("IPv4") => text.parse::<std::net::Ipv4Addr>().is_ok(),
                    Some("IPv6") => text.parse::<std::net::Ipv6Addr>().is_ok(),
                    _ => true,
                };
                if !valid {
                    self.invalid(
                        &addresses.index(index),
                        address,
                        "must be a valid IP address of the slice's type",
                    );
                }
            }
        }
    }

    pub(super) fn data(&mut self, kind: &str, object: &Value, old: Option<&Value>) {
        for field in ["data", "binaryData"] {
            for key in object[field].as_object().into_iter().flat_map(|map| map.keys()) {
                let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
                if key.is_empty() || key.len() > 253 || !key.bytes().all(fine) || key == "." || key == ".." {
                    let text = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
                    let parent = Path::Root.field(field);
                    self.invalid(&parent.key(key), &Value::from(key.as_str()), text);
                }
            }
        }
        let Some(old) = old else { return };
        if old["immutable"] == true {
            for field in ["data", "binaryData", "immutable"] {
                if object[field] != old[field] {
                    self.0.push(Cause::forbidden(field, "field is immutable when `immutable` is set"));
                }
            }
        }
        if kind == "Secret" {
            self.immutable(&Path::Root.field("type"), &object["type"], &old["type"]);
        }
    }

    // === webhooks ===

    pub(super) fn webhooks(&mut self, object: &Value) {
        let mut names: Vec<&Value> = Vec::new();
        for (index, webhook) in list(&object["webhooks"]).iter().enumerate() {
            let webhooks = Path::Root.field("webhooks");
            let place = webhooks.index(index);
            let name = webhook["name"].as_str().unwrap_or_default();
            if name.split('.').count() < 3 {
                let text = "should be a domain with at least three segments separated by dots";
                self.invalid(&place.field("name"), &webhook["name"], text);
            }
            if names.contains(&&webhook["name"]) {
                self.duplicate(&place.field("name"), &webhook["name"]);
            }
            names.push(&webhook["name"]);
            self.one_of(&place.field("failurePolicy"), &webhook["failurePolicy"], &["Fail", "Ignore"]);
            self.one_of(&place.field("matchPolicy"), &webhook["matchPolicy"], &["Equivalent", "Exact"]);
            self.one_of(&place.field("sideEffects"), &webhook["sideEffects"], &["None", "NoneOnDryRun"]);
            if webhook["timeoutSeconds"].as_i64().is_some_and(|seconds| !(1..=30).contains(&seconds)) {
                let text = "the timeout value must be between 1 and 30 seconds";
                self.invalid(&place.field("timeoutSeconds"), &webhook["timeoutSeconds"], text);
            }
            if !list(&webhook["matchConditions"]).is_empty() {
                let text = "this server does not evaluate match conditions; use rules and selectors";
                self.0.push(Cause::forbidden(place.field("matchConditions").to_string(), text));
            }
            let client = &webhook["clientConfig"];
            if client["url"].is_null() == client["service"].is_null() {
                self.required(&place.field("clientConfig"), "exactly one of url or service is required");
            }
            let versions = list(&webhook["admissionReviewVersions"]);
            if !versions.iter().any(|version| version == "v1") {
                let text = "must include at least one of v1";
                self.invalid(
                    &place.field("admissionReviewVersions"),
                    &webhook["admissionReviewVersions"],
                    text,
                );
            }
        }
    }
}
