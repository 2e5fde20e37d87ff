//! `transport_socket` and `transport_socket_matches` of clusters, and the metadata of hosts that selects among them.

use std::mem::take;

use lateen_envoy::envoy::config::cluster::v3 as proto;
use lateen_envoy::envoy::config::core::v3 as core;
use lateen_envoy::google::protobuf;

use crate::cluster::Discovery;
use crate::error::{Context, Result};
use crate::transport::{Label, Labels, TransportMatch, TransportSelection};

/// Where a host's metadata has the labels.
const NAMESPACE: &str = "envoy.transport_socket_match";

/// Whether a transport socket adds nothing to the bytes.
pub(crate) fn plain(socket: &core::TransportSocket) -> bool {
    match &socket.config_type {
        None => socket.name.contains("raw_buffer"),
        Some(core::transport_socket::ConfigType::TypedConfig(any)) => {
            any.type_url.ends_with(".raw_buffer.v3.RawBuffer")
        }
    }
}

/// The sockets of a cluster. TLS is not there yet: a cluster that no host could be reached through without it is
/// refused, and of any other the hosts that would need it are not used.
pub(crate) fn selection(
    context: &Context<'_>,
    value: &mut proto::Cluster,
    discovery: &Discovery,
) -> Result<TransportSelection> {
    if value.transport_socket_matcher.is_some() {
        return Err(context.field("transport_socket_matcher").error(
            "this way of choosing a transport socket is not supported; use transport_socket_matches",
        ));
    }
    let otherwise = value.transport_socket.take();
    let selection = TransportSelection {
        otherwise_plain: otherwise.as_ref().is_none_or(plain),
        matches: matches(&context.field("transport_socket_matches"), value)?,
    };
    let any_plain = selection.otherwise_plain || selection.matches.iter().any(|entry| entry.plain);
    let original_destination = matches!(discovery, Discovery::OriginalDestination { .. });
    // Hosts of an original destination come without metadata.
    if any_plain && (!original_destination || selection.is_plain_without_labels()) {
        if !selection.otherwise_plain {
            context.field("transport_socket").warn(UNUSED_HOSTS);
        }
        return Ok(selection);
    }
    match otherwise {
        Some(socket) if !plain(&socket) => Err(context
            .field("transport_socket")
            .error(format!("the transport socket `{}` is not supported yet; remove it", socket.name))),
        _ => Err(context.field("transport_socket_matches").error("TLS to upstreams is not supported yet")),
    }
}

const UNUSED_HOSTS: &str =
    "TLS to upstreams is not supported yet; hosts whose metadata select this socket are not used";

fn matches(context: &Context<'_>, value: &mut proto::Cluster) -> Result<Vec<TransportMatch>> {
    let mut matches = Vec::new();
    for (at, entry) in take(&mut value.transport_socket_matches).into_iter().enumerate() {
        let context = context.index(at);
        let plain = entry.transport_socket.as_ref().is_some_and(plain);
        if !plain {
            context.field("transport_socket").warn(UNUSED_HOSTS);
        }
        let mut labels = Labels::default();
        for (name, value) in entry.r#match.unwrap_or_default().fields {
            // A condition that is not understood must not be taken for one that holds.
            let label = label(value).ok_or_else(|| {
                context.field("match").field(&name).error("write a text, number or boolean")
            })?;
            labels.0.insert(name.into(), label);
        }
        matches.push(TransportMatch { labels, plain });
    }
    Ok(matches)
}

/// What metadata says about the transport socket. The rest are notes of the control plane.
pub(crate) fn labels_of(metadata: Option<core::Metadata>) -> Labels {
    let own = metadata.and_then(|mut metadata| metadata.filter_metadata.remove(NAMESPACE));
    // What is no label can fit none.
    let labels = own.into_iter().flat_map(|own| own.fields);
    Labels(labels.filter_map(|(name, value)| Some((name.into(), label(value)?))).collect())
}

fn label(value: protobuf::Value) -> Option<Label> {
    use protobuf::value::Kind;
    match value.kind? {
        Kind::StringValue(text) => Some(Label::Text(text.into())),
        Kind::BoolValue(flag) => Some(Label::Flag(flag)),
        Kind::NumberValue(number) => Some(Label::Number(number)),
        Kind::NullValue(_) | Kind::StructValue(_) | Kind::ListValue(_) => None,
    }
}
