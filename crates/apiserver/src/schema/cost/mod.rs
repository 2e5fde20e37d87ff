//! What CEL rules may cost: an estimate from the schema when a definition is written, and a bound from the values
//! themselves before rules are evaluated, so that no rule can hold up the server.
//!
//! Costs are counted as Kubernetes counts them (cel-go's cost model: about one for each step of an evaluation, a tenth
//! for each character that is looked at), and the limits on definitions are Kubernetes' (documentation, "Resource use by
//! validation functions"). The interpreter has no meter, so what is compared with the limits at run time is a bound: the
//! same estimate, with the sizes of the object at hand in place of the schema's maxima. It is never less than what an
//! evaluation takes, and it is known before one begins.

mod estimate;
mod extent;

use crate::status::{Cause, CauseReason};
use estimate::estimate;
use extent::{Extent, REQUEST_BYTES, smallest};
use kube_cel::cel::Program;
use serde_json::Value;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

/// What a rule of a definition may cost, all its places in an object together.
pub const RULE_LIMIT: u64 = 10_000_000;
/// What all rules of a version may cost together.
pub const SCHEMA_LIMIT: u64 = 100_000_000;
/// What all rules may cost for one request.
pub const REQUEST_LIMIT: u64 = 10_000_000;
/// The most expensive rules that are named when a version is too expensive as a whole.
const NAMED: usize = 4;

/// Programs by their text, or why there is none: large schemas repeat few rules in many places.
#[derive(Debug, Default)]
pub struct Programs(HashMap<String, Result<Arc<Program>, String>>);

impl Programs {
    /// The program of a text.
    pub fn of(&mut self, text: &str) -> Result<Arc<Program>, String> {
        if let Some(known) = self.0.get(text) {
            return known.clone();
        }
        let program = Program::compile(text).map(Arc::new).map_err(|error| error.to_string());
        self.0.insert(text.to_owned(), program.clone());
        program
    }
}

/// Findings about rules of a schema that could cost too much.
pub fn check(document: &Value, path: &str, programs: &mut Programs, causes: &mut Vec<Cause>) {
    let mut priced = Vec::new();
    walk(document, path, 1, programs, &mut priced);
    let before = causes.len();
    for (place, cost) in &priced {
        if *cost > RULE_LIMIT {
            let what = if place.ends_with("messageExpression") { "messageExpression" } else { "rule" };
            causes.push(Cause::forbidden(
                place.clone(),
                exceeds(&format!("estimated {what} cost"), what, *cost, RULE_LIMIT),
            ));
        }
    }
    let total = priced.iter().fold(0_u64, |total, (_, cost)| total.saturating_add(*cost));
    if total <= SCHEMA_LIMIT || causes.len() > before {
        return;
    }
    let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
    priced.sort_by_key(|(_, cost)| std::cmp::Reverse(*cost));
    for (place, _) in priced.into_iter().take(NAMED) {
        let text =
            "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
        causes.push(Cause::forbidden(place, text));
    }
    causes.push(Cause::forbidden(path, exceeds(what, "rules", total, SCHEMA_LIMIT)));
}

/// Kubernetes' words for too high a cost.
fn exceeds(what: &str, simplify: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = match factor {
        factor if factor > 100.0 => "more than 100x".to_owned(),
        factor if factor < 1.5 => format!("{factor:.3}x"),
        factor => format!("{factor:.1}x"),
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the {simplify}, or adding maxItems, \
         maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}

/// Collects every rule of a schema with its cost. `count` is how often the schema's value may occur in an object.
fn walk(schema: &Value, path: &str, count: u64, programs: &mut Programs, priced: &mut Vec<(String, u64)>) {
    let rules = schema["x-kubernetes-validations"].as_array();
    if let Some(rules) = rules.filter(|rules| !rules.is_empty()) {
        let own = Rc::new(Extent::of_schema(schema));
        for (index, rule) in rules.iter().enumerate() {
            for field in ["rule", "messageExpression"] {
                if let Some(Ok(program)) = rule[field].as_str().map(|text| programs.of(text)) {
                    let cost = estimate(&program, own.clone(), Some(own.clone()));
                    let place = format!("{path}.x-kubernetes-validations[{index}].{field}");
                    priced.push((place, cost.saturating_mul(count)));
                }
            }
        }
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(property, &format!("{path}.properties[{name}]"), count, programs, priced);
    }
    for field in ["items", "additionalProperties"] {
        let child = &schema[field];
        if child.is_object() {
            // No more of them than fit into a request.
            let fit = REQUEST_BYTES / (smallest(child) + 1);
            let count = count.saturating_mul(Extent::of_schema(schema).size).min(fit.max(1));
            walk(child, &format!("{path}.{field}"), count, programs, priced);
        }
    }
}

/// The rules of a schema, ready to be held against objects.
#[derive(Debug, Default)]
pub struct Prices {
    rules: Vec<(String, Arc<Program>)>,
    properties: Vec<(String, Prices)>,
    /// Of lists.
    items: Option<Box<Prices>>,
    /// Of maps.
    additional: Option<Box<Prices>>,
}

impl Prices {
    /// The rules of a schema; `None` where there are none in it.
    pub fn of(schema: &Value) -> Option<Prices> {
        Prices::made(schema, &mut Programs::default())
    }

    fn made(schema: &Value, programs: &mut Programs) -> Option<Prices> {
        if !schema.is_object() {
            return None;
        }
        let mut prices = Prices::default();
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            for field in ["rule", "messageExpression"] {
                let text = rule[field].as_str().unwrap_or_default();
                prices.rules.extend(programs.of(text).ok().map(|program| (text.to_owned(), program)));
            }
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            prices.properties.extend(Prices::made(property, programs).map(|child| (name.clone(), child)));
        }
        prices.items = Prices::made(&schema["items"], programs).map(Box::new);
        prices.additional = Prices::made(&schema["additionalProperties"], programs).map(Box::new);
        let none = prices.rules.is_empty()
            && prices.properties.is_empty()
            && prices.items.is_none()
            && prices.additional.is_none();
        (!none).then_some(prices)
    }

    /// A bound on what the rules cost for an object; what is to be said where that is too much.
    pub fn bound(&self, object: &Value, old: Option<&Value>, limit: u64) -> Result<u64, Cause> {
        let mut total = 0;
        self.add(object, old, "", limit, &mut total)?;
        Ok(total)
    }

    fn add(
        &self,
        object: &Value,
        old: Option<&Value>,
        path: &str,
        limit: u64,
        total: &mut u64,
    ) -> Result<(), Cause> {
        if !self.rules.is_empty() {
            let own = Rc::new(Extent::of_value(object));
            let before = old.map(|old| Rc::new(Extent::of_value(old)));
            for (text, program) in &self.rules {
                let cost = estimate(program, own.clone(), before.clone());
                *total = total.saturating_add(cost);
                if *total > limit {
                    return Err(too_much(path, text, cost, *total, limit));
                }
            }
        }
        for (name, child) in &self.properties {
            if let Some(value) = object.get(name) {
                let old = old.and_then(|old| old.get(name));
                child.add(value, old, &format!("{path}.{name}"), limit, total)?;
            }
        }
        if let (Some(child), Some(list)) = (&self.items, object.as_array()) {
            // Elements may be matched by key: the bound is for whichever it is.
            let old = old.and_then(Value::as_array);
            let old = old.and_then(|old| old.iter().max_by_key(|value| Extent::of_value(value).weight()));
            for (index, value) in list.iter().enumerate() {
                child.add(value, old, &format!("{path}[{index}]"), limit, total)?;
            }
        }
        if let (Some(child), Some(map)) = (&self.additional, object.as_object()) {
            for (name, value) in map {
                let old = old.and_then(|old| old.get(name));
                child.add(value, old, &format!("{path}[{name}]"), limit, total)?;
            }
        }
        Ok(())
    }
}

fn too_much(path: &str, rule: &str, cost: u64, total: u64, limit: u64) -> Cause {
    let message = if cost > limit / 2 {
        format!(
            "call cost exceeds limit for rule: {rule}: it could cost {cost}, and a request may cost {limit}"
        )
    } else {
        format!(
            "validation failed due to running out of cost budget, no further validation rules will be run: the rules \
             up to this one could cost {total}, and a request may cost {limit}: {rule}"
        )
    };
    let text = format!("Forbidden: {message}; make the lists, maps and texts smaller that the rules look at");
    Cause::new(CauseReason::Forbidden, path.trim_start_matches('.'), text)
}

#[cfg(test)]
mod tests;
