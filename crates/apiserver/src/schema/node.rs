//! Schemas compiled once: patterns are regular expressions, references are indices.
//!
//! The dialect is that of CustomResourceDefinitions (structural schemas in OpenAPI v3 form); the built-in kinds' schemas
//! are brought into it, with `$ref` besides.

use indexmap::IndexMap;
use regex::Regex;
use serde_json::{Map, Value};
use std::collections::HashMap;

/// The place of a node in its [`Schema`].
pub type NodeId = usize;

/// Where references point to in OpenAPI v3 documents.
pub const COMPONENTS: &str = "#/components/schemas/";

/// A set of compiled nodes that refer to each other.
#[derive(Debug, Default)]
pub struct Schema {
    /// How it was read.
    pub dialect: Dialect,
    nodes: Vec<Node>,
    named: HashMap<String, NodeId>,
}

/// What a value must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Type {
    /// Anything.
    #[default]
    Any,
    /// A JSON object.
    Object,
    /// A list.
    Array,
    /// A text.
    String,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// True or false.
    Boolean,
    /// A whole number or a text.
    IntOrString,
}

impl Type {
    /// The name in schemas and messages.
    pub fn name(self) -> &'static str {
        match self {
            Type::Any => "any",
            Type::Object => "object",
            Type::Array => "array",
            Type::String => "string",
            Type::Integer => "integer",
            Type::Number => "number",
            Type::Boolean => "boolean",
            Type::IntOrString => "integer or string",
        }
    }
}

/// How elements of a list are told apart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ListType {
    /// They are not.
    #[default]
    Atomic,
    /// By their whole value.
    Set,
    /// By the values of these fields.
    Map(Vec<String>),
}

/// What entries besides the named properties may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Additional {
    /// Anything.
    Any,
    /// What a schema says.
    Schema(NodeId),
}

/// The rules for one value.
#[derive(Debug, Default)]
#[allow(missing_docs)] // The fields are the keywords of JSON schema and of the `x-kubernetes-` extensions.
pub struct Node {
    pub kind: Type,
    pub nullable: bool,
    pub preserve_unknown: bool,
    pub embedded_resource: bool,
    pub properties: IndexMap<String, NodeId>,
    pub additional: Option<Additional>,
    pub items: Option<NodeId>,
    pub required: Vec<String>,
    pub default: Option<Value>,
    pub list_type: ListType,
    pub atomic_map: bool,
    pub checks: Option<Box<Checks>>,
}

/// The keywords that most nodes do without.
#[derive(Debug, Default)]
#[allow(missing_docs)] // As above.
pub struct Checks {
    pub enumeration: Vec<Value>,
    pub minimum: Option<f64>,
    pub maximum: Option<f64>,
    pub exclusive_minimum: bool,
    pub exclusive_maximum: bool,
    pub multiple_of: Option<f64>,
    pub min_length: Option<u64>,
    pub max_length: Option<u64>,
    pub pattern: Option<Regex>,
    pub min_items: Option<u64>,
    pub max_items: Option<u64>,
    pub unique_items: bool,
    pub min_properties: Option<u64>,
    pub max_properties: Option<u64>,
    pub format: Option<String>,
    pub all_of: Vec<NodeId>,
    pub any_of: Vec<NodeId>,
    pub one_of: Vec<NodeId>,
    pub not: Option<NodeId>,
}

/// A schema that cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct SchemaError {
    /// Where in the schema.
    pub path: String,
    /// What is wrong.
    pub message: String,
}

/// How a schema is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dialect {
    /// A CustomResourceDefinition's.
    #[default]
    Structural,
    /// A built-in kind's: an object about whose fields nothing is said is free.
    BuiltIn,
}

impl Schema {
    /// A node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }

    /// A named schema among those compiled so far.
    pub fn named(&self, name: &str) -> Option<NodeId> {
        self.named.get(name).copied()
    }

    /// Compiles a schema that refers to nothing.
    pub fn compile(value: &Value, path: &str) -> Result<(Schema, NodeId), SchemaError> {
        let mut schema = Schema::default();
        let definitions = Map::new();
        let mut compiler =
            Compiler { schema: &mut schema, definitions: &definitions, dialect: Dialect::Structural };
        let root = compiler.node(value, path)?;
        Ok((schema, root))
    }

    /// Compiles named schemas that refer to each other.
    pub fn compile_all(definitions: &Map<String, Value>) -> Result<Schema, SchemaError> {
        let mut schema = Schema { dialect: Dialect::BuiltIn, ..Schema::default() };
        let mut compiler = Compiler { schema: &mut schema, definitions, dialect: Dialect::BuiltIn };
        for name in definitions.keys() {
            compiler.reference(name, name)?;
        }
        Ok(schema)
    }
}

struct Compiler<'a> {
    schema: &'a mut Schema,
    definitions: &'a Map<String, Value>,
    dialect: Dialect,
}

impl Compiler<'_> {
    fn reference(&mut self, name: &str, path: &str) -> Result<NodeId, SchemaError> {
        if let Some(id) = self.schema.named(name) {
            return Ok(id);
        }
        let definitions = self.definitions;
        let definition =
            definitions.get(name).ok_or_else(|| error(path, format!("no schema is named {name}")))?;
        let id = self.schema.nodes.len();
        self.schema.nodes.push(Node::default());
        self.schema.named.insert(name.to_owned(), id);
        let node = self.build(definition, name)?;
        self.schema.nodes[id] = node;
        Ok(id)
    }

    fn node(&mut self, value: &Value, path: &str) -> Result<NodeId, SchemaError> {
        if let Some(name) = referred(value) {
            return self.reference(name, path);
        }
        let node = self.build(value, path)?;
        self.schema.nodes.push(node);
        Ok(self.schema.nodes.len() - 1)
    }

    fn build(&mut self, value: &Value, path: &str) -> Result<Node, SchemaError> {
        let map = match value {
            Value::Object(map) => map,
            Value::Bool(true) => return Ok(Node { preserve_unknown: true, ..Node::default() }),
            _ => return Err(error(path, "a schema must be an object")),
        };
        let mut node = Node { kind: type_of(map, path)?, ..Node::default() };
        node.nullable = flag(map, "nullable");
        node.preserve_unknown = flag(map, "x-kubernetes-preserve-unknown-fields");
        node.embedded_resource = flag(map, "x-kubernetes-embedded-resource");
        node.default = map.get("default").cloned();
        node.required = strings(map.get("required"));
        node.atomic_map = map.get("x-kubernetes-map-type").is_some_and(|kind| kind == "atomic");
        node.list_type = match map.get("x-kubernetes-list-type").and_then(Value::as_str) {
            Some("set") => ListType::Set,
            Some("map") => ListType::Map(strings(map.get("x-kubernetes-list-map-keys"))),
            _ => ListType::Atomic,
        };
        if let Some(Value::Object(properties)) = map.get("properties") {
            for (name, property) in properties {
                let id = self.node(property, &format!("{path}.properties[{name}]"))?;
                node.properties.insert(name.clone(), id);
            }
        }
        node.additional = match map.get("additionalProperties") {
            None | Some(Value::Bool(false)) => None,
            Some(Value::Bool(true)) => Some(Additional::Any),
            Some(schema) => {
                Some(Additional::Schema(self.node(schema, &format!("{path}.additionalProperties"))?))
            }
        };
        if let Some(items) = map.get("items") {
            node.items = Some(self.node(items, &format!("{path}.items"))?);
        }
        let free = node.properties.is_empty() && node.additional.is_none();
        if self.dialect == Dialect::BuiltIn && free && matches!(node.kind, Type::Object | Type::Any) {
            node.preserve_unknown = true;
        }
        node.checks = self.checks(map, path)?;
        Ok(node)
    }

    fn checks(&mut self, map: &Map<String, Value>, path: &str) -> Result<Option<Box<Checks>>, SchemaError> {
        let number = |key: &str| map.get(key).and_then(Value::as_f64);
        let count = |key: &str| map.get(key).and_then(Value::as_u64);
        let pattern = match map.get("pattern").and_then(Value::as_str) {
            None | Some("") => None,
            Some(text) => Some(Regex::new(text).map_err(|fault| error(&format!("{path}.pattern"), fault))?),
        };
        let checks = Checks {
            enumeration: map.get("enum").and_then(Value::as_array).cloned().unwrap_or_default(),
            minimum: number("minimum"),
            maximum: number("maximum"),
            exclusive_minimum: flag(map, "exclusiveMinimum"),
            exclusive_maximum: flag(map, "exclusiveMaximum"),
            multiple_of: number("multipleOf"),
            min_length: count("minLength"),
            max_length: count("maxLength"),
            pattern,
            min_items: count("minItems"),
            max_items: count("maxItems"),
            unique_items: flag(map, "uniqueItems"),
            min_properties: count("minProperties"),
            max_properties: count("maxProperties"),
            format: map.get("format").and_then(Value::as_str).map(str::to_owned),
            all_of: self.junctor(map, "allOf", path)?,
            any_of: self.junctor(map, "anyOf", path)?,
            one_of: self.junctor(map, "oneOf", path)?,
            not: map.get("not").map(|not| self.node(not, &format!("{path}.not"))).transpose()?,
        };
        Ok((!checks.is_empty()).then(|| Box::new(checks)))
    }

    fn junctor(
        &mut self,
        map: &Map<String, Value>,
        key: &str,
        path: &str,
    ) -> Result<Vec<NodeId>, SchemaError> {
        let branches = map.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        branches
            .iter()
            .enumerate()
            .map(|(index, branch)| self.node(branch, &format!("{path}.{key}[{index}]")))
            .collect()
    }
}

impl Checks {
    fn is_empty(&self) -> bool {
        self.enumeration.is_empty()
            && self.minimum.is_none()
            && self.maximum.is_none()
            && self.multiple_of.is_none()
            && self.min_length.is_none()
            && self.max_length.is_none()
            && self.pattern.is_none()
            && self.min_items.is_none()
            && self.max_items.is_none()
            && !self.unique_items
            && self.min_properties.is_none()
            && self.max_properties.is_none()
            && self.format.is_none()
            && self.all_of.is_empty()
            && self.any_of.is_empty()
            && self.one_of.is_empty()
            && self.not.is_none()
    }
}

/// The name a schema refers to, plainly or as the only branch of `allOf` (how OpenAPI v3 documents describe a
/// referring field).
pub fn referred(value: &Value) -> Option<&str> {
    let plain = value.get("$ref").and_then(Value::as_str);
    let wrapped = || match value.get("allOf").and_then(Value::as_array).map(Vec::as_slice) {
        Some([only]) => only.get("$ref").and_then(Value::as_str),
        _ => None,
    };
    plain.or_else(wrapped)?.strip_prefix(COMPONENTS)
}

fn type_of(map: &Map<String, Value>, path: &str) -> Result<Type, SchemaError> {
    if flag(map, "x-kubernetes-int-or-string") {
        return Ok(Type::IntOrString);
    }
    Ok(match map.get("type").and_then(Value::as_str) {
        None | Some("") => Type::Any,
        Some("object") => Type::Object,
        Some("array") => Type::Array,
        Some("string") => Type::String,
        Some("integer") => Type::Integer,
        Some("number") => Type::Number,
        Some("boolean") => Type::Boolean,
        Some(other) => {
            let supported = r#""array", "boolean", "integer", "number", "object", "string""#;
            return Err(error(
                &format!("{path}.type"),
                format!("Unsupported value: {other:?}: supported values: {supported}"),
            ));
        }
    })
}

fn flag(map: &Map<String, Value>, key: &str) -> bool {
    map.get(key).and_then(Value::as_bool).unwrap_or(false)
}

fn strings(value: Option<&Value>) -> Vec<String> {
    let list = value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn error(path: &str, message: impl ToString) -> SchemaError {
    SchemaError { path: path.to_owned(), message: message.to_string() }
}
