//! YAML and JSON text into objects that remember their lines.
//!
//! What validation and analysis say about a file names its line. The deserializer knows where each value stands, so
//! one pass makes both the value and a map from paths to lines.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;

use crate::check::join;

/// One object of a file: a document, or an item of a document that is a `List`.
#[derive(Debug, Clone)]
pub struct Document {
    /// The object.
    pub value: Value,
    lines: Arc<HashMap<String, usize>>,
    /// Path of the object within its document.
    root: String,
}

/// Why a text is not a sequence of documents.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SyntaxError {
    /// What is wrong, with the place in words.
    pub message: String,
    /// Line of the text, from 1; 0 where it is not known.
    pub line: usize,
}

/// Reads all documents of a text; empty ones are left out, those of lists are taken out of them.
pub fn documents(text: &str) -> Result<Vec<Document>, SyntaxError> {
    let nodes: Vec<Node> = serde_saphyr::from_multiple(text).map_err(|error| {
        let line = error.location().map_or(0, |location| location.line() as usize);
        // The library draws the place over several lines; the first says what is wrong.
        let message = error.to_string().lines().next().unwrap_or_default().to_owned();
        SyntaxError { message, line }
    })?;
    let mut found = Vec::new();
    for node in nodes {
        let mut lines = HashMap::new();
        let value = node.collect("", &mut lines);
        flatten(Document { value, lines: Arc::new(lines), root: String::new() }, &mut found);
    }
    Ok(found)
}

fn flatten(mut document: Document, found: &mut Vec<Document>) {
    let is_list = document.value["kind"].as_str().is_some_and(|kind| kind.ends_with("List"));
    let items = match document.value.get_mut("items") {
        Some(Value::Array(items)) if is_list => std::mem::take(items),
        _ => {
            if !document.value.is_null() {
                found.push(document);
            }
            return;
        }
    };
    for (index, value) in items.into_iter().enumerate() {
        let root = format!("{}[{index}]", join(&document.root, "items"));
        flatten(Document { value, lines: document.lines.clone(), root }, found);
    }
}

// === impl Document ===

impl Document {
    /// An object that was in no text.
    pub fn without_lines(value: Value) -> Self {
        Self { value, lines: Arc::default(), root: String::new() }
    }

    /// Line of the text, from 1, in which the value at `path` (such as `spec.http[0].route`) begins; of the nearest
    /// value around it where the text has none there; 0 where nothing is known.
    pub fn line(&self, path: &str) -> usize {
        let mut path = match (self.root.is_empty(), path.is_empty()) {
            (true, _) => path.to_owned(),
            (false, true) => self.root.clone(),
            (false, false) => format!("{}.{path}", self.root),
        };
        loop {
            if let Some(line) = self.lines.get(&path) {
                return *line;
            }
            if path.is_empty() {
                return 0;
            }
            let cut = path.rfind(['.', '[']).unwrap_or(0);
            path.truncate(cut);
        }
    }
}

type Node = Spanned<Content>;

/// A value whose parts know where they stand.
enum Content {
    Scalar(Value),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

trait Collect {
    fn collect(self, path: &str, lines: &mut HashMap<String, usize>) -> Value;
}

impl Collect for Node {
    fn collect(self, path: &str, lines: &mut HashMap<String, usize>) -> Value {
        let line = self.referenced.line() as usize;
        if line > 0 {
            lines.insert(path.to_owned(), line);
        }
        match self.value {
            Content::Scalar(value) => value,
            Content::List(items) => items
                .into_iter()
                .enumerate()
                .map(|(index, item)| item.collect(&format!("{path}[{index}]"), lines))
                .collect(),
            Content::Object(fields) => {
                let mut object = Map::new();
                for (name, node) in fields {
                    let place = join(path, &name);
                    object.insert(name, node.collect(&place, lines));
                }
                Value::Object(object)
            }
        }
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

fn number(number: f64) -> Value {
    Number::from_f64(number).map_or(Value::Null, Value::Number)
}

macro_rules! scalars {
    ($($method:ident($type:ty) => $make:expr),* $(,)?) => {
        $(fn $method<E>(self, value: $type) -> Result<Content, E> {
            Ok(Content::Scalar($make(value)))
        })*
    };
}

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }

    scalars! {
        visit_bool(bool) => Value::Bool,
        visit_i64(i64) => Value::from,
        visit_u64(u64) => Value::from,
        visit_f64(f64) => number,
        visit_str(&str) => Value::from,
        visit_string(String) => Value::from,
    }

    fn visit_unit<E>(self) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Content, D::Error> {
        Content::deserialize(deserializer)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Content, D::Error> {
        Content::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Content, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Content::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Content, A::Error> {
        let mut object = Vec::new();
        while let Some(field) = fields.next_entry()? {
            object.push(field);
        }
        Ok(Content::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# a comment
kind: Gateway
metadata:
  name: a
  annotations: {a.b/c: d}
spec:
  servers:
  - port:
      number: 80
    hosts: ['*']
---
apiVersion: v1
kind: List
items:
- kind: Service
  metadata: {name: b}
- kind: Pod
  spec:
    hostNetwork: true
---
---
{\"kind\": \"Namespace\"}
";

    #[test]
    fn values_and_lines() {
        let documents = documents(TEXT).unwrap();
        let kinds: Vec<_> =
            documents.iter().map(|document| document.value["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["Gateway", "Service", "Pod", "Namespace"]);
        assert_eq!(documents[0].value["spec"]["servers"][0]["port"]["number"], 80);
        for (name, index, path, line) in [
            ("document", 0, "", 2),
            ("scalar", 0, "metadata.name", 4),
            ("key with other letters", 0, "metadata.annotations[\"a.b/c\"]", 5),
            ("deep", 0, "spec.servers[0].port.number", 9),
            ("absent: the nearest around it", 0, "spec.servers[0].tls.mode", 8),
            ("item of a list", 1, "", 15),
            ("in an item", 2, "spec.hostNetwork", 19),
            ("json", 3, "kind", 22),
        ] {
            assert_eq!(documents[index].line(path), line, "{name}");
        }
    }

    #[test]
    fn errors_name_the_line() {
        let error = documents("a: b\nc: [d\n").unwrap_err();
        assert!(error.line >= 2, "{error:?}");
        assert!(!error.message.is_empty());
    }
}
