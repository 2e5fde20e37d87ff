//! Names of resources in state-of-the-world responses, which carry bodies only.

use prost::encoding::{WireType, decode_key, decode_varint};

/// The name inside an encoded resource: the text in field 1, which is where every resource type of xDS has it
/// (`Listener.name`, `ClusterLoadAssignment.cluster_name`, ...). `None` where there is no such text.
pub fn resource_name(mut body: &[u8]) -> Option<&str> {
    while !body.is_empty() {
        let (field, wire_type) = decode_key(&mut body).ok()?;
        let length = match wire_type {
            WireType::Varint => {
                decode_varint(&mut body).ok()?;
                continue;
            }
            WireType::SixtyFourBit => 8,
            WireType::ThirtyTwoBit => 4,
            WireType::LengthDelimited => usize::try_from(decode_varint(&mut body).ok()?).ok()?,
            WireType::StartGroup | WireType::EndGroup => return None,
        };
        let value = body.get(..length)?;
        if field == 1 && wire_type == WireType::LengthDelimited {
            return std::str::from_utf8(value).ok();
        }
        body = &body[length..];
    }
    None
}

#[cfg(test)]
mod tests {
    use lateen_envoy::envoy::config::cluster::v3::Cluster;
    use lateen_envoy::envoy::config::endpoint::v3::ClusterLoadAssignment;
    use prost::Message;

    use super::*;

    #[test]
    fn names_are_found_in_field_one() {
        let cluster = Cluster { name: "a".into(), alt_stat_name: "b".into(), ..Default::default() };
        assert_eq!(resource_name(&cluster.encode_to_vec()), Some("a"));
        let endpoints = ClusterLoadAssignment { cluster_name: "c".into(), ..Default::default() };
        assert_eq!(resource_name(&endpoints.encode_to_vec()), Some("c"));
        let nameless = Cluster { alt_stat_name: "b".into(), ..Default::default() };
        assert_eq!(resource_name(&nameless.encode_to_vec()), None);
        assert_eq!(resource_name(b"\x0a\x05ab"), None, "cut short");
        assert_eq!(resource_name(b"\xff"), None, "broken");
    }
}
