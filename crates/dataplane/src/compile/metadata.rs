//! Metadata under `envoy.lb`: by what subsets are made and asked for.

use std::collections::BTreeMap;

use lateen_envoy::envoy::config::core::v3 as core;
use lateen_envoy::google::protobuf;
use lateen_envoy::google::protobuf::value::Kind;

use crate::balance::{Criteria, HostLabels, LabelValue};

/// The namespace.
const NAMESPACE: &str = "envoy.lb";
/// What a request may name alternatives under.
const FALLBACK_LIST: &str = "fallback_list";

/// A text that is equal where the values are.
pub(crate) fn canonical(value: &protobuf::Value) -> LabelValue {
    fn write(value: &protobuf::Value, out: &mut String) {
        match &value.kind {
            None | Some(Kind::NullValue(_)) => out.push('0'),
            Some(Kind::BoolValue(flag)) => out.push_str(if *flag { "true" } else { "false" }),
            Some(Kind::NumberValue(number)) => out.push_str(&format!("#{number}")),
            Some(Kind::StringValue(text)) => out.push_str(&format!("{text:?}")),
            Some(Kind::ListValue(list)) => {
                out.push('[');
                for value in &list.values {
                    write(value, out);
                    out.push(',');
                }
                out.push(']');
            }
            Some(Kind::StructValue(value)) => {
                let sorted: BTreeMap<_, _> = value.fields.iter().collect();
                out.push('{');
                for (name, value) in sorted {
                    out.push_str(&format!("{name:?}:"));
                    write(value, out);
                    out.push(',');
                }
                out.push('}');
            }
        }
    }
    let mut out = String::new();
    write(value, &mut out);
    out.into()
}

pub(crate) fn criteria(pairs: BTreeMap<Box<str>, LabelValue>) -> Criteria {
    Criteria::new(pairs)
}

/// What a host says of itself.
pub(crate) fn host_labels(metadata: Option<&core::Metadata>) -> Option<HostLabels> {
    let own = metadata?.filter_metadata.get(NAMESPACE)?;
    let mut labels = HostLabels::default();
    for (name, value) in &own.fields {
        let elements = match &value.kind {
            Some(Kind::ListValue(list)) => list.values.iter().map(canonical).collect(),
            _ => Vec::new(),
        };
        if let (true, Some(Kind::StringValue(text))) = (name == "hash_key", &value.kind) {
            labels.hash_key = Some(text.as_str().into());
        }
        labels.values.insert(name.as_str().into(), (canonical(value), elements));
    }
    Some(labels)
}

/// What a route asks of hosts (`metadata_match`).
pub(crate) fn metadata_match(metadata: Option<core::Metadata>) -> Option<Criteria> {
    let own = metadata?.filter_metadata.remove(NAMESPACE)?;
    let mut alternatives = Vec::new();
    let mut pairs = BTreeMap::new();
    for (name, value) in own.fields {
        match (name == FALLBACK_LIST, &value.kind) {
            (true, Some(Kind::ListValue(list))) => {
                for alternative in &list.values {
                    if let Some(Kind::StructValue(fields)) = &alternative.kind {
                        let pairs = fields.fields.iter();
                        alternatives.push(criteria(
                            pairs.map(|(name, value)| (name.as_str().into(), canonical(value))).collect(),
                        ));
                    }
                }
            }
            _ => drop(pairs.insert(name.into(), canonical(&value))),
        }
    }
    let mut criteria = criteria(pairs);
    criteria.alternatives = alternatives;
    Some(criteria)
}
