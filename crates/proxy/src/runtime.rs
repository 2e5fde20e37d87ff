//! The runtime: values that configuration refers to by key (`layered_runtime` of the bootstrap).
//!
//! The layers that are there never change, so a reference is resolved before the resource is compiled: the value takes
//! the place of the default, and nothing on a request's way knows that there was a key.

use std::collections::BTreeMap;

use lateen_envoy::TypeUrl;
use lateen_envoy::envoy::config::bootstrap::v3::Bootstrap;
use lateen_envoy::envoy::config::bootstrap::v3::runtime_layer::LayerSpecifier;
use lateen_envoy::json::{from_json, to_json};
use lateen_envoy::prost::Message;
use serde_json::{Value, json};

/// The configuration of faults.
const FAULT: &str = "envoy.extensions.filters.http.fault.v3.HTTPFault";

/// All values; later layers have replaced those of earlier ones.
#[derive(Debug, Default)]
pub struct Runtime {
    values: BTreeMap<String, Value>,
}

impl Runtime {
    /// The static layers of a bootstrap.
    pub fn new(bootstrap: &Bootstrap) -> Self {
        let mut runtime = Self::default();
        let layers = bootstrap.layered_runtime.iter().flat_map(|runtime| &runtime.layers);
        for layer in layers {
            if let Some(LayerSpecifier::StaticLayer(values)) = &layer.layer_specifier {
                runtime.add("", &to_json(values));
            }
        }
        runtime
    }

    /// `{a: {b: 1}}` is the key `a.b`. A fraction, which is an object, too, is one value.
    fn add(&mut self, prefix: &str, value: &Value) {
        match value {
            Value::Object(object)
                if !object.contains_key("numerator") && !object.contains_key("denominator") =>
            {
                for (name, value) in object {
                    let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                    self.add(&key, value);
                }
            }
            value => drop(self.values.insert(prefix.to_owned(), value.clone())),
        }
    }

    /// All values by key.
    pub fn values(&self) -> &BTreeMap<String, Value> {
        &self.values
    }

    /// A value that is a number.
    pub fn number(&self, key: &str) -> Option<u64> {
        let value = self.values.get(key)?;
        value
            .as_u64()
            .or_else(|| value.as_f64().map(|number| number as u64))
            .or_else(|| value.as_str()?.parse().ok())
    }

    /// The message with the values of its runtime keys in place of their defaults.
    pub fn resolve<M: Message + TypeUrl + Default>(&self, message: M) -> M {
        if !self.is_mentioned(&message) {
            return message;
        }
        let mut value = to_json(&message);
        self.substitute(&mut value);
        from_json(&value).unwrap_or(message)
    }

    /// Whether any key that is not one of Envoy's own occurs in a message. There are seldom any, and then few.
    fn is_mentioned<M: Message>(&self, message: &M) -> bool {
        const OWN: [&str; 4] = ["envoy.", "overload.", "re2.", "upstream."];
        let mut keys =
            self.values.keys().filter(|key| !OWN.iter().any(|own| key.starts_with(own))).peekable();
        if keys.peek().is_none() {
            return false;
        }
        let bytes = message.encode_to_vec();
        let is_fault = |key: &String| key.starts_with("fault.http.");
        if self.values.keys().any(is_fault)
            && bytes.windows(FAULT.len()).any(|window| window == FAULT.as_bytes())
        {
            return true;
        }
        let bytes = &bytes;
        let prefixes = |key: &str| key.rsplit_once('.').map(|(prefix, _)| prefix.to_owned());
        let holds = |text: &str| bytes.windows(text.len().max(1)).any(|window| window == text.as_bytes());
        if self
            .values
            .keys()
            .filter_map(|key| prefixes(key))
            .any(|prefix| prefix.contains('.') && holds(&prefix))
        {
            return true;
        }
        keys.any(|key| bytes.windows(key.len().max(1)).any(|window| window == key.as_bytes()))
    }

    /// Weights of clusters (`WeightedCluster.runtime_key_prefix`): the key is the prefix, a dot and the cluster's name.
    fn substitute_weights(&self, object: &mut serde_json::Map<String, Value>) {
        let Some(prefix) = object.get("runtime_key_prefix").and_then(Value::as_str).map(str::to_owned) else {
            return;
        };
        let Some(clusters) = object.get_mut("clusters").and_then(Value::as_array_mut) else { return };
        for cluster in clusters {
            let name = cluster.get("name").and_then(Value::as_str).unwrap_or_default();
            if let Some(weight) = self.number(&format!("{prefix}.{name}")) {
                cluster["weight"] = json!(weight);
            }
        }
    }

    /// Shares and values of faults (`HTTPFault.*_runtime`), by keys of the configuration or Envoy's own.
    fn substitute_faults(&self, object: &mut serde_json::Map<String, Value>) {
        if !object.get("@type").and_then(Value::as_str).is_some_and(|kind| kind.ends_with(FAULT)) {
            return;
        }
        let key = |field: &str, default: &str| {
            let own = object.get(field).and_then(Value::as_str);
            self.number(own.unwrap_or(default))
        };
        let changes = [
            ("delay", "percentage", key("delay_percent_runtime", "fault.http.delay.fixed_delay_percent")),
            ("delay", "fixed_delay", key("delay_duration_runtime", "fault.http.delay.fixed_duration_ms")),
            ("abort", "percentage", key("abort_percent_runtime", "fault.http.abort.abort_percent")),
            ("abort", "http_status", key("abort_http_status_runtime", "fault.http.abort.http_status")),
        ];
        for (part, field, number) in changes {
            let (Some(number), Some(part)) = (number, object.get_mut(part).and_then(Value::as_object_mut))
            else {
                continue;
            };
            match field {
                "percentage" => {
                    let share = part.entry(field).or_insert_with(|| json!({}));
                    share["numerator"] = json!(number);
                }
                "fixed_delay" if part.contains_key(field) => {
                    part.insert(field.to_owned(), json!(format!("{}.{:03}s", number / 1000, number % 1000)));
                }
                // Of a fault of another kind it says nothing.
                field if part.contains_key(field) => drop(part.insert(field.to_owned(), json!(number))),
                _ => {}
            }
        }
    }

    fn substitute(&self, value: &mut Value) {
        match value {
            Value::Object(object) => {
                let key = object.get("runtime_key").and_then(Value::as_str);
                if let Some(found) = key.and_then(|key| self.values.get(key)) {
                    let default = object.get("default_value").unwrap_or(&Value::Null);
                    if let Some(value) = in_place_of(default, found) {
                        object.insert("default_value".to_owned(), value);
                    }
                }
                self.substitute_weights(object);
                self.substitute_faults(object);
                object.values_mut().for_each(|value| self.substitute(value));
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.substitute(item)),
            _ => {}
        }
    }
}

/// A runtime value in the shape of the default that it replaces: a fraction, a percentage, a number or a truth value.
fn in_place_of(default: &Value, value: &Value) -> Option<Value> {
    match (default, value) {
        (Value::Object(default), Value::Number(number)) if default.contains_key("value") => {
            Some(json!({"value": number}))
        }
        // A plain number is a percentage.
        (Value::Object(_), Value::Number(number)) => Some(json!({"numerator": number.as_f64()? as u32})),
        (Value::Object(_), Value::Object(fraction)) => Some(Value::Object(fraction.clone())),
        (Value::Bool(_), Value::Number(number)) => Some(Value::Bool(number.as_f64()? != 0.0)),
        (Value::Bool(_) | Value::Null, Value::Bool(value)) => Some(Value::Bool(*value)),
        (Value::Number(_) | Value::Null, Value::Number(number)) => {
            // Whole numbers are written without a point, as integer fields want them.
            let number = number.as_f64()?;
            Some(if number.fract() == 0.0 { json!(number as i64) } else { json!(number) })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lateen_envoy::envoy::config::route::v3::RouteConfiguration;

    fn runtime() -> Runtime {
        let layers = "layered_runtime: {layers: [
            {name: one, static_layer: {a: {share: 20, flag: true}, b: 7}},
            {name: two, static_layer: {a.share: {numerator: 5, denominator: TEN_THOUSAND}, overload.max: 9}}]}";
        Runtime::new(&crate::bootstrap::parse(layers, None).unwrap())
    }

    #[test]
    fn layers_are_merged_and_later_ones_win() {
        let runtime = runtime();
        assert_eq!(runtime.values["a.share"], json!({"numerator": 5, "denominator": "TEN_THOUSAND"}));
        assert_eq!(runtime.number("b"), Some(7));
        assert_eq!(runtime.number("overload.max"), Some(9));
        assert_eq!(runtime.number("c"), None);
    }

    #[test]
    fn values_take_the_place_of_defaults() {
        let table = |key: &str| -> RouteConfiguration {
            let fraction = json!({"default_value": {"numerator": 100}, "runtime_key": key});
            let route =
                json!({"match": {"prefix": "/", "runtime_fraction": fraction}, "route": {"cluster": "c"}});
            from_json(
                &json!({"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [route]}]}),
            )
            .unwrap()
        };
        let numerator = |table: RouteConfiguration| {
            let condition = table.virtual_hosts[0].routes[0].r#match.clone().unwrap();
            let value = condition.runtime_fraction.unwrap().default_value.unwrap();
            (value.numerator, value.denominator)
        };
        let runtime = runtime();
        assert_eq!(numerator(runtime.resolve(table("a.share"))), (5, 1));
        assert_eq!(numerator(runtime.resolve(table("b"))), (7, 0));
        assert_eq!(numerator(runtime.resolve(table("unknown"))), (100, 0));
    }

    #[test]
    fn weights_and_faults() {
        let layers = "layered_runtime: {layers: [{name: s, static_layer: {shop.weights: {a: 30, b: 70},
            fault.http.abort.abort_percent: 5, my.delay: 250, my.share: 7}}]}";
        let runtime = Runtime::new(&crate::bootstrap::parse(layers, None).unwrap());
        let fault = json!({"@type": format!("type.googleapis.com/{FAULT}"),
            "abort": {"http_status": 503, "percentage": {"numerator": 100}},
            "delay": {"fixed_delay": "1s", "percentage": {"numerator": 1}},
            "delay_duration_runtime": "my.delay", "delay_percent_runtime": "my.share"});
        let weighted = json!({"runtime_key_prefix": "shop.weights",
            "clusters": [{"name": "a", "weight": 1}, {"name": "b", "weight": 1}, {"name": "c", "weight": 1}]});
        let table: RouteConfiguration = from_json(&json!({"name": "r", "virtual_hosts": [{
            "name": "v", "domains": ["*"], "typed_per_filter_config": {"f": fault},
            "routes": [{"match": {"prefix": "/"}, "route": {"weighted_clusters": weighted}}]}]}))
        .unwrap();
        let resolved = to_json(&runtime.resolve(table));
        let host = &resolved["virtual_hosts"][0];
        let clusters = &host["routes"][0]["route"]["weighted_clusters"]["clusters"];
        let weights: Vec<&Value> = (0..3).map(|at| &clusters[at]["weight"]).collect();
        assert_eq!(weights, [30, 70, 1]);
        let fault = &host["typed_per_filter_config"]["f"];
        assert_eq!(fault["abort"]["percentage"]["numerator"], 5);
        assert_eq!(fault["abort"]["http_status"], 503);
        assert_eq!(fault["delay"]["percentage"]["numerator"], 7);
        assert_eq!(fault["delay"]["fixed_delay"], "0.250s");
    }

    #[test]
    fn shapes() {
        for (name, default, value, expect) in [
            ("percent", json!({"value": 1.0}), json!(30), Some(json!({"value": 30}))),
            ("fraction of a number", json!({"numerator": 1}), json!(30), Some(json!({"numerator": 30}))),
            ("flag", json!(true), json!(false), Some(json!(false))),
            ("flag of a number", json!(true), json!(0), Some(json!(false))),
            ("no default", Value::Null, json!(true), Some(json!(true))),
            ("number", json!(3), json!(4.0), Some(json!(4))),
            ("text", json!(3), json!("x"), None),
        ] {
            assert_eq!(in_place_of(&default, &value), expect, "{name}");
        }
    }
}
