//! How a value is taken apart: by its schema, or where there is none, by what it is.

use crate::builtin::schemas::{OBJECT_META, schemas};
use crate::schema::crd::CustomKind;
use crate::schema::node::{Additional, Dialect, ListType, NodeId, Schema, Type};
use serde_json::{Map, Value};
use std::sync::Arc;

/// The way to the shape of a kind's objects; keeps the schema alive.
#[derive(Debug, Clone)]
pub enum View {
    /// A built-in kind, by the place of its schema.
    BuiltIn(NodeId),
    /// A custom kind.
    Custom(Arc<CustomKind>),
    /// A kind without schema.
    Deduced,
}

impl View {
    /// The shape of whole objects.
    pub fn shape(&self) -> Shape<'_> {
        match self {
            View::BuiltIn(id) => Shape::Node(&schemas().compiled, *id),
            View::Custom(kind) => Shape::Object(&kind.schema, kind.root),
            View::Deduced => Shape::Deduced,
        }
    }
}

/// The shape of the values at one place.
#[derive(Debug, Clone, Copy)]
pub enum Shape<'a> {
    /// What a schema says.
    Node(&'a Schema, NodeId),
    /// What the schema of a custom kind says of whole objects, whose metadata it need not describe.
    Object(&'a Schema, NodeId),
    /// Nothing is known: objects are taken apart, lists are not.
    Deduced,
    /// A value that is replaced as a whole.
    Atomic,
}

/// A value, taken apart.
#[derive(Debug)]
pub enum Form<'v, 's> {
    /// It is one thing.
    Leaf,
    /// By field.
    Map(&'v Map<String, Value>),
    /// By element.
    List(&'v [Value], &'s ListType),
}

impl<'a> Shape<'a> {
    /// How a value of this shape is taken apart.
    pub fn form<'v>(&self, value: &'v Value) -> Form<'v, 'a> {
        let (schema, node) = match *self {
            Shape::Atomic => return Form::Leaf,
            Shape::Deduced => return value.as_object().map_or(Form::Leaf, Form::Map),
            Shape::Node(schema, id) | Shape::Object(schema, id) => (schema, schema.node(id)),
        };
        match value {
            Value::Object(_) if node.atomic_map => Form::Leaf,
            Value::Object(map) => {
                let described = !node.properties.is_empty() || node.additional.is_some();
                let deduced = schema.dialect == Dialect::Structural
                    && (node.preserve_unknown || matches!(node.kind, Type::Any | Type::Object));
                if described || deduced || matches!(self, Shape::Object(..)) {
                    Form::Map(map)
                } else {
                    Form::Leaf
                }
            }
            Value::Array(list) if node.list_type != ListType::Atomic => Form::List(list, &node.list_type),
            _ => Form::Leaf,
        }
    }

    /// The shape of a field, and whether the schema names it (else it is an entry of a map).
    pub fn field(&self, name: &str) -> (Shape<'a>, bool) {
        let (schema, id) = match *self {
            Shape::Atomic => return (Shape::Atomic, false),
            Shape::Deduced => return (Shape::Deduced, false),
            Shape::Node(schema, id) | Shape::Object(schema, id) => (schema, id),
        };
        if let Shape::Object(..) = self {
            match name {
                "apiVersion" | "kind" => return (Shape::Atomic, true),
                "metadata" => {
                    let builtin = &schemas().compiled;
                    let shape =
                        builtin.named(OBJECT_META).map_or(Shape::Deduced, |id| Shape::Node(builtin, id));
                    return (shape, true);
                }
                _ => {}
            }
        }
        let node = schema.node(id);
        match (node.properties.get(name), node.additional) {
            (Some(&property), _) => (Shape::Node(schema, property), true),
            (None, Some(Additional::Schema(additional))) => (Shape::Node(schema, additional), false),
            _ => (Shape::Deduced, false),
        }
    }

    /// The shape of a list's elements.
    pub fn items(&self) -> Shape<'a> {
        match *self {
            Shape::Node(schema, id) | Shape::Object(schema, id) => {
                schema.node(id).items.map_or(Shape::Deduced, |items| Shape::Node(schema, items))
            }
            other => other,
        }
    }

    /// The default of a field, which counts where an element leaves a key out.
    pub fn default_of(&self, name: &str) -> Option<&'a Value> {
        let Shape::Node(schema, id) = *self else { return None };
        let property = schema.node(id).properties.get(name)?;
        schema.node(*property).default.as_ref()
    }
}
