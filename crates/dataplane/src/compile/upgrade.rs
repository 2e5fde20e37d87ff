//! `RouteAction.upgrade_configs`: which protocols a client may change to, and CONNECT.

use std::mem::take;

use lateen_envoy::envoy::config::core::v3::proxy_protocol_config::Version;
use lateen_envoy::envoy::config::route::v3 as proto;

use super::common::leftover;
use crate::error::Context;
use crate::route::ConnectTermination;

/// The `connect_config` of the CONNECT entry.
pub(crate) fn connect_terminated(
    context: &Context<'_>,
    action: &mut proto::RouteAction,
) -> Option<ConnectTermination> {
    let mut found = None;
    for (at, upgrade) in action.upgrade_configs.iter_mut().enumerate() {
        let Some(mut config) = upgrade.connect_config.take() else { continue };
        let context = context.field("upgrade_configs").index(at).field("connect_config");
        if !upgrade.upgrade_type.eq_ignore_ascii_case("CONNECT") {
            context.warn("only a CONNECT can end here; this has no effect");
            continue;
        }
        let proxy_protocol = config.proxy_protocol_config.take().map(|mut value| {
            let version = take(&mut value.version);
            leftover(&context.field("proxy_protocol_config"), &value);
            if version == Version::V2 as i32 { 2 } else { 1 }
        });
        leftover(&context, &config);
        found = Some(ConnectTermination { proxy_protocol });
    }
    found
}

/// Which upgrades are on or off for the route, in lower case.
pub(crate) fn upgrades(context: &Context<'_>, action: &mut proto::RouteAction) -> Vec<(Box<str>, bool)> {
    let entry = |(at, mut upgrade): (usize, proto::route_action::UpgradeConfig)| {
        let context = context.field("upgrade_configs").index(at);
        let name = take(&mut upgrade.upgrade_type).to_ascii_lowercase();
        let on = upgrade.enabled.take().unwrap_or(true);
        if on && name == "connect-udp" {
            context.warn("CONNECT-UDP is not supported; requests for it are refused");
            return (name.into(), false);
        }
        leftover(&context, &upgrade);
        (name.into(), on)
    };
    take(&mut action.upgrade_configs).into_iter().enumerate().map(entry).collect()
}
