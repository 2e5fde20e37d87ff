//! JSON to the wire format, guided by the schema.
//!
//! The wire format is written directly: a dynamic message in between would keep maps in random order, and the bytes of
//! a nested `Any` would differ from run to run.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use serde_json::{Map, Value};

use super::JsonError;
use super::path::Path;
use super::well_known::{read_duration, read_timestamp};
use crate::Any;
use crate::google::protobuf;
use crate::pack::type_name;
use crate::schema::{Enumeration, Field, Kind, Message as MessageType};
use crate::wire::wire_type;

const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

pub(super) fn encode(descriptor: MessageType, json: &Value) -> Result<Bytes, JsonError> {
    let mut buffer = Vec::new();
    message(descriptor, json, &Path::ROOT, &mut buffer)?;
    Ok(buffer.into())
}

pub(super) fn any(json: &Value) -> Result<Any, JsonError> {
    any_at(json, &Path::ROOT)
}

fn message(
    descriptor: MessageType,
    json: &Value,
    path: &Path<'_>,
    buffer: &mut Vec<u8>,
) -> Result<(), JsonError> {
    match descriptor.full_name() {
        "google.protobuf.Any" => {
            buffer.extend(any_at(json, path)?.encode_to_vec());
            Ok(())
        }
        "google.protobuf.Struct" => {
            let object = as_object(json, path)?.clone();
            buffer.extend(protobuf::Struct::from(object).encode_to_vec());
            Ok(())
        }
        "google.protobuf.Value" => {
            buffer.extend(protobuf::Value::from(json.clone()).encode_to_vec());
            Ok(())
        }
        "google.protobuf.ListValue" => {
            let Value::Array(items) = json else { return Err(mismatch(path, "a list", json)) };
            let values = items.iter().cloned().map(protobuf::Value::from).collect();
            buffer.extend(protobuf::ListValue { values }.encode_to_vec());
            Ok(())
        }
        "google.protobuf.Duration" => {
            let duration = read_duration(text(json, path)?).map_err(|reason| path.error(reason))?;
            buffer.extend(duration.encode_to_vec());
            Ok(())
        }
        "google.protobuf.Timestamp" => {
            let time = read_timestamp(text(json, path)?).map_err(|reason| path.error(reason))?;
            buffer.extend(time.encode_to_vec());
            Ok(())
        }
        name if has_own_json_form(name) && name != "google.protobuf.Empty" => {
            // The wrappers.
            let field = descriptor.field(1).ok_or_else(|| path.error("is no wrapper"))?;
            unless_default(1, field.kind(), json, path, buffer)
        }
        _ => fields(descriptor, as_object(json, path)?, path, buffer),
    }
}

/// Well-known types whose JSON form is not an object of their fields.
pub(super) fn has_own_json_form(full_name: &str) -> bool {
    full_name.strip_prefix("google.protobuf.").is_some_and(|name| {
        matches!(name, "Any" | "Struct" | "Value" | "ListValue" | "Duration" | "Timestamp" | "Empty")
            || name.ends_with("Value") && !name.contains('.') && name != "EnumValue"
    })
}

fn fields(
    descriptor: MessageType,
    object: &Map<String, Value>,
    path: &Path<'_>,
    buffer: &mut Vec<u8>,
) -> Result<(), JsonError> {
    let mut set: Vec<(Field, &str, &Value)> = Vec::with_capacity(object.len());
    for (name, value) in object {
        // `@type` belongs to the `Any` around this message.
        if name == "@type" && path.is_any_value() {
            continue;
        }
        let field = descriptor
            .field_named(name)
            .ok_or_else(|| path.field(name).error(unknown_field(descriptor, name)))?;
        if !value.is_null() || is_nullable(field) {
            set.push((field, name, value));
        }
    }
    set.sort_by_key(|(field, ..)| field.number());
    for pair in set.windows(2) {
        if pair[0].0.number() == pair[1].0.number() {
            return Err(path.field(pair[1].1).error(format!("set twice, as {} too", pair[0].1)));
        }
    }
    for (index, (field, name, value)) in set.iter().enumerate() {
        let path = path.field(name);
        if let Some(oneof) = field.oneof()
            && let Some((_, other, _)) = set[..index].iter().find(|(other, ..)| other.oneof() == Some(oneof))
        {
            return Err(path.error(format!("cannot be set together with {other}")));
        }
        self::field(*field, value, &path, buffer)?;
    }
    Ok(())
}

fn field(field: Field, json: &Value, path: &Path<'_>, buffer: &mut Vec<u8>) -> Result<(), JsonError> {
    let (number, kind) = (field.number(), field.kind());
    if field.is_map() {
        return map(field, as_object(json, path)?, path, buffer);
    }
    if !field.is_repeated() {
        // A field without presence is not written when it is zero: then equal messages have equal bytes.
        return match field.supports_presence() {
            true => tagged(number, kind, json, path, buffer),
            false => unless_default(number, kind, json, path, buffer),
        };
    }
    let Value::Array(items) = json else { return Err(mismatch(path, "a list", json)) };
    if field.is_packed() {
        let mut packed = Vec::new();
        for (index, item) in items.iter().enumerate() {
            value(kind, item, &path.index(index), &mut packed)?;
        }
        if !packed.is_empty() {
            length_delimited(number, &packed, buffer);
        }
        return Ok(());
    }
    for (index, item) in items.iter().enumerate() {
        tagged(number, kind, item, &path.index(index), buffer)?;
    }
    Ok(())
}

fn map(
    field: Field,
    object: &Map<String, Value>,
    path: &Path<'_>,
    buffer: &mut Vec<u8>,
) -> Result<(), JsonError> {
    let Kind::Message(entry) = field.kind() else { return Err(path.error("is no map")) };
    let (Some(key_field), Some(value_field)) = (entry.field(1), entry.field(2)) else {
        return Err(path.error("is no map"));
    };
    let mut entries: Vec<(&String, &Value)> = object.iter().collect();
    entries.sort_by_key(|(key, _)| *key);
    for (key, item) in entries {
        let path = path.key(key);
        let key_json = match key_field.kind() {
            Kind::Bool => Value::Bool(key.parse().map_err(|_| path.error("the key is no boolean"))?),
            _ => Value::String(key.clone()),
        };
        let mut pair = Vec::new();
        unless_default(1, key_field.kind(), &key_json, &path, &mut pair)?;
        unless_default(2, value_field.kind(), item, &path, &mut pair)?;
        length_delimited(field.number(), &pair, buffer);
    }
    Ok(())
}

fn tagged(
    number: u32,
    kind: Kind,
    json: &Value,
    path: &Path<'_>,
    buffer: &mut Vec<u8>,
) -> Result<(), JsonError> {
    if let Kind::Message(descriptor) = kind {
        let mut inner = Vec::new();
        message(descriptor, json, path, &mut inner)?;
        length_delimited(number, &inner, buffer);
        return Ok(());
    }
    encode_key(number, wire_type(kind), buffer);
    value(kind, json, path, buffer)
}

/// A scalar, without its key.
fn value(kind: Kind, json: &Value, path: &Path<'_>, buffer: &mut Vec<u8>) -> Result<(), JsonError> {
    match kind {
        Kind::Bool => match json {
            Value::Bool(flag) => buffer.push(u8::from(*flag)),
            _ => return Err(mismatch(path, "true or false", json)),
        },
        Kind::String => match json {
            Value::String(text) => raw(text.as_bytes(), buffer),
            _ => return Err(mismatch(path, "a string", json)),
        },
        Kind::Bytes => match json {
            Value::String(text) => raw(&base64_bytes(text, path)?, buffer),
            _ => return Err(mismatch(path, "a string in base64", json)),
        },
        Kind::Double => buffer.extend(float(json, path)?.to_le_bytes()),
        Kind::Float => buffer.extend((float(json, path)? as f32).to_le_bytes()),
        // Negative 32-bit values are sign-extended to ten bytes on the wire.
        Kind::Int32 => encode_varint(i64::from(integer::<i32>(json, path)?).cast_unsigned(), buffer),
        Kind::Int64 => encode_varint(integer::<i64>(json, path)?.cast_unsigned(), buffer),
        Kind::Uint32 => encode_varint(u64::from(integer::<u32>(json, path)?), buffer),
        Kind::Uint64 => encode_varint(integer::<u64>(json, path)?, buffer),
        Kind::Sint32 => {
            let number = integer::<i32>(json, path)?;
            encode_varint(u64::from(((number << 1) ^ (number >> 31)).cast_unsigned()), buffer);
        }
        Kind::Sint64 => {
            let number = integer::<i64>(json, path)?;
            encode_varint(((number << 1) ^ (number >> 63)).cast_unsigned(), buffer);
        }
        Kind::Fixed32 => buffer.extend(integer::<u32>(json, path)?.to_le_bytes()),
        Kind::Fixed64 => buffer.extend(integer::<u64>(json, path)?.to_le_bytes()),
        Kind::Sfixed32 => buffer.extend(integer::<i32>(json, path)?.to_le_bytes()),
        Kind::Sfixed64 => buffer.extend(integer::<i64>(json, path)?.to_le_bytes()),
        Kind::Enum(descriptor) => {
            encode_varint(i64::from(enumeration(descriptor, json, path)?).cast_unsigned(), buffer);
        }
        Kind::Message(_) => return Err(path.error("a message cannot be packed")),
    }
    Ok(())
}

fn any_at(json: &Value, path: &Path<'_>) -> Result<Any, JsonError> {
    let object = as_object(json, path)?;
    let Some(type_url) = object.get("@type") else {
        // An empty object is an empty `Any`, as protobuf's own readers take it.
        if object.is_empty() {
            return Ok(Any::default());
        }
        return Err(path.error("lacks \"@type\", which says what message this is"));
    };
    let Value::String(type_url) = type_url else {
        return Err(mismatch(&path.field("@type"), "a string", type_url));
    };
    let Some(descriptor) = MessageType::named(type_url) else {
        // What `to_json` writes for a type it does not know.
        if let (2, Some(Value::String(text))) = (object.len(), object.get("value"))
            && let Ok(value) = base64::engine::general_purpose::STANDARD.decode(text)
        {
            return Ok(Any { type_url: type_url.clone(), value: value.into() });
        }
        return Err(path.field("@type").error(format!("unknown message type {:?}", type_name(type_url))));
    };
    let mut value = Vec::new();
    if has_own_json_form(descriptor.full_name()) {
        let inner = object.get("value").ok_or_else(|| path.error("lacks \"value\""))?;
        message(descriptor, inner, &path.field("value"), &mut value)?;
    } else {
        message(descriptor, json, &path.any_value(), &mut value)?;
    }
    Ok(Any { type_url: type_url.clone(), value: value.into() })
}

fn enumeration(descriptor: Enumeration, json: &Value, path: &Path<'_>) -> Result<i32, JsonError> {
    match json {
        Value::String(name) => descriptor.number_of(name).ok_or_else(|| {
            let names: Vec<&str> = descriptor.values().take(16).map(|(name, _)| name).collect();
            path.error(format!("{name:?} is none of {}", names.join(", ")))
        }),
        Value::Number(_) => integer::<i32>(json, path),
        // google.protobuf.NullValue
        Value::Null => Ok(0),
        _ => Err(mismatch(path, "the name of a value", json)),
    }
}

fn integer<T: TryFrom<i128>>(json: &Value, path: &Path<'_>) -> Result<T, JsonError> {
    let wide = match json {
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(number), ..) => Some(i128::from(number)),
            (_, Some(number), _) => Some(i128::from(number)),
            (.., Some(number)) if number.fract() == 0.0 && number.abs() < 1e19 => Some(number as i128),
            _ => None,
        },
        // 64-bit numbers are strings in this form, since JavaScript has none.
        Value::String(text) => text.parse::<i128>().ok(),
        _ => None,
    };
    let wide = wide.ok_or_else(|| mismatch(path, "a whole number", json))?;
    T::try_from(wide).map_err(|_| path.error(format!("{wide} does not fit into the field")))
}

fn text<'a>(json: &'a Value, path: &Path<'_>) -> Result<&'a str, JsonError> {
    match json {
        Value::String(text) => Ok(text),
        _ => Err(mismatch(path, "a string", json)),
    }
}

fn float(json: &Value, path: &Path<'_>) -> Result<f64, JsonError> {
    match json {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            text => text.parse().ok(),
        },
        _ => None,
    }
    .ok_or_else(|| mismatch(path, "a number", json))
}

fn base64_bytes(text: &str, path: &Path<'_>) -> Result<Vec<u8>, JsonError> {
    STANDARD
        .decode(text)
        .or_else(|_| URL_SAFE.decode(text))
        .map_err(|error| path.error(format!("is not base64: {error}")))
}

fn raw(bytes: &[u8], buffer: &mut Vec<u8>) {
    encode_varint(bytes.len() as u64, buffer);
    buffer.extend(bytes);
}

fn length_delimited(number: u32, bytes: &[u8], buffer: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, buffer);
    raw(bytes, buffer);
}

/// Like [`tagged`], but writes nothing for the default of the kind.
fn unless_default(
    number: u32,
    kind: Kind,
    json: &Value,
    path: &Path<'_>,
    buffer: &mut Vec<u8>,
) -> Result<(), JsonError> {
    let start = buffer.len();
    tagged(number, kind, json, path, buffer)?;
    let written = &buffer[start..];
    let key = written.iter().take_while(|byte| **byte & 0x80 != 0).count() + 1;
    // The default of every kind is written as zeros; for text, bytes and messages that is the length. (`-0.0` has a
    // bit set, and is not the default.)
    if written[key..].iter().all(|byte| *byte == 0) {
        buffer.truncate(start);
    }
    Ok(())
}

fn is_nullable(field: Field) -> bool {
    match field.kind() {
        Kind::Message(message) => message.full_name() == "google.protobuf.Value",
        Kind::Enum(descriptor) => descriptor.full_name() == "google.protobuf.NullValue",
        _ => false,
    }
}

fn as_object<'a>(json: &'a Value, path: &Path<'_>) -> Result<&'a Map<String, Value>, JsonError> {
    match json {
        Value::Object(object) => Ok(object),
        _ => Err(mismatch(path, "an object", json)),
    }
}

fn mismatch(path: &Path<'_>, expected: &str, found: &Value) -> JsonError {
    let found = match found {
        Value::Null => "nothing".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("the string {text:?}"),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    };
    path.error(format!("expected {expected} but found {found}"))
}

fn unknown_field(descriptor: MessageType, name: &str) -> String {
    let best = descriptor
        .fields()
        .map(|field| (distance(field.name(), name), field.name()))
        .min()
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4);
    match best {
        Some((_, candidate)) => {
            format!("{} has no such field; did you mean {candidate}?", descriptor.full_name())
        }
        None => format!("{} has no such field", descriptor.full_name()),
    }
}

/// Levenshtein's distance.
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.bytes().enumerate() {
            let substituted = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[right.len()]
}
