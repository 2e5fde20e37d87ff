//! Connection managers (`HttpConnectionManagerConfig` of Envoy).

use lateen_envoy::envoy::extensions::filters::network::http_connection_manager::v3 as proto;
use lateen_envoy::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager as parts;

use super::source::config_source;
use crate::error::{Context, Result};

/// Refuses a connection manager whose fields contradict each other.
pub(crate) fn manager(context: &Context<'_>, value: &proto::HttpConnectionManager) -> Result<()> {
    if !value.original_ip_detection_extensions.is_empty() {
        for (name, set) in [
            ("use_remote_address", value.use_remote_address == Some(true)),
            ("xff_num_trusted_hops", value.xff_num_trusted_hops > 0),
        ] {
            if set {
                return Err(context.field(name).error(
                    "this and original_ip_detection_extensions exclude each other; remove one of them",
                ));
            }
        }
    }
    if value.strip_matching_host_port
        && matches!(value.strip_port_mode, Some(parts::StripPortMode::StripAnyHostPort(true)))
    {
        return Err(context
            .field("strip_matching_host_port")
            .error("this and strip_any_host_port exclude each other; remove one of them"));
    }
    let upgrades = value.upgrade_configs.iter().map(|upgrade| upgrade.upgrade_type.as_str());
    unique_upgrades(&context.field("upgrade_configs"), upgrades)?;
    if let Some(parts::RouteSpecifier::Rds(rds)) = &value.route_specifier
        && let Some(source) = &rds.config_source
    {
        config_source(&context.field("rds.config_source"), source)?;
    }
    Ok(())
}

/// Refuses two of one name; capital letters make no difference.
pub(crate) fn unique_upgrades<'a>(
    context: &Context<'_>,
    names: impl Iterator<Item = &'a str> + Clone,
) -> Result<()> {
    for (at, name) in names.clone().enumerate() {
        if names.clone().take(at).any(|before| before.eq_ignore_ascii_case(name)) {
            return Err(context
                .index(at)
                .field("upgrade_type")
                .error(format!("`{name}` is configured already; remove one of the two")));
        }
    }
    Ok(())
}
