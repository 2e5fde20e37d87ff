//! What fields the messages have: tables that the build script writes and that are read where they lie.
//!
//! | table | a row |
//! |---|---|
//! | `messages.bin`, by name | name, number of fields (u16), the first one's row (u32) |
//! | `fields.bin`, by number | name, JSON name, number (u32), row of the message or enum (u16), oneof (u16), kind (u8), flags (u8) |
//! | `enums.bin`, by name | name, number of values (u16), the first one's row (u32) |
//! | `values.bin`, as declared | name, number (i32) |
//!
//! A name is its place in `names.txt` (u32) and its length (u16). All numbers are little-endian.

use crate::pack::type_name;

const NAMES: &str = include_str!(concat!(env!("OUT_DIR"), "/names.txt"));
const MESSAGES: Table<12> = Table(include_bytes!(concat!(env!("OUT_DIR"), "/messages.bin")));
const FIELDS: Table<22> = Table(include_bytes!(concat!(env!("OUT_DIR"), "/fields.bin")));
const ENUMS: Table<12> = Table(include_bytes!(concat!(env!("OUT_DIR"), "/enums.bin")));
const VALUES: Table<10> = Table(include_bytes!(concat!(env!("OUT_DIR"), "/values.bin")));

/// Rows of `N` bytes.
struct Table<const N: usize>(&'static [u8]);

impl<const N: usize> Table<N> {
    /// All of it; the last bytes are never an incomplete row.
    fn rows(&self) -> &'static [[u8; N]] {
        self.0.as_chunks().0
    }
}

fn short(row: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([row[at], row[at + 1]])
}

fn long(row: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([row[at], row[at + 1], row[at + 2], row[at + 3]])
}

fn name(row: &[u8], at: usize) -> &'static str {
    let start = long(row, at) as usize;
    &NAMES[start..start + usize::from(short(row, at + 4))]
}

fn find(rows: &'static [[u8; 12]], wanted: &str) -> Option<u16> {
    rows.binary_search_by(|row| name(row, 0).cmp(wanted)).ok().map(|index| index as u16)
}

/// A message's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Message(u16);

impl Message {
    /// By type URL or full name.
    pub(crate) fn named(type_url: &str) -> Option<Self> {
        find(MESSAGES.rows(), type_name(type_url)).map(Self)
    }

    fn row(self) -> &'static [u8; 12] {
        &MESSAGES.rows()[usize::from(self.0)]
    }

    pub(crate) fn full_name(self) -> &'static str {
        name(self.row(), 0)
    }

    fn field_rows(self) -> &'static [[u8; 22]] {
        let first = long(self.row(), 8) as usize;
        &FIELDS.rows()[first..first + usize::from(short(self.row(), 6))]
    }

    /// In the order of their numbers.
    pub(crate) fn fields(self) -> impl Iterator<Item = Field> {
        self.field_rows().iter().map(Field)
    }

    pub(crate) fn field(self, number: u32) -> Option<Field> {
        let rows = self.field_rows();
        rows.binary_search_by_key(&number, |row| Field(row).number()).ok().map(|index| Field(&rows[index]))
    }

    /// By the name in the proto file, or the one of the JSON form.
    pub(crate) fn field_named(self, name: &str) -> Option<Field> {
        self.fields()
            .find(|field| field.name() == name)
            .or_else(|| self.fields().find(|field| field.json_name() == name))
    }
}

/// A message's field.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field(&'static [u8; 22]);

impl Field {
    /// As in the proto file.
    pub(crate) fn name(self) -> &'static str {
        name(self.0, 0)
    }

    pub(crate) fn json_name(self) -> &'static str {
        name(self.0, 6)
    }

    pub(crate) fn number(self) -> u32 {
        long(self.0, 12)
    }

    /// What one value is: of a list an item, of a map an entry.
    pub(crate) fn kind(self) -> Kind {
        let of = short(self.0, 16);
        match self.0[20] {
            1 => Kind::Double,
            2 => Kind::Float,
            3 => Kind::Int64,
            4 => Kind::Uint64,
            5 => Kind::Int32,
            6 => Kind::Fixed64,
            7 => Kind::Fixed32,
            8 => Kind::Bool,
            9 => Kind::String,
            11 => Kind::Message(Message(of)),
            12 => Kind::Bytes,
            13 => Kind::Uint32,
            14 => Kind::Enum(Enumeration(of)),
            15 => Kind::Sfixed32,
            16 => Kind::Sfixed64,
            17 => Kind::Sint32,
            _ => Kind::Sint64,
        }
    }

    /// The oneof it belongs to, by its place in the message. (Optional fields belong to none.)
    pub(crate) fn oneof(self) -> Option<u16> {
        Some(short(self.0, 18)).filter(|oneof| *oneof != u16::MAX)
    }

    fn flag(self, bit: u8) -> bool {
        self.0[21] & 1 << bit != 0
    }

    /// A list or a map.
    pub(crate) fn is_repeated(self) -> bool {
        self.flag(0)
    }

    pub(crate) fn is_map(self) -> bool {
        self.flag(1)
    }

    /// Written as one run of bytes.
    pub(crate) fn is_packed(self) -> bool {
        self.flag(2)
    }

    /// Whether zero differs from absence.
    pub(crate) fn supports_presence(self) -> bool {
        self.flag(3)
    }

    /// Annotated `udpa.annotations.sensitive`.
    pub(crate) fn is_sensitive(self) -> bool {
        self.flag(4)
    }
}

/// An enum's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Enumeration(u16);

impl Enumeration {
    fn row(self) -> &'static [u8; 12] {
        &ENUMS.rows()[usize::from(self.0)]
    }

    pub(crate) fn full_name(self) -> &'static str {
        name(self.row(), 0)
    }

    /// Names and numbers, as declared.
    pub(crate) fn values(self) -> impl Iterator<Item = (&'static str, i32)> {
        let first = long(self.row(), 8) as usize;
        VALUES.rows()[first..first + usize::from(short(self.row(), 6))]
            .iter()
            .map(|row| (name(row, 0), long(row, 6).cast_signed()))
    }

    pub(crate) fn number_of(self, wanted: &str) -> Option<i32> {
        self.values().find(|(name, _)| *name == wanted).map(|(_, number)| number)
    }

    pub(crate) fn name_of(self, wanted: i32) -> Option<&'static str> {
        self.values().find(|(_, number)| *number == wanted).map(|(name, _)| name)
    }
}

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Double,
    Float,
    Int64,
    Uint64,
    Int32,
    Fixed64,
    Fixed32,
    Bool,
    String,
    Message(Message),
    Bytes,
    Uint32,
    Enum(Enumeration),
    Sfixed32,
    Sfixed64,
    Sint32,
    Sint64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_say_what_the_proto_files_say() {
        let cluster = Message::named("type.googleapis.com/envoy.config.cluster.v3.Cluster").unwrap();
        assert_eq!(cluster.full_name(), "envoy.config.cluster.v3.Cluster");
        let field = cluster.field_named("loadAssignment").unwrap();
        assert_eq!((field.name(), field.number()), ("load_assignment", 33));
        let Kind::Message(assignment) = field.kind() else { panic!("{:?}", field.kind()) };
        assert_eq!(assignment.full_name(), "envoy.config.endpoint.v3.ClusterLoadAssignment");
        assert!(!field.is_repeated() && field.supports_presence());
        let policy = cluster.field(6).unwrap();
        let Kind::Enum(policies) = policy.kind() else { panic!("{:?}", policy.kind()) };
        assert_eq!((policies.number_of("MAGLEV"), policies.name_of(0)), (Some(5), Some("ROUND_ROBIN")));
        assert!(!policy.supports_presence());
        let (kind, custom) =
            (cluster.field_named("type").unwrap(), cluster.field_named("cluster_type").unwrap());
        assert!(kind.oneof().is_some() && kind.oneof() == custom.oneof());
        assert!(cluster.field_named("metadata").unwrap().oneof().is_none());
        let typed = cluster.field_named("typed_extension_protocol_options").unwrap();
        assert!(typed.is_map() && typed.is_repeated());
        assert!(Message::named("a.B").is_none() && cluster.field(1_000_000).is_none());
    }

    #[test]
    fn every_message_and_field_is_found_by_its_name() {
        for row in MESSAGES.rows() {
            let message = Message::named(name(row, 0)).unwrap();
            for field in message.fields() {
                assert_eq!(message.field(field.number()).unwrap().name(), field.name());
                assert_eq!(message.field_named(field.name()).unwrap().number(), field.number());
                if let Kind::Enum(enumeration) = field.kind() {
                    assert!(enumeration.values().next().is_some(), "{}", enumeration.full_name());
                }
            }
        }
    }

    #[test]
    fn what_is_sensitive_is_marked() {
        let certificate = Message::named("envoy.extensions.transport_sockets.tls.v3.TlsCertificate").unwrap();
        assert!(certificate.field_named("private_key").unwrap().is_sensitive());
        assert!(!certificate.field_named("certificate_chain").unwrap().is_sensitive());
    }
}
