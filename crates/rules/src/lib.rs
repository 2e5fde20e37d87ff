//! The rules that Envoy's protocol definitions carry (protoc-gen-validate), and a check of messages against them.
//!
//! Envoy refuses a message that breaks one of its rules: a name that is missing, a number out of its range, a value that
//! its enumeration does not have. The rules are in the `.proto` files; the build script writes them as tables, and
//! [`check`] walks an encoded message by these. As in Envoy, what lies in an `Any` is not looked into: whoever unpacks it
//! checks it.

mod read;
mod rule;
mod tables;

use lateen_envoy::TypeUrl;

use read::Value;
use tables::{Field, Message};

/// How deep messages may lie in each other, as in the decoders.
const MAX_DEPTH: u32 = 100;

/// A rule that is broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The field, `filter_chains[0].filter_chain_match.destination_port`.
    pub path: String,
    /// What it must be.
    pub message: String,
}

/// Checks a message; the first rule that it breaks, in the order of the fields.
pub fn check<M: prost::Message + TypeUrl>(message: &M) -> Result<(), Violation> {
    check_bytes(M::TYPE_URL, &message.encode_to_vec())
}

/// As [`check`], for a message of this type URL that is encoded. What cannot be decoded breaks no rule here.
pub fn check_bytes(type_url: &str, bytes: &[u8]) -> Result<(), Violation> {
    let name = type_url.rsplit('/').next().unwrap_or(type_url);
    match Message::named(name) {
        Some(message) => walk(message, bytes, &Path { outer: None, step: Step::Field("") }, 0),
        None => Ok(()),
    }
}

/// Where the walk is. It becomes text only when a rule is broken.
struct Path<'a> {
    outer: Option<&'a Path<'a>>,
    step: Step<'a>,
}

enum Step<'a> {
    Field(&'static str),
    Index(usize),
    Key(&'a str),
}

impl Path<'_> {
    fn write(&self, out: &mut String) {
        if let Some(outer) = self.outer {
            outer.write(out);
        }
        match self.step {
            Step::Field(name) => {
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(name);
            }
            Step::Index(index) => out.push_str(&format!("[{index}]")),
            Step::Key(key) => out.push_str(&format!("[{key:?}]")),
        }
    }

    fn broken(&self, message: impl Into<String>) -> Violation {
        let mut path = String::new();
        self.write(&mut path);
        Violation { path, message: message.into() }
    }

    fn then<'a>(&'a self, step: Step<'a>) -> Path<'a> {
        Path { outer: Some(self), step }
    }
}

fn walk(message: Message, bytes: &[u8], path: &Path<'_>, depth: u32) -> Result<(), Violation> {
    if depth > MAX_DEPTH {
        return Ok(());
    }
    let Some(set) = read::fields(bytes) else { return Ok(()) };
    for field in message.fields() {
        let values: Vec<&Value<'_>> =
            set.iter().filter(|(number, _)| *number == field.number).map(|(_, value)| value).collect();
        let path = path.then(Step::Field(field.name()));
        if field.map {
            pairs(field, &values, &path, depth)?;
        } else if field.repeated {
            items(field, &values, &path, depth)?;
        } else {
            // Of a field that is there twice the last one counts, and messages are merged: they are looked at each.
            single(field, values.last().copied(), &path, depth)?;
        }
    }
    for oneof in message.oneofs() {
        if !set.iter().any(|(number, _)| oneof.has(*number)) {
            return Err(path.broken(format!("say what it is; one of: {}", oneof.fields())));
        }
    }
    Ok(())
}

fn single(field: &Field, value: Option<&Value<'_>>, path: &Path<'_>, depth: u32) -> Result<(), Violation> {
    let Some(value) = value else {
        if field.required {
            return Err(path.broken("this field is required; set it"));
        }
        // A field that knows whether it is set breaks no rule when it is not.
        return match field.optional {
            true => Ok(()),
            false => rule::check(field.rules(), field.kind, &Value::empty(field.kind))
                .map_err(|why| path.broken(why)),
        };
    };
    rule::check(field.rules(), field.kind, value).map_err(|why| path.broken(why))?;
    inside(field, value, path, depth)
}

fn inside(field: &Field, value: &Value<'_>, path: &Path<'_>, depth: u32) -> Result<(), Violation> {
    match (field.message(), value) {
        (Some(inner), Value::Bytes(bytes)) => walk(inner, bytes, path, depth + 1),
        _ => Ok(()),
    }
}

fn items(field: &Field, values: &[&Value<'_>], path: &Path<'_>, depth: u32) -> Result<(), Violation> {
    let unpacked: Vec<Value<'_>>;
    let values: Vec<&Value<'_>> = match values {
        [Value::Bytes(_), ..] if field.kind.is_packed() => {
            unpacked = values.iter().flat_map(|value| read::unpack(field.kind, value)).collect();
            unpacked.iter().collect()
        }
        _ => values.to_vec(),
    };
    rule::check_list(field.rules(), &values).map_err(|why| path.broken(why))?;
    for (at, value) in values.iter().enumerate() {
        let path = path.then(Step::Index(at));
        rule::check(field.value_rules(), field.kind, value).map_err(|why| path.broken(why))?;
        inside(field, value, &path, depth)?;
    }
    Ok(())
}

fn pairs(field: &Field, values: &[&Value<'_>], path: &Path<'_>, depth: u32) -> Result<(), Violation> {
    rule::check_list(field.rules(), values).map_err(|why| path.broken(why))?;
    for value in values {
        let Value::Bytes(entry) = value else { continue };
        let Some(parts) = read::fields(entry) else { continue };
        let part = |wanted| parts.iter().rev().find(|(number, _)| *number == wanted).map(|(_, value)| value);
        let key = part(1).map(Value::text).unwrap_or_default();
        let path = path.then(Step::Key(&key));
        let empty = Value::empty(tables::Type::Text);
        rule::check(field.key_rules(), tables::Type::Text, part(1).unwrap_or(&empty))
            .map_err(|why| path.broken(why))?;
        if let Some(value) = part(2) {
            rule::check(field.value_rules(), field.kind, value).map_err(|why| path.broken(why))?;
            inside(field, value, &path, depth)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
