//! The tables that the build script writes. They hold numbers alone; texts are places in one text.

use crate::rule::Rule;

/// A place in [`TEXT`]: start and length.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text(u32, u16);

impl Text {
    pub(crate) fn get(self) -> &'static str {
        &TEXT[self.0 as usize..self.0 as usize + usize::from(self.1)]
    }
}

/// Rows of a table: the first one and their number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Range(u32, u16);

impl Range {
    fn of<T>(self, table: &'static [T]) -> &'static [T] {
        &table[self.0 as usize..self.0 as usize + usize::from(self.1)]
    }

    /// Of the table of numbers.
    pub(crate) fn numbers(self) -> &'static [i64] {
        self.of(&NUMBERS)
    }
}

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "not every kind occurs in every version of the definitions")]
pub(crate) enum Type {
    Double,
    Float,
    Signed,
    Unsigned,
    ZigZag,
    Fixed32,
    Fixed64,
    SignedFixed32,
    SignedFixed64,
    Text,
    Bytes,
    Duration,
    WrappedDouble,
    WrappedFloat,
    WrappedSigned,
    WrappedUnsigned,
    WrappedText,
    WrappedBytes,
    Message,
}

impl Type {
    /// Whether a list of these is written as one run of bytes.
    pub(crate) fn is_packed(self) -> bool {
        matches!(
            self,
            Self::Double
                | Self::Float
                | Self::Signed
                | Self::Unsigned
                | Self::ZigZag
                | Self::Fixed32
                | Self::Fixed64
                | Self::SignedFixed32
                | Self::SignedFixed64
        )
    }
}

/// A message of which something is known.
#[derive(Debug)]
pub(crate) struct MessageRow {
    name: Text,
    fields: Range,
    oneofs: Range,
}

/// A message, by its row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message(&'static MessageRow);

impl Message {
    /// By its full name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let at = MESSAGES.binary_search_by(|row| row.name.get().cmp(name)).ok()?;
        Some(Self(&MESSAGES[at]))
    }

    pub(crate) fn fields(self) -> &'static [Field] {
        self.0.fields.of(&FIELDS)
    }

    pub(crate) fn oneofs(self) -> &'static [Oneof] {
        self.0.oneofs.of(&ONEOFS)
    }
}

/// A field that has rules, or that leads to one.
#[derive(Debug)]
pub(crate) struct Field {
    name: Text,
    pub(crate) number: u32,
    pub(crate) kind: Type,
    pub(crate) repeated: bool,
    pub(crate) map: bool,
    pub(crate) required: bool,
    /// Whether it knows if it is set.
    pub(crate) optional: bool,
    inner: u16,
    own: Range,
    values: Range,
    keys: Range,
}

impl Field {
    pub(crate) fn name(&self) -> &'static str {
        self.name.get()
    }

    /// Of the field, or of the list as a whole.
    pub(crate) fn rules(&self) -> &'static [Rule] {
        self.own.of(&RULES)
    }

    /// Of each value of a list or map.
    pub(crate) fn value_rules(&self) -> &'static [Rule] {
        self.values.of(&RULES)
    }

    /// Of each key of a map.
    pub(crate) fn key_rules(&self) -> &'static [Rule] {
        self.keys.of(&RULES)
    }

    /// The message that it holds.
    pub(crate) fn message(&self) -> Option<Message> {
        MESSAGES.get(usize::from(self.inner)).map(Message)
    }
}

/// Fields of which one has to be set.
#[derive(Debug)]
pub(crate) struct Oneof {
    fields: Text,
    numbers: Range,
}

impl Oneof {
    pub(crate) fn has(&self, number: u32) -> bool {
        self.numbers.numbers().contains(&i64::from(number))
    }

    /// The names of its fields.
    pub(crate) fn fields(&self) -> &'static str {
        self.fields.get()
    }
}

mod generated {
    use super::{Field, MessageRow as Message, Oneof, Range, Rule, Text, Type};

    include!(concat!(env!("OUT_DIR"), "/tables.rs"));
}

use generated::{FIELDS, MESSAGES, NUMBERS, ONEOFS, RULES, TEXT};
