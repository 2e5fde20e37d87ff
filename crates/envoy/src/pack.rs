//! Packing messages into `google.protobuf.Any` and back.

use bytes::Bytes;
use prost::{Message, Name};

use crate::Any;

/// The type URL of a message, known at compile time: usable in patterns and free of allocation.
pub trait TypeUrl: Name {
    /// `type.googleapis.com/` and the full name.
    const TYPE_URL: &'static str;
}

/// The wrappers, which appear as plain Rust values.
macro_rules! wrappers {
    ($($rust:ty => $name:literal),* $(,)?) => {
        $(impl TypeUrl for $rust {
            const TYPE_URL: &'static str = concat!("type.googleapis.com/google.protobuf.", $name);
        })*
    };
}

wrappers! {
    bool => "BoolValue",
    i32 => "Int32Value",
    i64 => "Int64Value",
    u32 => "UInt32Value",
    u64 => "UInt64Value",
    f32 => "FloatValue",
    f64 => "DoubleValue",
    String => "StringValue",
    Bytes => "BytesValue",
    () => "Empty",
}

/// Why an [`Any`] did not become the message that was asked for.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AnyError {
    /// The value is of another type.
    #[error("expected a {expected} but found a {actual:?}")]
    WrongType {
        /// The type URL asked for.
        expected: &'static str,
        /// The type URL found; empty where the `Any` is unset.
        actual: String,
    },
    /// The bytes are not a valid message of that type.
    #[error("the value of a {type_url} cannot be decoded: {source}")]
    Decode {
        /// The type URL of the value.
        type_url: &'static str,
        /// What the decoder found.
        source: prost::DecodeError,
    },
}

/// Packs a message.
pub fn to_any<M: Message + TypeUrl>(message: &M) -> Any {
    Any { type_url: M::TYPE_URL.to_owned(), value: Bytes::from(message.encode_to_vec()) }
}

/// Unpacks a message. As in Envoy only what follows the last slash of the type URL counts.
pub fn from_any<M: Message + TypeUrl + Default>(any: &Any) -> Result<M, AnyError> {
    if type_name(&any.type_url) != type_name(M::TYPE_URL) {
        return Err(AnyError::WrongType { expected: M::TYPE_URL, actual: any.type_url.clone() });
    }
    // Decoding from `Bytes` shares the buffer with every `bytes` field inside.
    M::decode(any.value.clone()).map_err(|source| AnyError::Decode { type_url: M::TYPE_URL, source })
}

pub(crate) fn type_name(type_url: &str) -> &str {
    type_url.rsplit('/').next().unwrap_or(type_url)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envoy::config::cluster::v3::{Cluster, cluster};
    use crate::envoy::config::listener::v3::Listener;

    #[test]
    fn a_packed_message_unpacks_to_itself_and_to_nothing_else() {
        let cluster = Cluster { name: "a".into(), ..Default::default() };
        let any = to_any(&cluster);
        assert_eq!(any.type_url, "type.googleapis.com/envoy.config.cluster.v3.Cluster");
        assert_eq!(from_any::<Cluster>(&any), Ok(cluster));
        let error = from_any::<Listener>(&any).unwrap_err().to_string();
        assert!(error.contains("v3.Listener") && error.contains("v3.Cluster"), "{error}");
    }

    #[test]
    fn type_urls_of_nested_messages_carry_the_outer_name() {
        assert_eq!(
            cluster::CustomClusterType::TYPE_URL,
            "type.googleapis.com/envoy.config.cluster.v3.Cluster.CustomClusterType"
        );
        assert_eq!(u32::TYPE_URL, "type.googleapis.com/google.protobuf.UInt32Value");
    }

    #[test]
    fn broken_bytes_are_an_error_that_names_the_type() {
        let any = Any { type_url: Cluster::TYPE_URL.into(), value: Bytes::from_static(b"\xff\xff") };
        let error = from_any::<Cluster>(&any).unwrap_err().to_string();
        assert!(error.contains("envoy.config.cluster.v3.Cluster"), "{error}");
    }

    #[test]
    fn the_value_of_an_any_shares_the_buffer_it_was_decoded_from() {
        let buffer =
            Bytes::from(to_any(&Cluster { name: "shared".into(), ..Default::default() }).encode_to_vec());
        let any = Any::decode(buffer.clone()).unwrap();
        let range = buffer.as_ptr_range();
        assert!(range.contains(&any.value.as_ptr()));
    }

    #[test]
    fn equal_messages_encode_to_equal_bytes_whatever_the_order_of_insertion() {
        use crate::envoy::config::core::v3::Metadata;
        use crate::google::protobuf::Struct;
        let keys: Vec<String> = (0..64).map(|number| format!("key-{number}")).collect();
        let metadata = |keys: &mut dyn Iterator<Item = &String>| Metadata {
            filter_metadata: keys.map(|key| (key.clone(), Struct::default())).collect(),
            ..Default::default()
        };
        let forward = metadata(&mut keys.iter()).encode_to_vec();
        assert_eq!(forward, metadata(&mut keys.iter().rev()).encode_to_vec());
    }
}
