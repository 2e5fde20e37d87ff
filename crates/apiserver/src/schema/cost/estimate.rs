//! What an expression costs, given how large the values are that it looks at.

use super::extent::Extent;
use kube_cel::cel::Program;
use kube_cel::cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue, operators};
use std::rc::Rc;

/// Making a list, a map, an object (cel-go's `ListCreateBaseCost` and so on).
const NEW_LIST: u64 = 10;
const NEW_MAP: u64 = 30;
const NEW_OBJECT: u64 = 40;
/// What functions are gathered under.
const NAMESPACES: [&str; 5] = ["sets", "strings", "base64", "math", "cel"];
/// Digits of a number.
const NUMBER: u64 = 24;

/// What an evaluation costs at most.
pub fn estimate(program: &Program, own: Rc<Extent>, old: Option<Rc<Extent>>) -> u64 {
    let mut estimator = Estimator { variables: Vec::new() };
    if let Some(old) = old {
        estimator.variables.push(("oldSelf".to_owned(), old));
    }
    estimator.variables.push(("self".to_owned(), own));
    estimator.expression(&program.expression().expr).cost
}

struct Estimator {
    /// What is bound, innermost last.
    variables: Vec<(String, Rc<Extent>)>,
}

/// What an expression costs, and how large its value is.
struct Price {
    cost: u64,
    extent: Rc<Extent>,
}

impl Price {
    fn new(cost: u64, extent: Extent) -> Price {
        Price { cost, extent: Rc::new(extent) }
    }
}

impl Estimator {
    fn expression(&mut self, expression: &Expr) -> Price {
        match expression {
            Expr::Literal(LiteralValue::String(text)) => {
                Price::new(0, Extent::text(text.inner().chars().count() as u64))
            }
            Expr::Literal(_) | Expr::Unspecified => Price::new(0, Extent::scalar()),
            Expr::Ident(name) => {
                let bound = self.variables.iter().rev().find(|(known, _)| known == name);
                Price {
                    cost: 1,
                    extent: bound.map_or_else(|| Rc::new(Extent::scalar()), |(_, extent)| extent.clone()),
                }
            }
            Expr::Select(select) => {
                let operand = self.expression(&select.operand.expr);
                let extent = match select.test {
                    true => Rc::new(Extent::scalar()),
                    false => operand.extent.field(&select.field).unwrap_or_default(),
                };
                Price { cost: operand.cost.saturating_add(1), extent }
            }
            Expr::List(list) => {
                let elements: Vec<Price> =
                    list.elements.iter().map(|element| self.expression(&element.expr)).collect();
                let extent = elements.iter().map(|price| (*price.extent).clone()).reduce(|a, b| a.or(&b));
                let extent = Extent::list(elements.len() as u64, Rc::new(extent.unwrap_or_default()));
                Price::new(sum(&elements).saturating_add(NEW_LIST), extent)
            }
            Expr::Map(map) => self.entries(map.entries.iter().map(|entry| &entry.expr), NEW_MAP),
            Expr::Struct(object) => self.entries(object.entries.iter().map(|entry| &entry.expr), NEW_OBJECT),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
            Expr::Call(call) => self.call(call),
        }
    }

    fn entries<'e>(&mut self, entries: impl Iterator<Item = &'e EntryExpr>, base: u64) -> Price {
        let (mut cost, mut count, mut values) = (base, 0, Extent::default());
        for entry in entries {
            let value = match entry {
                EntryExpr::StructField(field) => &field.value,
                EntryExpr::MapEntry(entry) => {
                    cost = cost.saturating_add(self.expression(&entry.key.expr).cost);
                    &entry.value
                }
            };
            let value = self.expression(&value.expr);
            cost = cost.saturating_add(value.cost);
            values = values.or(&value.extent);
            count += 1;
        }
        let extent =
            Extent { size: count, elements: Some(Rc::new(values)), is_map: true, ..Extent::default() };
        Price::new(cost, extent)
    }

    fn comprehension(&mut self, comprehension: &ComprehensionExpr) -> Price {
        let range = self.expression(&comprehension.iter_range.expr);
        let start = self.expression(&comprehension.accu_init.expr);
        let elements = range.extent.elements.clone().unwrap_or_default();
        let key = match range.extent.is_map {
            true => Rc::new(Extent::text(keys(&range.extent))),
            false => elements.clone(),
        };
        let bound = self.variables.len();
        match &comprehension.iter_var2 {
            Some(second) => {
                self.variables.push((comprehension.iter_var.clone(), key));
                self.variables.push((second.clone(), elements));
            }
            None => self.variables.push((comprehension.iter_var.clone(), key)),
        }
        // What is gathered grows with every step.
        let gathered = Extent { size: start.extent.size.max(range.extent.size), ..(*start.extent).clone() };
        self.variables.push((comprehension.accu_var.clone(), Rc::new(gathered)));
        let condition = self.expression(&comprehension.loop_cond.expr);
        let step = self.expression(&comprehension.loop_step.expr);
        self.variables.truncate(bound);
        let gathered =
            Extent { size: step.extent.size.min(range.extent.size.max(1)), ..(*step.extent).clone() };
        self.variables.push((comprehension.accu_var.clone(), Rc::new(gathered)));
        let result = self.expression(&comprehension.result.expr);
        self.variables.truncate(bound);
        let turns = range.extent.size.saturating_mul(condition.cost.saturating_add(step.cost));
        let cost = [range.cost, start.cost, turns, result.cost].into_iter().fold(0, u64::saturating_add);
        Price { cost, extent: result.extent }
    }

    fn call(&mut self, call: &CallExpr) -> Price {
        let mut operands: Vec<Price> = Vec::with_capacity(call.args.len() + 1);
        let mut function = call.func_name.clone();
        let mut target = call.target.as_deref();
        // A function of a namespace, such as `sets.contains`, reads like one of a value.
        if let Some(Expr::Ident(name)) = target.map(|target| &target.expr)
            && NAMESPACES.contains(&name.as_str())
        {
            function = format!("{name}.{function}");
            target = None;
        }
        for operand in target.into_iter().chain(&call.args) {
            operands.push(self.expression(&operand.expr));
        }
        if function == operators::CONDITIONAL
            && let [condition, first, second] = operands.as_slice()
        {
            let cost = condition.cost.saturating_add(first.cost.max(second.cost));
            return Price::new(cost, first.extent.or(&second.extent));
        }
        let extents: Vec<&Extent> = operands.iter().map(|price| &*price.extent).collect();
        let own = own_cost(&function, &extents);
        let cost = sum(&operands).saturating_add(own);
        let literal = match call.args.last().map(|argument| &argument.expr) {
            Some(Expr::Literal(LiteralValue::String(text))) => Some(text.inner()),
            _ => None,
        };
        Price::new(cost, outcome(&function, &extents, literal))
    }
}

fn sum(prices: &[Price]) -> u64 {
    prices.iter().fold(0, |sum, price| sum.saturating_add(price.cost))
}

/// The longest key of a map. Of those that a schema leaves open nothing is known, and Kubernetes counts them as empty.
fn keys(map: &Extent) -> u64 {
    map.fields.keys().map(|name| name.chars().count() as u64).max().unwrap_or_default()
}

/// What a function does itself, besides its operands.
fn own_cost(function: &str, operands: &[&Extent]) -> u64 {
    let first = operands.first().copied();
    let tenth = |at: usize| operands.get(at).map_or(0, |extent| extent.tenth());
    let weight = |at: usize| operands.get(at).map_or(0, |extent| extent.weight());
    let size = |at: usize| operands.get(at).map_or(0, |extent| extent.size);
    match function {
        operators::LOGICAL_AND | operators::LOGICAL_OR | operators::NOT_STRICTLY_FALSE => 0,
        operators::EQUALS
        | operators::NOT_EQUALS
        | operators::LESS
        | operators::LESS_EQUALS
        | operators::GREATER
        | operators::GREATER_EQUALS => tenth(0).min(tenth(1)).max(1),
        operators::ADD if first.is_some_and(|first| first.elements.is_none()) => {
            tenth(0).saturating_add(tenth(1)).max(1)
        }
        operators::IN if operands.get(1).is_some_and(|list| !list.is_map) => {
            size(1).saturating_mul(tenth(0).max(1)).max(1)
        }
        "contains" if first.is_some_and(|first| first.elements.is_none()) => {
            tenth(0).saturating_mul(tenth(1)).saturating_add(1)
        }
        "startsWith" | "endsWith" => tenth(1).saturating_add(1),
        "matches" | "find" | "findAll" => {
            tenth(0).max(1).saturating_mul(weight(1).div_ceil(4)).saturating_add(1)
        }
        "sets.contains" | "sets.intersects" | "sets.equivalent" => {
            size(0).saturating_mul(size(1)).saturating_add(1)
        }
        "distinct" | "sort" => size(0).saturating_mul(size(0)).saturating_add(1),
        "isSorted" | "sum" | "min" | "max" | "flatten" | "slice" | "reverse" => weight(0).saturating_add(1),
        "indexOf" | "lastIndexOf" if first.is_some_and(|first| first.elements.is_some()) => {
            size(0).saturating_mul(tenth(1).max(1)).saturating_add(1)
        }
        "size" | "has" | operators::INDEX | operators::IN => 1,
        // These read their operands once; anything else looks at little, whatever it is given.
        "charAt" | "indexOf" | "lastIndexOf" | "lowerAscii" | "upperAscii" | "replace" | "split"
        | "substring" | "trim" | "join" | "format" | "string" | "bytes" | "url" | "isURL" | "ip" | "isIP"
        | "cidr" | "isCIDR" | "quantity" | "isQuantity" | "semver" | "isSemver" | "validate" | "quote"
        | "strings.quote" | "base64.encode" | "base64.decode" => {
            (0..operands.len()).map(tenth).fold(1, u64::saturating_add)
        }
        _ => 1,
    }
}

/// How large the value of a function may be.
fn outcome(function: &str, operands: &[&Extent], literal: Option<&str>) -> Extent {
    let Some(first) = operands.first().copied() else { return Extent::scalar() };
    match function {
        operators::INDEX | operators::OPT_INDEX | operators::OPT_SELECT => {
            let found = literal.and_then(|name| first.field(name)).or_else(|| first.elements.clone());
            found.map_or_else(Extent::default, |found| (*found).clone())
        }
        operators::ADD => {
            let size = operands.iter().fold(0, |sum: u64, extent| sum.saturating_add(extent.size));
            let both = operands.iter().skip(1).fold(first.clone(), |both, extent| both.or(extent));
            Extent { size, ..both }
        }
        "split" | "findAll" => Extent::list(first.size.saturating_add(1), Rc::new(Extent::text(first.size))),
        "join" => {
            let between = operands.get(1).map_or(0, |extent| extent.size);
            Extent::text(first.weight().saturating_add(first.size.saturating_mul(between)))
        }
        "replace" => {
            let by = operands.get(2).map_or(0, |extent| extent.size);
            Extent::text(first.size.saturating_mul(by.max(1)))
        }
        "format" => {
            let list = operands.get(1).map_or(0, |extent| extent.weight());
            Extent::text(first.size.saturating_add(list).saturating_add(NUMBER))
        }
        "string" => Extent::text(first.size.max(NUMBER)),
        "quote" | "strings.quote" | "base64.encode" => Extent::text(first.size.saturating_mul(2)),
        "flatten" => {
            let inner = first.elements.as_ref().map_or(1, |inner| inner.size.max(1));
            Extent { size: first.size.saturating_mul(inner), ..first.clone() }
        }
        "first" | "last" | "min" | "max" if first.elements.is_some() => {
            first.elements.as_deref().cloned().unwrap_or_default()
        }
        operators::LOGICAL_AND
        | operators::LOGICAL_OR
        | operators::LOGICAL_NOT
        | operators::EQUALS
        | operators::NOT_EQUALS
        | operators::LESS
        | operators::LESS_EQUALS
        | operators::GREATER
        | operators::GREATER_EQUALS
        | operators::IN
        | "size"
        | "matches"
        | "contains"
        | "startsWith"
        | "endsWith"
        | "indexOf"
        | "lastIndexOf"
        | "sum"
        | "duration"
        | "timestamp"
        | "int"
        | "uint"
        | "double"
        | "bool"
        | "type"
        | "ip"
        | "isIP"
        | "cidr"
        | "isCIDR"
        | "isURL"
        | "quantity"
        | "isQuantity"
        | "semver"
        | "isSemver" => Extent::scalar(),
        // Parts and forms of the first operand, or a default in its place.
        _ => operands.iter().skip(1).fold(first.clone(), |both, extent| both.or(extent)),
    }
}
