//! What the corpora have of configuration, whatever question they ask about it: each set of objects with the proxies that
//! it could concern. All data planes must take what comes of it.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::report::{cases, text};

/// A set of objects, and where it is from.
#[derive(Debug, Clone)]
pub struct Input {
    /// The corpus and the case.
    pub name: String,
    /// Valid objects, none of them twice.
    pub objects: Vec<Value>,
}

/// All sets of objects of the folders that are there.
pub fn inputs(corpora: &Path) -> anyhow::Result<Vec<Input>> {
    let mut found = Vec::new();
    for (corpus, read) in READERS {
        let folder = corpora.join(corpus);
        if folder.is_dir() {
            for (case, objects) in read(&folder)? {
                let objects = usable(objects);
                if !objects.is_empty() {
                    found.push(Input { name: format!("{corpus} {case}"), objects });
                }
            }
        }
    }
    Ok(found)
}

type Sets = Vec<(String, Vec<Value>)>;
type Reader = fn(&Path) -> anyhow::Result<Sets>;

const READERS: [(&str, Reader); 5] = [
    ("analyze", analyzed),
    ("validation", validated),
    ("crd-validation", defined),
    ("samples", samples),
    ("ingress-conversion", files),
];

/// What a cluster would take: valid, with a namespace, the later of two with one name.
fn usable(objects: Vec<Value>) -> Vec<Value> {
    let mut kept: BTreeMap<[String; 3], Value> = BTreeMap::new();
    for mut object in objects {
        let is_set = |object: &Value, field: &str| {
            object["metadata"][field].as_str().is_some_and(|text| !text.is_empty())
        };
        if !object.is_object() || !is_set(&object, "name") || !lateen_galley::validate(&object).is_valid() {
            continue;
        }
        if !is_set(&object, "namespace") {
            object["metadata"]["namespace"] = "default".into();
        }
        let part = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let key = [part("/kind"), part("/metadata/namespace"), part("/metadata/name")];
        kept.insert(key, object);
    }
    kept.into_values().collect()
}

fn read(path: &Path) -> anyhow::Result<Vec<Value>> {
    // What is no YAML is one of the questions that a corpus asks.
    Ok(serde_saphyr::from_multiple(&std::fs::read_to_string(path)?).unwrap_or_default())
}

fn analyzed(folder: &Path) -> anyhow::Result<Sets> {
    let mut sets = Sets::new();
    for case in cases(folder)? {
        let nested = case["clusters"].as_array().into_iter().flatten().filter_map(Value::as_array).flatten();
        let files = case["inputs"].as_array().into_iter().flatten().chain(nested);
        let mut objects = Vec::new();
        for file in files.filter_map(Value::as_str) {
            objects.extend(read(&folder.join(file))?);
        }
        sets.push((text(&case, "name").to_owned(), objects));
    }
    Ok(sets)
}

fn validated(folder: &Path) -> anyhow::Result<Sets> {
    let set = |case: Value| {
        let object = match case["object"].is_object() {
            true => case["object"].clone(),
            false => {
                let (kind, spec) = crate::validation::around(&case);
                json!({"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": {"name": "a"}, "spec": spec})
            }
        };
        (text(&case, "name").to_owned(), vec![object])
    };
    Ok(cases(folder)?.into_iter().map(set).collect())
}

fn defined(folder: &Path) -> anyhow::Result<Sets> {
    let set = |case: Value| Ok((text(&case, "name").to_owned(), read(&folder.join(text(&case, "file")))?));
    cases(folder)?.into_iter().map(set).collect()
}

fn files(folder: &Path) -> anyhow::Result<Sets> {
    let mut sets = Sets::new();
    let mut entries: Vec<_> = std::fs::read_dir(folder)?.collect::<std::io::Result<_>>()?;
    entries.sort_by_key(std::fs::DirEntry::path);
    for entry in entries {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if path.is_dir() {
            sets.extend(files(&path)?.into_iter().map(|(inner, set)| (format!("{name}/{inner}"), set)));
        } else if name.ends_with(".yaml") || name.ends_with(".yml") {
            sets.push((name, read(&path)?));
        }
    }
    Ok(sets)
}

/// Each file, with the services of its sample.
fn samples(folder: &Path) -> anyhow::Result<Sets> {
    let sets = files(folder)?;
    let sample = |name: &str| name.split('/').next().unwrap_or_default().to_owned();
    let mut services: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for (name, objects) in &sets {
        let found = objects.iter().filter(|object| text(object, "kind") == "Service").cloned();
        services.entry(sample(name)).or_default().extend(found);
    }
    let with_services = |(name, own): (String, Vec<Value>)| {
        let around = services.get(&sample(&name)).cloned().unwrap_or_default();
        let objects = around.into_iter().chain(own).collect();
        (name, objects)
    };
    Ok(sets.into_iter().map(with_services).collect())
}

impl Input {
    /// Proxies that the objects could concern: a sidecar, a gateway and a client of gRPC, in the namespace where most of
    /// the objects are, with the labels that they ask for.
    pub fn proxies(&self) -> Vec<Value> {
        let namespaces = self.objects.iter().filter_map(|object| object["metadata"]["namespace"].as_str());
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        namespaces.for_each(|namespace| *counts.entry(namespace).or_default() += 1);
        let namespace =
            counts.into_iter().max_by_key(|(_, count)| *count).map_or("default", |(name, _)| name);
        let labels_at = |pointers: &[&str]| {
            let mut labels = serde_json::Map::new();
            for object in &self.objects {
                for found in pointers.iter().filter_map(|pointer| object.pointer(pointer)?.as_object()) {
                    labels.extend(found.clone());
                }
            }
            Value::Object(labels)
        };
        let selectors = [
            "/spec/workloadSelector/labels",
            "/spec/workloadSelector/matchLabels",
            "/spec/selector/matchLabels",
        ];
        let mut gateway = json!({"istio": "ingressgateway"});
        if let (Some(all), Value::Object(asked)) = (gateway.as_object_mut(), labels_at(&["/spec/selector"])) {
            all.extend(asked.into_iter().filter(|(_, value)| value.is_string()));
        }
        vec![
            json!({"type": "sidecar", "namespace": namespace, "labels": labels_at(&selectors)}),
            json!({"type": "router", "namespace": namespace, "labels": gateway}),
            json!({"type": "sidecar", "namespace": namespace, "labels": labels_at(&selectors), "generator": "grpc"}),
        ]
    }
}
