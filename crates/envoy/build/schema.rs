//! Turns the descriptors into tables of plain numbers and one text, which `src/schema.rs` reads in place.
//!
//! A pool of descriptors costs every process tens of milliseconds and tens of megabytes at its start; these tables lie
//! in the program's read-only pages, hold no pointers that would have to be relocated, and cost nothing until used.

use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::path::Path;

use prost_reflect::{Cardinality, DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};

/// No oneof.
const NONE: u16 = u16::MAX;

/// Texts, each kept once.
#[derive(Default)]
struct Names {
    text: String,
    at: HashMap<String, u32>,
}

impl Names {
    /// Where the text is, and its length.
    fn place(&mut self, name: &str) -> [u8; 6] {
        let at = *self.at.entry(name.to_owned()).or_insert_with(|| {
            let at = self.text.len() as u32;
            self.text.push_str(name);
            at
        });
        let mut place = [0; 6];
        place[..4].copy_from_slice(&at.to_le_bytes());
        place[4..].copy_from_slice(&(name.len() as u16).to_le_bytes());
        place
    }
}

/// Writes `names.txt`, `messages.bin`, `fields.bin`, `enums.bin` and `values.bin`; `src/schema.rs` describes them.
pub fn write(descriptors: &[u8], out_dir: &Path) -> Result<(), Box<dyn Error>> {
    let pool = DescriptorPool::decode(descriptors)?;
    let sensitive = pool.get_extension_by_name("udpa.annotations.sensitive");
    let is_sensitive = |field: &FieldDescriptor| {
        sensitive
            .as_ref()
            .is_some_and(|annotation| field.options().get_extension(annotation).as_bool() == Some(true))
    };
    // By name, for they are looked up by binary search.
    let mut messages: Vec<MessageDescriptor> = pool.all_messages().collect();
    messages.sort_by(|left, right| left.full_name().cmp(right.full_name()));
    let mut enumerations: Vec<_> = pool.all_enums().collect();
    enumerations.sort_by(|left, right| left.full_name().cmp(right.full_name()));
    let message_index: HashMap<&str, u16> =
        messages.iter().zip(0..).map(|(message, index)| (message.full_name(), index)).collect();
    let enumeration_index: HashMap<&str, u16> =
        enumerations.iter().zip(0..).map(|(enumeration, index)| (enumeration.full_name(), index)).collect();
    u16::try_from(messages.len().max(enumerations.len()))?;

    let mut names = Names::default();
    let (mut message_table, mut field_table) = (Vec::new(), Vec::new());
    let mut count = 0u32;
    for message in &messages {
        let mut fields: Vec<FieldDescriptor> = message.fields().collect();
        fields.sort_by_key(FieldDescriptor::number);
        message_table.extend(names.place(message.full_name()));
        message_table.extend(u16::try_from(fields.len())?.to_le_bytes());
        message_table.extend(count.to_le_bytes());
        for field in &fields {
            let kind = field.kind();
            let of = match &kind {
                Kind::Message(inner) => message_index[inner.full_name()],
                Kind::Enum(inner) => enumeration_index[inner.full_name()],
                _ => 0,
            };
            let oneof = match field.containing_oneof().filter(|oneof| !oneof.is_synthetic()) {
                Some(oneof) => {
                    let index = message.oneofs().position(|other| other == oneof);
                    u16::try_from(index.ok_or("a oneof of another message")?)?
                }
                None => NONE,
            };
            let flags = u8::from(field.cardinality() == Cardinality::Repeated)
                | u8::from(field.is_map()) << 1
                | u8::from(field.is_packed()) << 2
                | u8::from(field.supports_presence()) << 3
                | u8::from(is_sensitive(field)) << 4;
            field_table.extend(names.place(field.name()));
            field_table.extend(names.place(field.json_name()));
            field_table.extend(field.number().to_le_bytes());
            field_table.extend(of.to_le_bytes());
            field_table.extend(oneof.to_le_bytes());
            field_table.extend([kind_number(&kind), flags]);
            count += 1;
        }
    }
    let (mut enumeration_table, mut value_table) = (Vec::new(), Vec::new());
    let mut count = 0u32;
    for enumeration in &enumerations {
        let values: Vec<_> = enumeration.values().collect();
        enumeration_table.extend(names.place(enumeration.full_name()));
        enumeration_table.extend(u16::try_from(values.len())?.to_le_bytes());
        enumeration_table.extend(count.to_le_bytes());
        for value in &values {
            value_table.extend(names.place(value.name()));
            value_table.extend(value.number().to_le_bytes());
            count += 1;
        }
    }
    fs::write(out_dir.join("names.txt"), names.text)?;
    fs::write(out_dir.join("messages.bin"), message_table)?;
    fs::write(out_dir.join("fields.bin"), field_table)?;
    fs::write(out_dir.join("enums.bin"), enumeration_table)?;
    fs::write(out_dir.join("values.bin"), value_table)?;
    Ok(())
}

/// The number of a kind, as in `google.protobuf.FieldDescriptorProto.Type`.
fn kind_number(kind: &Kind) -> u8 {
    match kind {
        Kind::Double => 1,
        Kind::Float => 2,
        Kind::Int64 => 3,
        Kind::Uint64 => 4,
        Kind::Int32 => 5,
        Kind::Fixed64 => 6,
        Kind::Fixed32 => 7,
        Kind::Bool => 8,
        Kind::String => 9,
        Kind::Message(_) => 11,
        Kind::Bytes => 12,
        Kind::Uint32 => 13,
        Kind::Enum(_) => 14,
        Kind::Sfixed32 => 15,
        Kind::Sfixed64 => 16,
        Kind::Sint32 => 17,
        Kind::Sint64 => 18,
    }
}
