//! `google.protobuf.Struct` and `envoy.config.core.v3.Metadata` without protobuf.

use lateen_envoy::envoy::config::core::v3 as core;
use lateen_envoy::envoy::r#type::metadata::v3 as key;
use lateen_envoy::google::protobuf;

use crate::metadata::{Metadata, Struct, Value};

pub(crate) fn value(value: protobuf::Value) -> Value {
    use protobuf::value::Kind;
    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(value)) => Value::Bool(value),
        Some(Kind::NumberValue(number)) => Value::Number(number),
        Some(Kind::StringValue(text)) => Value::String(text.into()),
        Some(Kind::ListValue(list)) => Value::List(list.values.into_iter().map(self::value).collect()),
        Some(Kind::StructValue(fields)) => Value::Struct(structure(fields)),
    }
}

pub(crate) fn structure(fields: protobuf::Struct) -> Struct {
    fields.fields.into_iter().map(|(name, field)| (name, value(field))).collect()
}

pub(crate) fn metadata(message: core::Metadata) -> Metadata {
    let mut out = Metadata::default();
    for (filter, fields) in message.filter_metadata {
        out.merge(&filter, structure(fields));
    }
    out
}

/// The filter and the path of a `MetadataKey`.
pub(crate) fn path(key: key::MetadataKey) -> (Box<str>, Vec<Box<str>>) {
    use key::metadata_key::path_segment::Segment;
    let names = key.path.into_iter().filter_map(|segment| match segment.segment {
        Some(Segment::Key(name)) => Some(name.into()),
        // Places in lists have no name; nothing is at such a path.
        Some(Segment::Index(at)) => Some(format!("[{at}]").into()),
        None => None,
    });
    (key.key.into(), names.collect())
}
