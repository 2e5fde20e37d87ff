//! `transport_socket` and `transport_socket_matches` of clusters, and the metadata of hosts that selects among them.

use std::mem::take;

use lateen_envoy::envoy::config::cluster::v3 as proto;
use lateen_envoy::envoy::config::core::v3 as core;
use lateen_envoy::google::protobuf;

use super::tls::upstream_transport;
use crate::error::{Context, Result};
use crate::transport::{Label, Labels, TransportMatch, TransportSelection};

/// Where a host's metadata has the labels.
const NAMESPACE: &str = "envoy.transport_socket_match";

/// The sockets of a cluster.
pub(crate) fn selection(context: &Context<'_>, value: &mut proto::Cluster) -> Result<TransportSelection> {
    if value.transport_socket_matcher.is_some() {
        return Err(context.field("transport_socket_matcher").error(
            "this way of choosing a transport socket is not supported; use transport_socket_matches",
        ));
    }
    Ok(TransportSelection {
        otherwise: upstream_transport(&context.field("transport_socket"), value.transport_socket.take())?,
        matches: matches(&context.field("transport_socket_matches"), value)?,
    })
}

fn matches(context: &Context<'_>, value: &mut proto::Cluster) -> Result<Vec<TransportMatch>> {
    let mut matches = Vec::new();
    for (at, entry) in take(&mut value.transport_socket_matches).into_iter().enumerate() {
        let context = context.index(at);
        let transport = upstream_transport(&context.field("transport_socket"), entry.transport_socket)?;
        let mut labels = Labels::default();
        for (name, value) in entry.r#match.unwrap_or_default().fields {
            // A condition that is not understood must not be taken for one that holds.
            let label = label(value).ok_or_else(|| {
                context.field("match").field(&name).error("write a text, number or boolean")
            })?;
            labels.0.insert(name.into(), label);
        }
        matches.push(TransportMatch { labels, name: entry.name.into(), transport });
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
