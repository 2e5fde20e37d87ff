//! The CEL rules of the schemas, so that files are judged like objects that pass through an API server.

use std::collections::HashMap;
use std::sync::OnceLock;

use kube_cel::{CompiledSchema, Validator, compile_schema};
use serde_json::Value;

use crate::Verdict;
use crate::crds::kind_schemas;

thread_local! {
    /// The functions available to rules; an evaluation borrows the set, so each thread has its own.
    static VALIDATOR: Validator = Validator::new();
}

/// Adds what the rules find at places where nothing has been found yet.
pub(super) fn judge(kind: &'static str, object: &Value, verdict: &mut Verdict) {
    static COMPILED: OnceLock<HashMap<&'static str, CompiledSchema>> = OnceLock::new();
    let compiled = COMPILED.get_or_init(|| {
        kind_schemas().iter().map(|kind| (kind.kind, compile_schema(&kind.schema))).collect()
    });
    let Some(schema) = compiled.get(kind) else { return };
    let result =
        VALIDATOR.with(|validator| validator.validate_compiled_with_context(schema, object, None, None));
    let Err(found) = result else { return };
    for error in found.into_vec() {
        if !verdict.errors.iter().any(|earlier| earlier.path == error.field_path) {
            verdict.error(error.field_path, error.message, "");
        }
    }
}
