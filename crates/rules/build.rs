//! Reads the rules out of the `.proto` files that the `envoy-types` package carries, and writes them as tables of plain
//! numbers: no pointers, so that nothing has to be relocated at the start of a process.
//!
//! `lateen-envoy` generates the messages from the same files; this script finds them by that crate's manifest.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::env;
use std::error::Error;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use prost_reflect::{
    DescriptorPool, DynamicMessage, ExtensionDescriptor, FieldDescriptor, Kind, MessageDescriptor,
    ReflectMessage, Value,
};

/// Import roots inside the package's `proto` folder.
const ROOTS: [&str; 5] = ["data-plane-api", "xds", "googleapis", "protoc-gen-validate", "cel-spec/proto"];

/// Folders of configuration, with their import root.
const WANTED: [&str; 5] = [
    "data-plane-api/envoy/config",
    "data-plane-api/envoy/extensions",
    "data-plane-api/envoy/service/discovery",
    "data-plane-api/envoy/type",
    "xds/xds/type",
];

/// Files that import what the package does not have.
const UNWANTED: [&str; 2] = ["opentelemetry", "open_telemetry"];

fn main() -> Result<(), Box<dyn Error>> {
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let protos = protos(&manifest.join("../envoy/Cargo.toml"))?;
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={}", protos.display());
    let mut files = BTreeSet::new();
    for wanted in WANTED {
        let root =
            ROOTS.iter().find(|root| wanted.starts_with(**root)).ok_or("a folder outside of all roots")?;
        collect(&protos.join(root), &protos.join(wanted), &mut files)?;
    }
    let descriptors = out.join("descriptors.bin");
    let mut protoc = Command::new(protoc_bin_vendored::protoc_bin_path()?);
    protoc.arg("--include_imports").arg("--descriptor_set_out").arg(&descriptors);
    for root in ROOTS {
        protoc.arg("-I").arg(protos.join(root));
    }
    protoc.arg("-I").arg(protoc_bin_vendored::include_path()?);
    let result = protoc.args(&files).output()?;
    if !result.status.success() {
        return Err(format!("protoc failed:\n{}", String::from_utf8_lossy(&result.stderr)).into());
    }
    let pool = DescriptorPool::decode(fs::read(&descriptors)?.as_slice())?;
    fs::remove_file(&descriptors)?;
    fs::write(out.join("tables.rs"), Tables::new(&pool)?.write()?)?;
    Ok(())
}

/// The `proto` folder of the downloaded `envoy-types` package.
fn protos(manifest: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let metadata = |flags: &[&str]| -> Result<serde_json::Value, Box<dyn Error>> {
        let mut cargo = Command::new(env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
        // That crate lists the package for this target only, so that it is downloaded and never compiled.
        cargo.args(["metadata", "--format-version", "1", "--filter-platform", "x86_64-unknown-none"]);
        cargo.arg("--manifest-path").arg(manifest).args(flags);
        for variable in ["RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS"] {
            cargo.env_remove(variable);
        }
        for variable in ["CARGO_MAKEFLAGS", "MAKEFLAGS", "CARGO_BUILD_TARGET", "TARGET"] {
            cargo.env_remove(variable);
        }
        let output = cargo.output()?;
        match output.status.success() {
            true => Ok(serde_json::from_slice(&output.stdout)?),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned().into()),
        }
    };
    let metadata = metadata(&["--offline", "--locked"])
        .or_else(|_| metadata(&["--offline"]))
        .or_else(|_| metadata(&[]))?;
    let packages = metadata["packages"].as_array().ok_or("cargo metadata lists no packages")?;
    let package = packages.iter().find(|package| package["name"] == "envoy-types");
    let manifest =
        package.and_then(|package| package["manifest_path"].as_str()).ok_or("no package envoy-types")?;
    Ok(Path::new(manifest).parent().ok_or("the manifest has no folder")?.join("proto"))
}

fn collect(root: &Path, folder: &Path, files: &mut BTreeSet<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(root, &path, files)?;
        } else if path.extension().is_some_and(|end| end == "proto")
            && !UNWANTED.iter().any(|part| path.to_string_lossy().contains(part))
        {
            files.insert(path.strip_prefix(root)?.to_path_buf());
        }
    }
    Ok(())
}

/// A place in the text, or in a table: first and number.
type Place = (usize, usize);

#[derive(Default)]
struct Tables {
    text: String,
    known: HashMap<String, Place>,
    messages: Vec<String>,
    fields: Vec<String>,
    rules: Vec<String>,
    oneofs: Vec<String>,
    numbers: Vec<i64>,
    enumerations: BTreeMap<String, Place>,
}

/// The annotations.
struct Annotations {
    rules: ExtensionDescriptor,
    required: ExtensionDescriptor,
    disabled: Vec<ExtensionDescriptor>,
    removed: Option<ExtensionDescriptor>,
}

impl Tables {
    fn new(pool: &DescriptorPool) -> Result<Self, Box<dyn Error>> {
        let extension =
            |name: &str| pool.get_extension_by_name(name).ok_or_else(|| format!("no extension {name}"));
        let annotations = Annotations {
            rules: extension("validate.rules")?,
            required: extension("validate.required")?,
            disabled: vec![extension("validate.disabled")?, extension("validate.ignored")?],
            removed: pool.get_extension_by_name("envoy.annotations.disallowed_by_default"),
        };
        let mut messages: Vec<MessageDescriptor> = pool.all_messages().collect();
        messages.sort_by(|left, right| left.full_name().cmp(right.full_name()));
        let mut kept = interesting(&messages, &annotations);
        kept.retain(|name| !name.starts_with("validate.") && !name.starts_with("google."));
        messages.retain(|message| kept.contains(message.full_name()));
        let index: HashMap<&str, usize> =
            messages.iter().enumerate().map(|(at, message)| (message.full_name(), at)).collect();
        let mut tables = Self::default();
        for message in &messages {
            tables.message(message, &index, &annotations)?;
        }
        Ok(tables)
    }

    fn text(&mut self, text: &str) -> Place {
        if let Some(place) = self.known.get(text) {
            return *place;
        }
        let place = (self.text.len(), text.len());
        self.text.push_str(text);
        self.known.insert(text.to_owned(), place);
        place
    }

    fn message(
        &mut self,
        message: &MessageDescriptor,
        index: &HashMap<&str, usize>,
        annotations: &Annotations,
    ) -> Result<(), Box<dyn Error>> {
        let off = annotations.disabled.iter().any(|off| flag(&message.options(), off));
        let mut fields: Vec<FieldDescriptor> = message.fields().collect();
        fields.sort_by_key(FieldDescriptor::number);
        let first = self.fields.len();
        for field in fields.iter().filter(|_| !off) {
            self.field(field, index, annotations)?;
        }
        let count = self.fields.len() - first;
        let first_oneof = self.oneofs.len();
        for oneof in message.oneofs().filter(|oneof| !off && flag(&oneof.options(), &annotations.required)) {
            let fields: Vec<String> = oneof.fields().map(|field| field.name().to_owned()).collect();
            let fields = self.text(&fields.join(", "));
            let numbers = self.list(oneof.fields().map(|field| i64::from(field.number())).collect());
            self.oneofs.push(format!("Oneof {{ fields: Text{fields:?}, numbers: Range{numbers:?} }}"));
        }
        let oneofs = (first_oneof, self.oneofs.len() - first_oneof);
        let name = self.text(message.full_name());
        let fields = (first, count);
        self.messages.push(format!(
            "Message {{ name: Text{name:?}, fields: Range{fields:?}, oneofs: Range{oneofs:?} }}"
        ));
        Ok(())
    }

    fn list(&mut self, numbers: Vec<i64>) -> Place {
        let place = (self.numbers.len(), numbers.len());
        self.numbers.extend(numbers);
        place
    }

    fn field(
        &mut self,
        field: &FieldDescriptor,
        index: &HashMap<&str, usize>,
        annotations: &Annotations,
    ) -> Result<(), Box<dyn Error>> {
        let options = field.options();
        let rules = options
            .has_extension(&annotations.rules)
            .then(|| options.get_extension(&annotations.rules).as_message().cloned());
        let rules = rules.flatten();
        let removed = annotations.removed.as_ref().is_some_and(|removed| flag(&options, removed));
        // The values of a map are what is looked into.
        let (value, entry) = match field.kind() {
            Kind::Message(entry) if field.is_map() => (entry.map_entry_value_field(), Some(entry)),
            _ => (field.clone(), None),
        };
        let inner = match value.kind() {
            Kind::Message(message) => index.get(message.full_name()).copied(),
            _ => None,
        };
        if rules.is_none() && inner.is_none() && !removed {
            return Ok(());
        }
        let mut required = false;
        let mut skip = false;
        if let Some(message) = rules.as_ref().and_then(|rules| part(rules, "message")) {
            required = truth(&message, "required");
            skip = truth(&message, "skip");
        }
        for kind in ["any", "duration", "timestamp"] {
            required |= rules
                .as_ref()
                .and_then(|rules| part(rules, kind))
                .is_some_and(|rules| truth(&rules, "required"));
        }
        let own = self.rules_of(field, rules.as_ref(), removed)?;
        let list = rules.as_ref().and_then(|rules| part(rules, "repeated"));
        let items = list.as_ref().and_then(|rules| part(rules, "items"));
        let map = rules.as_ref().and_then(|rules| part(rules, "map"));
        let values = map.as_ref().and_then(|rules| part(rules, "values")).or(items);
        let values = self.value_rules(&value, values.as_ref())?;
        let keys = map.as_ref().and_then(|rules| part(rules, "keys"));
        let keys = match entry.as_ref().map(MessageDescriptor::map_entry_key_field) {
            Some(key) => self.value_rules(&key, keys.as_ref())?,
            None => (0, 0),
        };
        let name = self.text(field.name());
        let oneof = field.containing_oneof().is_some();
        // Of the fields that exclude each other none has to be set; whether one of them has to is said elsewhere.
        let required = required && !oneof;
        let kind = kind(&value);
        let inner = inner.filter(|_| !skip).map_or(u16::MAX, |inner| inner as u16);
        let (repeated, map) = (field.is_list(), field.is_map());
        let number = field.number();
        let optional = oneof || field.supports_presence();
        self.fields.push(format!(
            "Field {{ name: Text{name:?}, number: {number}, kind: Type::{kind}, repeated: {repeated}, map: {map}, \
             required: {required}, optional: {optional}, inner: {inner}, own: Range{own:?}, values: Range{values:?}, \
             keys: Range{keys:?} }}"
        ));
        Ok(())
    }

    /// What is said of a field itself: of a list or map how long it is, else of its value.
    fn rules_of(
        &mut self,
        field: &FieldDescriptor,
        rules: Option<&DynamicMessage>,
        removed: bool,
    ) -> Result<Place, Box<dyn Error>> {
        if !field.is_list() && !field.is_map() && !removed {
            return self.value_rules(field, rules);
        }
        let first = self.rules.len();
        if removed {
            self.rules.push("Rule::Removed".to_owned());
        }
        let list = rules.and_then(|rules| part(rules, if field.is_map() { "map" } else { "repeated" }));
        if let Some(list) = list {
            for (name, rule) in
                [("min_items", "Least"), ("min_pairs", "Least"), ("max_items", "Most"), ("max_pairs", "Most")]
            {
                if let Some(number) = number(&list, name) {
                    self.rules.push(format!("Rule::{rule}({number})"));
                }
            }
            if list.descriptor().get_field_by_name("unique").is_some() && truth(&list, "unique") {
                self.rules.push("Rule::Unique".to_owned());
            }
        }
        Ok((first, self.rules.len() - first))
    }

    fn value_rules(
        &mut self,
        field: &FieldDescriptor,
        rules: Option<&DynamicMessage>,
    ) -> Result<Place, Box<dyn Error>> {
        let first = self.rules.len();
        let Some(rules) = rules else { return Ok((first, 0)) };
        for (set, value) in rules.fields() {
            let Some(inner) = value.as_message() else { continue };
            match set.name() {
                "message" | "repeated" | "map" => {}
                "string" | "bytes" => self.text_rules(inner, set.name() == "bytes")?,
                "bool" => {
                    let wanted = truth(inner, "const");
                    self.rules.push(format!("Rule::Truth({wanted})"));
                }
                "enum" => self.enum_rules(field, inner),
                "any" | "timestamp" => {}
                "duration" => {
                    for (name, rule) in [("gt", "Above"), ("gte", "From"), ("lt", "Below"), ("lte", "UpTo")] {
                        if let Some(bound) = part(inner, name) {
                            let seconds = integer(&bound, "seconds").unwrap_or(0);
                            let nanos = integer(&bound, "nanos").unwrap_or(0);
                            self.rules
                                .push(format!("Rule::{rule}({}_f64)", seconds as f64 + nanos as f64 / 1e9));
                        }
                    }
                }
                _ => self.number_rules(inner),
            }
        }
        Ok((first, self.rules.len() - first))
    }

    fn number_rules(&mut self, rules: &DynamicMessage) {
        if truth(rules, "ignore_empty") {
            self.rules.push("Rule::UnlessEmpty".to_owned());
        }
        for (name, rule) in
            [("gt", "Above"), ("gte", "From"), ("lt", "Below"), ("lte", "UpTo"), ("const", "Is")]
        {
            if let Some(bound) = number(rules, name) {
                self.rules.push(format!("Rule::{rule}({bound}_f64)"));
            }
        }
        for (name, rule) in [("in", "OneOf"), ("not_in", "NoneOf")] {
            let numbers = numbers(rules, name);
            if !numbers.is_empty() {
                let place = self.list(numbers);
                self.rules.push(format!("Rule::{rule}(Range{place:?})"));
            }
        }
    }

    fn enum_rules(&mut self, field: &FieldDescriptor, rules: &DynamicMessage) {
        if truth(rules, "defined_only")
            && let Kind::Enum(enumeration) = field.kind()
        {
            let known = self.enumerations.get(enumeration.full_name()).copied();
            let place = known.unwrap_or_else(|| {
                let numbers = enumeration.values().map(|value| i64::from(value.number())).collect();
                let place = self.list(numbers);
                self.enumerations.insert(enumeration.full_name().to_owned(), place);
                place
            });
            self.rules.push(format!("Rule::OneOf(Range{place:?})"));
        }
        self.number_rules(rules);
    }

    fn text_rules(&mut self, rules: &DynamicMessage, bytes: bool) -> Result<(), Box<dyn Error>> {
        let mut out = Vec::new();
        if truth(rules, "ignore_empty") {
            out.push("Rule::UnlessEmpty".to_owned());
        }
        let lengths = [
            ("min_len", if bytes { "MinBytes" } else { "MinLength" }),
            ("max_len", if bytes { "MaxBytes" } else { "MaxLength" }),
            ("min_bytes", "MinBytes"),
            ("max_bytes", "MaxBytes"),
        ];
        for (name, rule) in lengths {
            if let Some(number) = number(rules, name) {
                out.push(format!("Rule::{rule}({number})"));
            }
        }
        if let Some(exact) = number(rules, "len") {
            let (least, most) = if bytes { ("MinBytes", "MaxBytes") } else { ("MinLength", "MaxLength") };
            out.push(format!("Rule::{least}({exact})"));
            out.push(format!("Rule::{most}({exact})"));
        }
        for (name, rule) in [("prefix", "Prefix"), ("suffix", "Suffix"), ("pattern", "Pattern")] {
            let value = rules.get_field_by_name(name).map(|value| value.into_owned());
            if let Some(Value::String(text)) = value.filter(|_| rules.has_field_by_name(name)) {
                let place = self.text(&text);
                out.push(format!("Rule::{rule}(Text{place:?})"));
            }
        }
        if rules.has_field_by_name("in")
            && let Some(list) = rules.get_field_by_name("in")
        {
            for value in list.as_list().unwrap_or_default() {
                let place = self.text(value.as_str().unwrap_or_default());
                out.push(format!("Rule::MayBe(Text{place:?})"));
            }
        }
        if rules.descriptor().get_field_by_name("well_known_regex").is_some()
            && rules.has_field_by_name("well_known_regex")
        {
            let kind = rules.get_field_by_name("well_known_regex").and_then(|kind| kind.as_enum_number());
            let strict = !rules.has_field_by_name("strict") || truth(rules, "strict");
            match kind {
                Some(1) => out.push(format!("Rule::HeaderName({strict})")),
                Some(2) => out.push(format!("Rule::HeaderValue({strict})")),
                _ => {}
            }
        }
        self.rules.extend(out);
        Ok(())
    }

    fn write(&self) -> Result<String, Box<dyn Error>> {
        let mut out = format!("pub(super) static TEXT: &str = {:?};\n", self.text);
        for (name, kind, rows) in [
            ("MESSAGES", "Message", &self.messages),
            ("FIELDS", "Field", &self.fields),
            ("RULES", "Rule", &self.rules),
            ("ONEOFS", "Oneof", &self.oneofs),
        ] {
            writeln!(out, "pub(super) static {name}: [{kind}; {}] = [", rows.len())?;
            for row in rows {
                writeln!(out, "{row},")?;
            }
            out.push_str("];\n");
        }
        writeln!(out, "pub(super) static NUMBERS: [i64; {}] = {:?};", self.numbers.len(), self.numbers)?;
        Ok(out)
    }
}

/// The messages in which something is to be looked at, in themselves or in what lies in them.
fn interesting(messages: &[MessageDescriptor], annotations: &Annotations) -> BTreeSet<String> {
    let has_rules = |message: &&MessageDescriptor| {
        message.fields().any(|field| {
            let options = field.options();
            options.has_extension(&annotations.rules)
                || annotations.removed.as_ref().is_some_and(|removed| flag(&options, removed))
        }) || message.oneofs().any(|oneof| flag(&oneof.options(), &annotations.required))
    };
    let mut kept: BTreeSet<String> =
        messages.iter().filter(has_rules).map(|message| message.full_name().to_owned()).collect();
    loop {
        let before = kept.len();
        for message in messages {
            let leads = message.fields().any(|field| match field.kind() {
                Kind::Message(entry) if field.is_map() => match entry.map_entry_value_field().kind() {
                    Kind::Message(inner) => kept.contains(inner.full_name()),
                    _ => false,
                },
                Kind::Message(inner) => kept.contains(inner.full_name()),
                _ => false,
            });
            if leads {
                kept.insert(message.full_name().to_owned());
            }
        }
        if kept.len() == before {
            return kept;
        }
    }
}

/// How a value is to be read.
fn kind(field: &FieldDescriptor) -> &'static str {
    match field.kind() {
        Kind::Double => "Double",
        Kind::Float => "Float",
        Kind::Int32 | Kind::Int64 | Kind::Enum(_) => "Signed",
        Kind::Uint32 | Kind::Uint64 | Kind::Bool => "Unsigned",
        Kind::Sint32 | Kind::Sint64 => "ZigZag",
        Kind::Fixed32 => "Fixed32",
        Kind::Fixed64 => "Fixed64",
        Kind::Sfixed32 => "SignedFixed32",
        Kind::Sfixed64 => "SignedFixed64",
        Kind::String => "Text",
        Kind::Bytes => "Bytes",
        Kind::Message(message) => match message.full_name() {
            "google.protobuf.Duration" => "Duration",
            "google.protobuf.DoubleValue" => "WrappedDouble",
            "google.protobuf.FloatValue" => "WrappedFloat",
            "google.protobuf.Int32Value" | "google.protobuf.Int64Value" => "WrappedSigned",
            "google.protobuf.UInt32Value" | "google.protobuf.UInt64Value" | "google.protobuf.BoolValue" => {
                "WrappedUnsigned"
            }
            "google.protobuf.StringValue" => "WrappedText",
            "google.protobuf.BytesValue" => "WrappedBytes",
            _ => "Message",
        },
    }
}

fn flag(options: &DynamicMessage, extension: &ExtensionDescriptor) -> bool {
    options.has_extension(extension) && options.get_extension(extension).as_bool() == Some(true)
}

fn part(message: &DynamicMessage, name: &str) -> Option<DynamicMessage> {
    let value = message.has_field_by_name(name).then(|| message.get_field_by_name(name))??;
    value.as_message().cloned()
}

fn truth(message: &DynamicMessage, name: &str) -> bool {
    message.has_field_by_name(name)
        && message.get_field_by_name(name).is_some_and(|value| value.as_bool() == Some(true))
}

fn value_number(value: &Value) -> Option<f64> {
    Some(match value {
        Value::I32(number) => f64::from(*number),
        Value::U32(number) => f64::from(*number),
        Value::I64(number) => *number as f64,
        Value::U64(number) => *number as f64,
        Value::F32(number) => f64::from(*number),
        Value::F64(number) => *number,
        Value::EnumNumber(number) => f64::from(*number),
        _ => return None,
    })
}

fn number(message: &DynamicMessage, name: &str) -> Option<f64> {
    let value = message.has_field_by_name(name).then(|| message.get_field_by_name(name))??;
    value_number(&value)
}

fn integer(message: &DynamicMessage, name: &str) -> Option<i64> {
    number(message, name).map(|number| number as i64)
}

fn numbers(message: &DynamicMessage, name: &str) -> Vec<i64> {
    let value = message.has_field_by_name(name).then(|| message.get_field_by_name(name)).flatten();
    let list = value.as_ref().and_then(|value| value.as_list());
    list.unwrap_or_default().iter().filter_map(value_number).map(|number| number as i64).collect()
}
