//! Access log lines as JSON objects (`json_format`): numbers stay numbers, metadata stay structs, keys are sorted.

use std::collections::BTreeMap;

use super::operator::Shape;
use super::{Format, Source};

/// A compiled JSON value.
#[derive(Debug, Clone)]
pub enum JsonFormat {
    /// Text with operators in it.
    Text(Format),
    /// A value without operators, as it is written.
    Literal(Box<str>),
    /// An object: keys as they are written, with quotes and colon.
    Object(Vec<(Box<str>, JsonFormat)>),
    /// A list.
    List(Vec<JsonFormat>),
}

impl JsonFormat {
    /// An object of named values.
    pub fn object(fields: BTreeMap<String, JsonFormat>) -> Self {
        let key = |name: &str| {
            let mut out = Vec::new();
            write_string(name.as_bytes(), &mut out);
            out.push(b':');
            String::from_utf8_lossy(&out).into_owned().into_boxed_str()
        };
        Self::Object(fields.into_iter().map(|(name, value)| (key(&name), value)).collect())
    }

    /// A text, or the format in it.
    pub fn text(format: Format) -> Self {
        match format.as_literal() {
            Some(text) => {
                let mut out = Vec::new();
                write_string(text, &mut out);
                Self::Literal(String::from_utf8_lossy(&out).into())
            }
            None => Self::Text(format),
        }
    }

    /// Appends the value. With `omit_empty`, keys without a value are left out.
    pub fn write(&self, source: &Source<'_>, omit_empty: bool, out: &mut Vec<u8>) {
        match self {
            Self::Literal(text) => out.extend_from_slice(text.as_bytes()),
            Self::Text(format) => write_text(format, source, omit_empty, out),
            Self::Object(fields) => {
                out.push(b'{');
                let mut first = true;
                for (key, value) in fields {
                    let start = out.len();
                    if !first {
                        out.push(b',');
                    }
                    out.extend_from_slice(key.as_bytes());
                    let at = out.len();
                    value.write(source, omit_empty, out);
                    if omit_empty && &out[at..] == b"null" {
                        out.truncate(start);
                    } else {
                        first = false;
                    }
                }
                out.push(b'}');
            }
            Self::List(values) => {
                out.push(b'[');
                for (index, value) in values.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    value.write(source, omit_empty, out);
                }
                out.push(b']');
            }
        }
    }
}

fn write_text(format: &Format, source: &Source<'_>, omit_empty: bool, out: &mut Vec<u8>) {
    let Some(operator) = format.as_operator() else {
        let mut text = Vec::with_capacity(64);
        if omit_empty {
            format.header_value(source, &mut text);
        } else {
            format.write(source, &mut text);
        }
        return write_string(&text, out);
    };
    let start = out.len();
    let known = match operator.operator.shape() {
        Shape::Number => operator.write(source, out),
        Shape::Json => operator.operator.write_json(source, out).is_some(),
        Shape::Text => {
            let mut text = Vec::with_capacity(64);
            let known = operator.write(source, &mut text);
            write_string(&text, out);
            known
        }
    };
    if !known {
        out.truncate(start);
        out.extend_from_slice(b"null");
    }
}

/// Appends a JSON string. Bytes that are no UTF-8 become U+FFFD.
pub(super) fn write_string(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for character in String::from_utf8_lossy(text).chars() {
        match character {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            control if control < ' ' || control == '\u{7f}' => {
                out.extend_from_slice(format!("\\u{:04x}", control as u32).as_bytes());
            }
            other => {
                let mut bytes = [0; 4];
                out.extend_from_slice(other.encode_utf8(&mut bytes).as_bytes());
            }
        }
    }
    out.push(b'"');
}
