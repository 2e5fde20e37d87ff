//! The table of handled fields of our API, `docs/fields-istio.md`: made by asking the compiler, one field at a time.
//!
//! For every field of every kind's schema, an object is made that has this field (and what the objects around it need
//! to be read), and `lateen_pilot::unhandled` is asked about it. `LATEEN_BLESS=1` writes the table; without it the test
//! says when it is not current.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use lateen_galley::{KindSchema, kind_schemas};
use lateen_model::{ConfigKind, ConfigObject, Meta};
use serde_json::{Map, Value, json};

/// A field: its place for people, and how an object gets it.
struct Field<'a> {
    shown: String,
    steps: Vec<Step<'a>>,
    schema: &'a Value,
}

#[derive(Clone)]
enum Step<'a> {
    /// A field of an object with this schema.
    Name(&'a str, &'a Value),
    /// The only entry of a list.
    Item,
    /// The only entry of a map.
    Key,
}

const KEY: &str = "k";

fn fields<'a>(schema: &'a Value, shown: &str, steps: &[Step<'a>], found: &mut Vec<Field<'a>>) {
    let (mut shown, mut steps, mut schema) = (shown.to_owned(), steps.to_vec(), schema);
    loop {
        if schema["items"].is_object() {
            schema = &schema["items"];
            steps.push(Step::Item);
            shown.push_str("[]");
        } else if schema["additionalProperties"].is_object() {
            schema = &schema["additionalProperties"];
            steps.push(Step::Key);
            shown.push_str("{}");
        } else {
            break;
        }
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let shown = if shown.is_empty() { name.clone() } else { format!("{shown}.{name}") };
        let mut steps = steps.clone();
        steps.push(Step::Name(name, schema));
        found.push(Field { shown: shown.clone(), steps: steps.clone(), schema: property });
        fields(property, &shown, &steps, found);
    }
}

/// Values to try for a schema, so that at least one can be read.
fn samples(schema: &Value) -> Vec<Value> {
    if let Some(values) = schema["enum"].as_array() {
        return values.clone();
    }
    match schema["type"].as_str() {
        Some("string") => ["1s", "a", "10.0.0.0/8", "1"].map(Value::from).to_vec(),
        Some("integer" | "number") => vec![json!(1)],
        Some("boolean") => vec![json!(true)],
        Some("array") => samples(&schema["items"]).into_iter().map(|item| json!([item])).collect(),
        Some("object") if schema["additionalProperties"].is_object() => {
            samples(&schema["additionalProperties"]).into_iter().map(|value| json!({KEY: value})).collect()
        }
        Some("object") => vec![Value::Object(needed(schema))],
        _ => vec![json!("1"), json!({})],
    }
}

/// What an object needs to be read at all.
fn needed(schema: &Value) -> Map<String, Value> {
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    required.map(|name| (name.to_owned(), samples(&schema["properties"][name]).swap_remove(0))).collect()
}

/// Puts a value where the steps lead.
fn around(steps: &[Step<'_>], value: Value) -> Value {
    steps.iter().rev().fold(value, |value, step| match step {
        Step::Item => json!([value]),
        Step::Key => json!({KEY: value}),
        Step::Name(name, schema) => {
            let mut object = needed(schema);
            object.insert((*name).to_owned(), value);
            Value::Object(object)
        }
    })
}

/// The place as the compiler writes it.
fn path(steps: &[Step<'_>]) -> String {
    let mut path = "spec".to_owned();
    for step in steps {
        match step {
            Step::Item => path.push_str("[0]"),
            Step::Key => write!(path, ".{KEY}").unwrap(),
            Step::Name(name, _) => write!(path, ".{name}").unwrap(),
        }
    }
    path
}

/// What becomes of a field.
fn ask(kind: &KindSchema, field: &Field<'_>) -> &'static str {
    let place = path(&field.steps);
    let (mut read, mut reported) = (0, 0);
    for value in samples(field.schema) {
        let Some(parsed) = ConfigKind::parse(kind.kind) else { continue };
        let meta = Meta { namespace: "default".into(), name: "a".to_owned(), ..Meta::default() };
        let Ok(object) = ConfigObject::from_json(parsed, meta, around(&field.steps, value)) else { continue };
        read += 1;
        let found = lateen_pilot::unhandled(&object);
        let about = found.iter().map(|found| found.replace(&format!("[\"{KEY}\"]"), &format!(".{KEY}"))).any(
            |found| {
                // The field itself, or all of what it is in.
                place
                    .strip_prefix(found.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            },
        );
        reported += usize::from(about);
    }
    match (read, reported) {
        (0, _) => "*not asked*",
        (_, 0) => "handled",
        (read, reported) if read == reported => "reported, no effect",
        _ => "handled in part",
    }
}

fn table() -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut tables = String::new();
    for kind in kind_schemas() {
        let mut found = Vec::new();
        fields(&kind.schema["properties"]["spec"], "", &[], &mut found);
        write!(tables, "\n## {}\n\n| field | |\n|---|---|\n", kind.kind).unwrap();
        for field in &found {
            let answer = ask(kind, field);
            *counts.entry(answer).or_default() += 1;
            writeln!(tables, "| `{}` | {answer} |", field.shown).unwrap();
        }
    }
    let mut text = "\
# Fields of Istio's kinds

What the control plane does with every field of the kinds that it serves. This file is made by a test that asks the
compiler about an object for each field (`LATEEN_BLESS=1 cargo test -p lateen-corpora --test fields`); do not edit it.

- *handled*: nothing says that it has no effect;
- *handled in part*: some of its values have no effect;
- *reported, no effect*: a warning names its path when the object is written, and in its status.

"
    .to_owned();
    for (answer, count) in counts {
        writeln!(text, "- {answer}: {count}").unwrap();
    }
    text + &tables
}

#[test]
fn the_table_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/fields-istio.md");
    let table = table();
    if std::env::var_os("LATEEN_BLESS").is_some() {
        std::fs::write(path, table).unwrap();
        return;
    }
    let recorded = std::fs::read_to_string(path).unwrap_or_default();
    let differs = table.lines().zip(recorded.lines()).find(|(is, was)| is != was);
    assert!(
        table == recorded,
        "docs/fields-istio.md is not current ({differs:?}): LATEEN_BLESS=1 cargo test -p lateen-corpora --test fields"
    );
}
