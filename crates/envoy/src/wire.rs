//! The wire format taken apart by the schema, for what handles messages without their Rust types.

use std::borrow::Cow;
use std::collections::BTreeMap;

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use crate::schema::{Field, Kind, Message};

/// How deep messages may lie in each other, as in prost's own decoders.
pub(crate) const MAX_DEPTH: u32 = 100;

/// Bytes that are not a message of the type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// A value, as it is on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Raw<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(Cow<'a, [u8]>),
}

impl Raw<'_> {
    /// Bytes, a message, or a text.
    pub(crate) fn bytes(&self) -> Result<&[u8], Malformed> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(Malformed),
        }
    }

    pub(crate) fn text(&self) -> Result<&str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed)
    }

    /// What a field without presence has when it is not set.
    fn is_default(&self) -> bool {
        match self {
            Self::Varint(number) | Self::Fixed64(number) => *number == 0,
            Self::Fixed32(number) => *number == 0,
            Self::Bytes(bytes) => bytes.is_empty(),
        }
    }

    /// The default of a kind: what a map's entry has that leaves out its key or value.
    pub(crate) fn default_of(kind: Kind) -> Raw<'static> {
        match kind {
            Kind::String | Kind::Bytes | Kind::Message(_) => Raw::Bytes(Cow::Borrowed(&[])),
            Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => Raw::Fixed64(0),
            Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => Raw::Fixed32(0),
            _ => Raw::Varint(0),
        }
    }
}

/// A field that is set.
#[derive(Debug)]
pub(crate) struct Set<'a> {
    pub(crate) field: Field,
    /// One, unless the field is repeated.
    pub(crate) values: Vec<Raw<'a>>,
}

/// The fields that are set, in the order of their numbers. Fields that the schema does not know are left out.
pub(crate) fn decode(message: Message, mut bytes: &[u8]) -> Result<Vec<Set<'_>>, Malformed> {
    let mut set: BTreeMap<u32, Set<'_>> = BTreeMap::new();
    while !bytes.is_empty() {
        let (number, wire) = decode_key(&mut bytes).map_err(|_| Malformed)?;
        let Some(field) = message.field(number) else {
            skip_field(wire, number, &mut bytes, DecodeContext::default()).map_err(|_| Malformed)?;
            continue;
        };
        let kind = field.kind();
        if let Some(oneof) = field.oneof() {
            // Of a oneof's fields the last one counts.
            set.retain(|other, entry| *other == number || entry.field.oneof() != Some(oneof));
        }
        let values = &mut set.entry(number).or_insert(Set { field, values: Vec::new() }).values;
        if field.is_repeated() && wire == WireType::LengthDelimited && wire_type(kind) != wire {
            let mut packed = length_delimited(&mut bytes)?;
            while !packed.is_empty() {
                values.push(value(wire_type(kind), &mut packed)?);
            }
            continue;
        }
        if wire != wire_type(kind) {
            return Err(Malformed);
        }
        let value = value(wire, &mut bytes)?;
        match values.first_mut() {
            Some(Raw::Bytes(first)) if !field.is_repeated() && matches!(kind, Kind::Message(_)) => {
                // The bytes of two messages in a row are those of the merged one.
                first.to_mut().extend_from_slice(value.bytes()?);
            }
            Some(first) if !field.is_repeated() => *first = value,
            _ => values.push(value),
        }
    }
    let is_set = |entry: &Set<'_>| match entry.values.as_slice() {
        [] => false,
        [value] => entry.field.is_repeated() || entry.field.supports_presence() || !value.is_default(),
        _ => true,
    };
    Ok(set.into_values().filter(is_set).collect())
}

/// Keys and values of a map; of equal keys the last one counts. The keys are sorted by their bytes or numbers.
pub(crate) fn map<'a>(field: Field, entries: &'a [Raw<'a>]) -> Result<Vec<MapEntry<'a>>, Malformed> {
    let Kind::Message(entry) = field.kind() else { return Err(Malformed) };
    let kind_of = |number| entry.field(number).map(Field::kind).ok_or(Malformed);
    let (key_kind, value_kind) = (kind_of(1)?, kind_of(2)?);
    let mut sorted: BTreeMap<(u64, Vec<u8>), MapEntry<'a>> = BTreeMap::new();
    for raw in entries {
        let mut pair = MapEntry {
            key_kind,
            key: Raw::default_of(key_kind),
            value_kind,
            value: Raw::default_of(value_kind),
        };
        for mut part in decode(entry, raw.bytes()?)? {
            let Some(value) = part.values.pop() else { continue };
            if part.field.number() == 1 { pair.key = value } else { pair.value = value }
        }
        let order = match &pair.key {
            Raw::Varint(number) | Raw::Fixed64(number) => (*number, Vec::new()),
            Raw::Fixed32(number) => (u64::from(*number), Vec::new()),
            Raw::Bytes(text) => (0, text.to_vec()),
        };
        sorted.insert(order, pair);
    }
    Ok(sorted.into_values().collect())
}

/// An entry of a map.
#[derive(Debug)]
pub(crate) struct MapEntry<'a> {
    pub(crate) key_kind: Kind,
    pub(crate) key: Raw<'a>,
    pub(crate) value_kind: Kind,
    pub(crate) value: Raw<'a>,
}

impl MapEntry<'_> {
    /// The key as the JSON form has it.
    pub(crate) fn key_text(&self) -> Result<String, Malformed> {
        Ok(match (&self.key, self.key_kind) {
            (Raw::Bytes(_), _) => self.key.text()?.to_owned(),
            (Raw::Varint(number), Kind::Bool) => (*number != 0).to_string(),
            (raw, kind) => integer(raw, kind).ok_or(Malformed)?.to_string(),
        })
    }
}

/// The number that a value of an integer kind is.
pub(crate) fn integer(raw: &Raw<'_>, kind: Kind) -> Option<i128> {
    Some(match (raw, kind) {
        (Raw::Varint(number), Kind::Uint64) => i128::from(*number),
        (Raw::Varint(number), Kind::Uint32) => i128::from(*number as u32),
        (Raw::Varint(number), Kind::Int64) => i128::from(number.cast_signed()),
        (Raw::Varint(number), Kind::Int32 | Kind::Enum(_)) => i128::from(*number as i32),
        (Raw::Varint(number), Kind::Sint32 | Kind::Sint64) => {
            i128::from((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
        }
        (Raw::Fixed64(number), Kind::Fixed64) => i128::from(*number),
        (Raw::Fixed64(number), Kind::Sfixed64) => i128::from(number.cast_signed()),
        (Raw::Fixed32(number), Kind::Fixed32) => i128::from(*number),
        (Raw::Fixed32(number), Kind::Sfixed32) => i128::from(number.cast_signed()),
        _ => return None,
    })
}

/// How a kind is written, outside of a packed list.
pub(crate) fn wire_type(kind: Kind) -> WireType {
    match kind {
        Kind::String | Kind::Bytes | Kind::Message(_) => WireType::LengthDelimited,
        Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => WireType::SixtyFourBit,
        Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => WireType::ThirtyTwoBit,
        _ => WireType::Varint,
    }
}

fn value<'a>(wire: WireType, bytes: &mut &'a [u8]) -> Result<Raw<'a>, Malformed> {
    Ok(match wire {
        WireType::Varint => Raw::Varint(decode_varint(bytes).map_err(|_| Malformed)?),
        WireType::SixtyFourBit => Raw::Fixed64(u64::from_le_bytes(*take(bytes)?)),
        WireType::ThirtyTwoBit => Raw::Fixed32(u32::from_le_bytes(*take(bytes)?)),
        WireType::LengthDelimited => Raw::Bytes(Cow::Borrowed(length_delimited(bytes)?)),
        WireType::StartGroup | WireType::EndGroup => return Err(Malformed),
    })
}

fn take<'a, const N: usize>(bytes: &mut &'a [u8]) -> Result<&'a [u8; N], Malformed> {
    let (taken, rest) = bytes.split_first_chunk().ok_or(Malformed)?;
    *bytes = rest;
    Ok(taken)
}

fn length_delimited<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let length = usize::try_from(decode_varint(bytes).map_err(|_| Malformed)?).map_err(|_| Malformed)?;
    let (taken, rest) = bytes.split_at_checked(length).ok_or(Malformed)?;
    *bytes = rest;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::envoy::config::cluster::v3::Cluster;

    fn cluster() -> Message {
        Message::named("envoy.config.cluster.v3.Cluster").unwrap()
    }

    fn set(bytes: &[u8]) -> Vec<(&'static str, usize)> {
        decode(cluster(), bytes).unwrap().iter().map(|set| (set.field.name(), set.values.len())).collect()
    }

    #[test]
    fn set_fields_come_in_order_and_unknown_ones_are_skipped() {
        // Field 1000 is nobody's; `name` is written after `lb_policy`; `http2_protocol_options` was never set.
        let bytes = [&[0xc0, 0x3e, 1][..], &[48, 5], &[10, 1, b'a'], &[10, 1, b'b']].concat();
        assert_eq!(set(&bytes), [("name", 1), ("lb_policy", 1)]);
        let decoded = decode(cluster(), &bytes).unwrap();
        assert_eq!(decoded[0].values[0].text(), Ok("b"), "the last one counts");
    }

    #[test]
    fn zero_is_set_only_where_presence_is_supported() {
        assert_eq!(set(&[48, 0]), []);
        // `type` is in a oneof.
        assert_eq!(set(&[16, 0]), [("type", 1)]);
    }

    #[test]
    fn the_last_of_a_oneof_counts() {
        assert_eq!(set(&[&[16, 1][..], &[0xb2, 2, 0]].concat()), [("cluster_type", 1)]);
    }

    #[test]
    fn parts_of_a_message_are_merged() {
        // connect_timeout {seconds: 1}, connect_timeout {nanos: 2}
        let bytes = [&[34, 2, 8, 1][..], &[34, 2, 16, 2]].concat();
        let decoded = decode(cluster(), &bytes).unwrap();
        assert_eq!(decoded[0].values[0].bytes(), Ok(&[8, 1, 16, 2][..]));
        assert_eq!(Cluster::decode(bytes.as_slice()).unwrap().connect_timeout.unwrap().nanos, 2);
    }

    #[test]
    fn what_ends_early_or_has_another_type_is_malformed() {
        for bytes in [&[10][..], &[10, 5, b'a'], &[48], &[8, 1], &[33, 0], &[0x80]] {
            assert_eq!(decode(cluster(), bytes).err(), Some(Malformed), "{bytes:?}");
        }
    }

    #[test]
    fn packed_and_separate_numbers_are_the_same() {
        let range = Message::named("envoy.config.route.v3.RetryPolicy").unwrap();
        let field = range.field_named("retriable_status_codes").unwrap();
        let key = (field.number() << 3) as u8;
        let separate = [key, 5, key, 6];
        let packed = [key | 2, 2, 5, 6];
        for bytes in [&separate[..], &packed] {
            assert_eq!(decode(range, bytes).unwrap()[0].values, [Raw::Varint(5), Raw::Varint(6)]);
        }
    }
}
