//! CustomResourceDefinitions of every kind, made from the types.

use std::sync::OnceLock;

use lateen_api::meta::IstioStatus;
use lateen_api::{Resource, Scope, for_each_kind};
use schemars::JsonSchema;
use serde_json::{Value, json};

use crate::structural::schema_of;

/// A kind, its versions and the schema that they share.
#[derive(Debug, Clone, PartialEq)]
pub struct KindSchema {
    /// API group.
    pub group: &'static str,
    /// Kind.
    pub kind: &'static str,
    /// Plural.
    pub plural: &'static str,
    /// Served versions, the stored one first.
    pub versions: Vec<&'static str>,
    /// Structural schema of a whole object.
    pub schema: Value,
    definition: Value,
}

/// Every kind's definition, as `apiextensions.k8s.io/v1` objects.
pub fn crds() -> Vec<Value> {
    kind_schemas().iter().map(|kind| kind.definition.clone()).collect()
}

/// Every kind, computed once.
pub fn kind_schemas() -> &'static [KindSchema] {
    static KINDS: OnceLock<Vec<KindSchema>> = OnceLock::new();
    KINDS.get_or_init(|| {
        macro_rules! all {
            ($($kind:ty),* $(,)?) => { vec![$(kind_of::<$kind>()),*] };
        }
        for_each_kind!(all)
    })
}

/// The kind of that name.
pub fn kind_schema(kind: &str) -> Option<&'static KindSchema> {
    kind_schemas().iter().find(|schema| schema.kind == kind)
}

impl KindSchema {
    /// Whether `kubectl` would take this word, in lower case, for the kind: its name, plural, singular or a short name.
    pub fn is_called(&self, word: &str) -> bool {
        let names = &self.definition["spec"]["names"];
        let short = names["shortNames"].as_array().into_iter().flatten();
        self.kind.to_ascii_lowercase() == word
            || self.plural == word
            || names["singular"] == word
            || short.into_iter().any(|short| short == word)
    }
}

fn kind_of<T: Resource + JsonSchema>() -> KindSchema {
    let spec = schema_of::<T>();
    let mut schema = json!({
        "type": "object",
        "description": spec["description"].clone(),
        "properties": { "spec": spec, "status": schema_of::<IstioStatus>() },
    });
    if T::SPEC_REQUIRED {
        schema["required"] = json!(["spec"]);
    }
    KindSchema {
        group: T::GROUP,
        kind: T::KIND,
        plural: T::PLURAL,
        versions: T::VERSIONS.iter().filter(|version| version.served).map(|version| version.name).collect(),
        definition: definition::<T>(&schema),
        schema,
    }
}

fn definition<T: Resource>(schema: &Value) -> Value {
    let columns: Vec<Value> = T::COLUMNS
        .iter()
        .map(|column| {
            json!({
                "name": column.name,
                "type": column.kind,
                "jsonPath": column.json_path,
                "description": column.description,
            })
        })
        .collect();
    let versions: Vec<Value> = T::VERSIONS
        .iter()
        .map(|version| {
            let mut entry = json!({
                "name": version.name,
                "served": version.served,
                "storage": version.storage,
                "subresources": { "status": {} },
                "schema": { "openAPIV3Schema": schema.clone() },
            });
            if !columns.is_empty() {
                entry["additionalPrinterColumns"] = Value::Array(columns.clone());
            }
            entry
        })
        .collect();
    let mut names = json!({
        "kind": T::KIND,
        "listKind": T::LIST_KIND,
        "plural": T::PLURAL,
        "singular": T::SINGULAR,
        "categories": T::CATEGORIES,
    });
    if !T::SHORT_NAMES.is_empty() {
        names["shortNames"] = json!(T::SHORT_NAMES);
    }
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{}.{}", T::PLURAL, T::GROUP) },
        "spec": {
            "group": T::GROUP,
            "names": names,
            "scope": match T::SCOPE { Scope::Namespaced => "Namespaced", Scope::Cluster => "Cluster" },
            "conversion": { "strategy": "None" },
            "versions": versions,
        },
    })
}
