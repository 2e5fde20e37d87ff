//! Messages to JSON, guided by descriptors.

use std::collections::HashSet;
use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage, SerializeOptions,
    Value as Field,
};
use serde_json::{Map, Value, json};

use super::Redaction;
use super::read::has_own_json_form;
use crate::Any;
use crate::google::protobuf;

const REDACTED: &str = "[redacted]";

pub(super) fn message(descriptor: &MessageDescriptor, bytes: &[u8], redaction: Redaction) -> Value {
    match DynamicMessage::decode(descriptor.clone(), bytes) {
        Ok(message) => dynamic(&message, Mode::from(redaction)),
        // The typed message was encoded by us, so this does not happen; it is not worth a panic either.
        Err(_) => json!({"value": STANDARD.encode(bytes)}),
    }
}

pub(super) fn any(type_url: &str, value: &[u8], redaction: Redaction) -> Value {
    any_in_mode(type_url, value, Mode::from(redaction))
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
    fn inside(self, field: &FieldDescriptor) -> Self {
        if self == Self::Guarded && is_sensitive(field) { Self::Hidden } else { self }
    }
}

fn any_in_mode(type_url: &str, value: &[u8], mode: Mode) -> Value {
    let mut object = Map::new();
    if type_url.is_empty() && value.is_empty() {
        return Value::Object(object);
    }
    object.insert("@type".into(), type_url.into());
    let known =
        super::descriptor(type_url).and_then(|descriptor| DynamicMessage::decode(descriptor, value).ok());
    match known {
        Some(message) => match dynamic(&message, mode) {
            Value::Object(fields) if !has_own_json_form(message.descriptor().full_name()) => {
                object.extend(fields);
            }
            other => {
                object.insert("value".into(), other);
            }
        },
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

fn dynamic(message: &DynamicMessage, mode: Mode) -> Value {
    let descriptor = message.descriptor();
    match descriptor.full_name() {
        "google.protobuf.Any" => match message.transcode_to::<Any>() {
            Ok(any) => any_in_mode(&any.type_url, &any.value, mode),
            Err(_) => json!({}),
        },
        // A value by itself could be anything, so hidden it is text.
        "google.protobuf.Struct" | "google.protobuf.Value" | "google.protobuf.ListValue"
            if mode == Mode::Hidden =>
        {
            REDACTED.into()
        }
        "google.protobuf.Struct" => match message.transcode_to::<protobuf::Struct>() {
            Ok(object) => Value::Object(object.into()),
            Err(_) => json!({}),
        },
        "google.protobuf.Value" => message.transcode_to::<protobuf::Value>().map_or(Value::Null, Value::from),
        "google.protobuf.ListValue" => match message.transcode_to::<protobuf::ListValue>() {
            Ok(list) => list.values.into_iter().map(Value::from).collect(),
            Err(_) => json!([]),
        },
        name if has_own_json_form(name) => {
            if mode == Mode::Hidden && matches!(name, "google.protobuf.StringValue") {
                return REDACTED.into();
            }
            if mode == Mode::Hidden && matches!(name, "google.protobuf.BytesValue") {
                return STANDARD.encode(REDACTED).into();
            }
            message
                .serialize_with_options(serde_json::value::Serializer, &SerializeOptions::new())
                // A duration or time out of range has no JSON form.
                .unwrap_or_else(|_| Value::String(STANDARD.encode(message.encode_to_vec())))
        }
        _ => {
            let mut object = Map::new();
            for (field, value) in message.fields() {
                let mode = mode.inside(&field);
                let value = match value {
                    Field::List(items) => {
                        Value::Array(items.iter().map(|item| scalar(item, &field.kind(), mode)).collect())
                    }
                    Field::Map(entries) => {
                        let Kind::Message(entry) = field.kind() else { continue };
                        let kind = entry.map_entry_value_field().kind();
                        let mut entries: Vec<_> =
                            entries.iter().map(|(key, item)| (key_text(key), item)).collect();
                        entries.sort_by(|left, right| left.0.cmp(&right.0));
                        entries.into_iter().map(|(key, item)| (key, scalar(item, &kind, mode))).collect()
                    }
                    single => scalar(single, &field.kind(), mode),
                };
                object.insert(field.name().to_owned(), value);
            }
            Value::Object(object)
        }
    }
}

fn scalar(value: &Field, kind: &Kind, mode: Mode) -> Value {
    let hidden = mode == Mode::Hidden;
    match value {
        Field::Message(message) => dynamic(message, mode),
        Field::String(_) if hidden => REDACTED.into(),
        Field::Bytes(_) if hidden => STANDARD.encode(REDACTED).into(),
        Field::Bool(_) if hidden => false.into(),
        Field::EnumNumber(_) if hidden => 0.into(),
        Field::I32(_) | Field::I64(_) | Field::U32(_) | Field::U64(_) | Field::F32(_) | Field::F64(_)
            if hidden =>
        {
            0.into()
        }
        Field::Bool(flag) => (*flag).into(),
        Field::I32(number) => (*number).into(),
        Field::U32(number) => (*number).into(),
        // JavaScript has no 64-bit integers, so the form of such a number is a string.
        Field::I64(number) => number.to_string().into(),
        Field::U64(number) => number.to_string().into(),
        // Through text, so that 0.1 stays 0.1.
        Field::F32(number) => float(number.to_string().parse().unwrap_or(f64::from(*number))),
        Field::F64(number) => float(*number),
        Field::String(text) => text.as_str().into(),
        Field::Bytes(bytes) => STANDARD.encode(bytes).into(),
        Field::EnumNumber(number) => match kind {
            Kind::Enum(descriptor) if descriptor.full_name() == "google.protobuf.NullValue" => Value::Null,
            Kind::Enum(descriptor) => match descriptor.get_value(*number) {
                Some(known) => known.name().into(),
                None => (*number).into(),
            },
            _ => (*number).into(),
        },
        Field::List(_) | Field::Map(_) => Value::Null,
    }
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

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(flag) => flag.to_string(),
        MapKey::I32(number) => number.to_string(),
        MapKey::I64(number) => number.to_string(),
        MapKey::U32(number) => number.to_string(),
        MapKey::U64(number) => number.to_string(),
        MapKey::String(text) => text.clone(),
    }
}

/// Whether the field carries `udpa.annotations.sensitive`.
fn is_sensitive(field: &FieldDescriptor) -> bool {
    static SENSITIVE: LazyLock<HashSet<String>> = LazyLock::new(|| {
        let pool = super::descriptors();
        let Some(annotation) = pool.get_extension_by_name("udpa.annotations.sensitive") else {
            return HashSet::new();
        };
        pool.all_messages()
            .flat_map(|message| message.fields().collect::<Vec<_>>())
            .filter(|field| field.options().get_extension(&annotation).as_bool() == Some(true))
            .map(|field| field.full_name().to_owned())
            .collect()
    });
    SENSITIVE.contains(field.full_name())
}
