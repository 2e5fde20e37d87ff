//! Clusters of a sidecar's own application: connections keep their destination and come from 127.0.0.6.

use std::time::Duration;

use super::{INBOUND_PASSTHROUGH, Marks, inbound_bind, inbound_name, original_destination, settings};
use crate::InboundPort;
use crate::proto::{self, cluster};

pub(super) fn application(port: &InboundPort, timeout: Duration, marks: Marks) -> cluster::Cluster {
    let mut message = original_destination(&inbound_name(port.number), timeout);
    message.upstream_bind_config = Some(inbound_bind(marks));
    message.metadata = Some(proto::istio_metadata(serde_json::json!({
        "services": [{
            "host": port.service.as_str(),
            "name": port.service.split('.').next(),
            "namespace": port.namespace.as_str(),
        }],
    })));
    settings::protocol(&mut message, port.protocol, None);
    message
}

pub(super) fn passthrough(timeout: Duration, marks: Marks) -> cluster::Cluster {
    let mut message = original_destination(INBOUND_PASSTHROUGH, timeout);
    message.upstream_bind_config = Some(inbound_bind(marks));
    settings::downstream_protocol(&mut message);
    message
}
