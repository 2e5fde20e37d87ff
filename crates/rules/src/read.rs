//! Encoded messages taken apart, as far as rules need it.

use std::borrow::Cow;

use prost::encoding::{WireType, decode_key, decode_varint};

use crate::tables::Type;

/// A value, as it is on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    /// What a field has that is not set.
    pub(crate) fn empty(kind: Type) -> Self {
        match kind {
            Type::Double | Type::Fixed64 | Type::SignedFixed64 => Self::Fixed64(0),
            Type::Float | Type::Fixed32 | Type::SignedFixed32 => Self::Fixed32(0),
            Type::Signed | Type::Unsigned | Type::ZigZag => Self::Varint(0),
            _ => Self::Bytes(&[]),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Varint(number) | Self::Fixed64(number) => *number == 0,
            Self::Fixed32(number) => *number == 0,
            Self::Bytes(bytes) => bytes.is_empty(),
        }
    }

    /// Bytes or a text.
    pub(crate) fn bytes(&self) -> &'a [u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            _ => &[],
        }
    }

    /// A text; also of the key of a map, which may be a number.
    pub(crate) fn text(&self) -> Cow<'a, str> {
        match self {
            Self::Varint(number) | Self::Fixed64(number) => number.to_string().into(),
            Self::Fixed32(number) => number.to_string().into(),
            Self::Bytes(bytes) => String::from_utf8_lossy(bytes),
        }
    }

    /// The value inside a wrapper, or this one.
    pub(crate) fn unwrapped(&self, kind: Type) -> (Self, Type) {
        let inner = match kind {
            Type::WrappedDouble => Type::Double,
            Type::WrappedFloat => Type::Float,
            Type::WrappedSigned => Type::Signed,
            Type::WrappedUnsigned => Type::Unsigned,
            Type::WrappedText => Type::Text,
            Type::WrappedBytes => Type::Bytes,
            _ => return (*self, kind),
        };
        let value = fields(self.bytes())
            .and_then(|fields| fields.into_iter().rev().find(|(number, _)| *number == 1))
            .map_or_else(|| Self::empty(inner), |(_, value)| value);
        (value, inner)
    }

    /// The number that it is; of a duration its seconds.
    pub(crate) fn number(&self, kind: Type) -> f64 {
        match (self, kind) {
            (Self::Bytes(bytes), Type::Duration) => {
                let part = |wanted| {
                    let fields = fields(bytes).unwrap_or_default();
                    let value = fields.into_iter().rev().find(|(number, _)| *number == wanted);
                    value.map_or(0.0, |(_, value)| value.number(Type::Signed))
                };
                part(1) + part(2) / 1e9
            }
            (Self::Varint(number), Type::Signed) => number.cast_signed() as f64,
            (Self::Varint(number), Type::ZigZag) => {
                ((number >> 1).cast_signed() ^ -(number & 1).cast_signed()) as f64
            }
            (Self::Varint(number), _) => *number as f64,
            (Self::Fixed64(bits), Type::Double) => f64::from_bits(*bits),
            (Self::Fixed64(number), Type::SignedFixed64) => number.cast_signed() as f64,
            (Self::Fixed64(number), _) => *number as f64,
            (Self::Fixed32(bits), Type::Float) => f64::from(f32::from_bits(*bits)),
            (Self::Fixed32(number), Type::SignedFixed32) => f64::from(number.cast_signed()),
            (Self::Fixed32(number), _) => f64::from(*number),
            (Self::Bytes(_), _) => 0.0,
        }
    }
}

/// The fields of a message by number, as they come; none where it is no message.
pub(crate) fn fields(mut bytes: &[u8]) -> Option<Vec<(u32, Value<'_>)>> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let (number, wire) = decode_key(&mut bytes).ok()?;
        out.push((number, value(wire, &mut bytes)?));
    }
    Some(out)
}

fn value<'a>(wire: WireType, bytes: &mut &'a [u8]) -> Option<Value<'a>> {
    Some(match wire {
        WireType::Varint => Value::Varint(decode_varint(bytes).ok()?),
        WireType::SixtyFourBit => Value::Fixed64(u64::from_le_bytes(*take(bytes)?)),
        WireType::ThirtyTwoBit => Value::Fixed32(u32::from_le_bytes(*take(bytes)?)),
        WireType::LengthDelimited => {
            let length = usize::try_from(decode_varint(bytes).ok()?).ok()?;
            let (taken, rest) = bytes.split_at_checked(length)?;
            *bytes = rest;
            Value::Bytes(taken)
        }
        WireType::StartGroup | WireType::EndGroup => return None,
    })
}

fn take<'a, const N: usize>(bytes: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(taken)
}

/// The numbers of a packed list.
pub(crate) fn unpack<'a>(kind: Type, packed: &Value<'a>) -> Vec<Value<'a>> {
    let &Value::Bytes(mut bytes) = packed else { return vec![*packed] };
    let wire = match Value::empty(kind) {
        Value::Fixed64(_) => WireType::SixtyFourBit,
        Value::Fixed32(_) => WireType::ThirtyTwoBit,
        _ => WireType::Varint,
    };
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let Some(value) = value(wire, &mut bytes) else { break };
        out.push(value);
    }
    out
}
