//! Messages to JSON, guided by the schema.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::Redaction;
use super::read::has_own_json_form;
use super::well_known::{write_duration, write_timestamp};
use crate::Any;
use crate::google::protobuf;
use crate::schema::{Field, Kind, Message};
use crate::wire::{self, MAX_DEPTH, Malformed, Raw};

const REDACTED: &str = "[redacted]";

pub(super) fn message(message: Message, bytes: &[u8], redaction: Redaction) -> Value {
    // The typed message was encoded by us, so a failure does not happen; it is not worth a panic either.
    in_mode(message, bytes, Mode::from(redaction), 0)
        .unwrap_or_else(|Malformed| json!({"value": STANDARD.encode(bytes)}))
}

pub(super) fn any(type_url: &str, value: &[u8], redaction: Redaction) -> Value {
    any_in_mode(type_url, value, Mode::from(redaction), 0)
}

/// What happens to the field being written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Plain,
    /// Sensitive fields further down are hidden.
    Guarded,
    /// Everything from here down is hidden.
    Hidden,
}

impl From<Redaction> for Mode {
    fn from(redaction: Redaction) -> Self {
        match redaction {
            Redaction::Nothing => Self::Plain,
            Redaction::Sensitive => Self::Guarded,
        }
    }
}

impl Mode {
    fn inside(self, field: Field) -> Self {
        if self == Self::Guarded && field.is_sensitive() { Self::Hidden } else { self }
    }
}

fn any_in_mode(type_url: &str, value: &[u8], mode: Mode, depth: u32) -> Value {
    let mut object = Map::new();
    if type_url.is_empty() && value.is_empty() {
        return Value::Object(object);
    }
    object.insert("@type".into(), type_url.into());
    let known = Message::named(type_url)
        .and_then(|message| Some((message, in_mode(message, value, mode, depth + 1).ok()?)));
    match known {
        Some((message, Value::Object(fields))) if !has_own_json_form(message.full_name()) => {
            object.extend(fields);
        }
        Some((_, other)) => {
            object.insert("value".into(), other);
        }
        // Nothing tells what is in it, so nothing of it is shown where something might be sensitive.
        None if mode == Mode::Hidden => {
            object.insert("value".into(), STANDARD.encode(REDACTED).into());
        }
        None => {
            object.insert("value".into(), STANDARD.encode(value).into());
        }
    }
    Value::Object(object)
}

fn in_mode(message: Message, bytes: &[u8], mode: Mode, depth: u32) -> Result<Value, Malformed> {
    if depth > MAX_DEPTH {
        return Err(Malformed);
    }
    Ok(match message.full_name() {
        "google.protobuf.Any" => {
            let any = typed::<Any>(bytes)?;
            any_in_mode(&any.type_url, &any.value, mode, depth)
        }
        // A value by itself could be anything, so hidden it is text.
        "google.protobuf.Struct" | "google.protobuf.Value" | "google.protobuf.ListValue"
            if mode == Mode::Hidden =>
        {
            REDACTED.into()
        }
        "google.protobuf.Struct" => Value::Object(typed::<protobuf::Struct>(bytes)?.into()),
        "google.protobuf.Value" => typed::<protobuf::Value>(bytes)?.into(),
        "google.protobuf.ListValue" => {
            typed::<protobuf::ListValue>(bytes)?.values.into_iter().map(Value::from).collect()
        }
        // A duration or time out of range has no JSON form.
        "google.protobuf.Duration" => write_duration(&typed(bytes)?).ok_or(Malformed)?.into(),
        "google.protobuf.Timestamp" => write_timestamp(&typed(bytes)?).ok_or(Malformed)?.into(),
        name if has_own_json_form(name) && name != "google.protobuf.Empty" => wrapped(message, bytes, mode)?,
        _ => {
            let mut object = Map::new();
            for set in wire::decode(message, bytes)? {
                let value = field(set.field, &set.values, mode.inside(set.field), depth)?;
                object.insert(set.field.name().to_owned(), value);
            }
            Value::Object(object)
        }
    })
}

fn typed<M: prost::Message + Default>(bytes: &[u8]) -> Result<M, Malformed> {
    M::decode(bytes).map_err(|_| Malformed)
}

/// The value of a wrapper such as `UInt32Value`.
fn wrapped(message: Message, bytes: &[u8], mode: Mode) -> Result<Value, Malformed> {
    let field = message.field(1).ok_or(Malformed)?;
    match wire::decode(message, bytes)?.first() {
        Some(set) => scalar(set.values.first().ok_or(Malformed)?, field.kind(), mode, 0),
        None => scalar(&Raw::default_of(field.kind()), field.kind(), mode, 0),
    }
}

fn field(field: Field, values: &[Raw<'_>], mode: Mode, depth: u32) -> Result<Value, Malformed> {
    if field.is_map() {
        let mut entries = Vec::new();
        for entry in wire::map(field, values)? {
            entries.push((entry.key_text()?, scalar(&entry.value, entry.value_kind, mode, depth)?));
        }
        entries.sort_by(|left, right| left.0.cmp(&right.0));
        return Ok(entries.into_iter().collect());
    }
    if field.is_repeated() {
        return values.iter().map(|item| scalar(item, field.kind(), mode, depth)).collect();
    }
    scalar(values.first().ok_or(Malformed)?, field.kind(), mode, depth)
}

fn scalar(raw: &Raw<'_>, kind: Kind, mode: Mode, depth: u32) -> Result<Value, Malformed> {
    let hidden = mode == Mode::Hidden;
    Ok(match (kind, raw) {
        (Kind::Message(message), raw) => in_mode(message, raw.bytes()?, mode, depth + 1)?,
        (Kind::String, _) if hidden => REDACTED.into(),
        (Kind::Bytes, _) if hidden => STANDARD.encode(REDACTED).into(),
        (Kind::Bool, _) if hidden => false.into(),
        _ if hidden => 0.into(),
        (Kind::String, raw) => raw.text()?.into(),
        (Kind::Bytes, raw) => STANDARD.encode(raw.bytes()?).into(),
        (Kind::Bool, Raw::Varint(number)) => (*number != 0).into(),
        // Through text, so that 0.1 stays 0.1.
        (Kind::Float, Raw::Fixed32(bits)) => {
            let number = f32::from_bits(*bits);
            float(number.to_string().parse().unwrap_or(f64::from(number)))
        }
        (Kind::Double, Raw::Fixed64(bits)) => float(f64::from_bits(*bits)),
        (Kind::Enum(enumeration), Raw::Varint(number)) => match enumeration.name_of(*number as i32) {
            _ if enumeration.full_name() == "google.protobuf.NullValue" => Value::Null,
            Some(name) => name.into(),
            None => (*number as i32).into(),
        },
        (kind, raw) => {
            let number = wire::integer(raw, kind).ok_or(Malformed)?;
            match kind {
                // JavaScript has no 64-bit integers, so the form of such a number is a string.
                Kind::Int64 | Kind::Uint64 | Kind::Sint64 | Kind::Fixed64 | Kind::Sfixed64 => {
                    number.to_string().into()
                }
                _ => i64::try_from(number).map_err(|_| Malformed)?.into(),
            }
        }
    })
}

fn float(number: f64) -> Value {
    if number.is_nan() {
        "NaN".into()
    } else if number.is_infinite() {
        if number > 0.0 { "Infinity".into() } else { "-Infinity".into() }
    } else if number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0 {
        (number as i64).into()
    } else {
        number.into()
    }
}
