//! Listeners of gateways: real ports.

use super::http::{Side, connection_manager, direction, discovered};
use super::{Common, any_address};
use crate::proto::{core, listener};

pub(super) fn listener(common: &Common, port: u16) -> listener::Listener {
    let name = format!("0.0.0.0_{port}");
    let routes = discovered(&format!("http.{port}"));
    let mut message = listener::Listener {
        address: Some(any_address(port)),
        filter_chains: vec![listener::FilterChain {
            filters: vec![connection_manager(common, Side::Gateway, format!("outbound_{name};"), routes)],
            ..Default::default()
        }],
        name,
        ..Default::default()
    };
    direction(&mut message, core::TrafficDirection::Outbound);
    message
}
