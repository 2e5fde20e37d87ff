//! Services: names of ports that tell their protocol (`IST0118`, `IST0150`).

use lateen_model::PortProtocol;
use serde_json::Value;

use super::context::Context;
use super::messages::{
    EXTERNAL_NAME_SERVICE_TYPE_INVALID_PORT_NAME, PORT_NAME_IS_NOT_UNDER_NAMING_CONVENTION,
};
use super::{Report, Resource};

/// Who makes the Services of gateways by itself.
const GATEWAY_CONTROLLERS: [&str; 3] =
    ["istio.io-gateway-controller", "istio.io-mesh-controller", "istio.io-eastwest-controller"];

pub(super) fn analyze(context: &Context<'_>, report: &mut Report) {
    for service in context.services() {
        let managed = service.labels.get("gateway.istio.io/managed");
        let made_for_gateway = managed.is_some_and(|by| GATEWAY_CONTROLLERS.contains(&by.as_str()));
        if !service.is_control_plane() && !made_for_gateway {
            ports(service, report);
        }
    }
}

fn ports(service: &Resource, report: &mut Report) {
    let external = service.spec()["type"] == "ExternalName";
    for (index, port) in service.spec()["ports"].as_array().into_iter().flatten().enumerate() {
        let text = |field: &str| port[field].as_str();
        let name = text("name").unwrap_or_default();
        let protocol = PortProtocol::declared(text("protocol").unwrap_or("TCP"), text("appProtocol"), name);
        if !protocol.is_unknown() && (!external || name != "tcp") {
            continue;
        }
        let path = format!("spec.ports[{index}]");
        if external {
            report.add(&EXTERNAL_NAME_SERVICE_TYPE_INVALID_PORT_NAME, service, &path, []);
            continue;
        }
        let target = match &port["targetPort"] {
            Value::String(name) => name.clone(),
            Value::Number(number) => number.to_string(),
            _ => "0".to_owned(),
        };
        let number = port["port"].as_i64().unwrap_or_default();
        let values = [name.into(), number.into(), target.into()];
        report.add(&PORT_NAME_IS_NOT_UNDER_NAMING_CONVENTION, service, &path, values);
    }
}
