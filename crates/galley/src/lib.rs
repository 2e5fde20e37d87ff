//! Configuration, from text to a verdict.
//!
//! Galley knows what a valid object looks like: it makes the CustomResourceDefinitions from the types of `lateen-api`
//! ([`crds`]), reads documents into those types with errors that name the place ([`read`]), and judges what no schema
//! can say, such as weights that do not fit or a regular expression that does not parse ([`validate`]), and looks at
//! all objects together for what is hardly meant ([`mod@analyze`]). All of it is
//! functions from values to values: the webhook, the command line and the registry ask the same judge.

pub mod analyze;
mod check;
mod crds;
pub mod derived;
mod document;
pub mod mesh;
mod read;
mod registries;
mod structural;
mod validate;
mod verdict;

pub use check::{UnknownFields, check_schema};
pub use crds::{KindSchema, crds, kind_schema, kind_schemas};
pub use derived::Derived;
pub use document::{Document, SyntaxError, documents};
pub use read::{ReadError, ReadObject, read, read_value};
pub use registries::validate_registries;
pub use structural::schema_of;
pub use validate::{validate, validate_kind};
pub use verdict::{Finding, Problem, Verdict};
