use super::*;
use serde_json::json;

fn rule(schema: Value, rule: &str) -> Value {
    let mut schema = schema;
    schema["x-kubernetes-validations"] = json!([{"rule": rule}]);
    schema
}

fn object(properties: Value) -> Value {
    json!({"type": "object", "properties": properties})
}

#[test]
fn definitions_with_rules_that_could_cost_too_much_are_refused() {
    let check_document = |name: &str, document: &Value, expect: &[&str]| {
        let mut causes = Vec::new();
        check(document, "s", &mut Programs::default(), &mut causes);
        let found: Vec<String> =
            causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
        assert_eq!(found.len(), expect.len(), "{name}: {found:?}");
        for (found, expect) in found.iter().zip(expect) {
            assert!(found.starts_with(expect), "{name}: {found}, not {expect}");
        }
    };
    let numbers = json!({"type": "array", "items": {"type": "integer"}});
    let bounded = |count: u64| json!({"type": "array", "maxItems": count, "items": {"type": "integer"}});
    let every = "self.l.all(a, self.l.all(b, a == b))";
    check_document("plain", &rule(object(json!({"a": {"type": "integer"}})), "self.a > 1"), &[]);
    check_document("a list", &rule(object(json!({"l": bounded(1000)})), "self.l.all(a, a > 1)"), &[]);
    check_document(
        "lists in lists",
        &rule(object(json!({"l": numbers})), every),
        &[
            "s.x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x (try simplifying the rule, or adding maxItems",
        ],
    );
    check_document("lists in bounded lists", &rule(object(json!({"l": bounded(100)})), every), &[]);
    check_document(
        "a little too much",
        &rule(object(json!({"l": bounded(1500)})), every),
        &[
            "s.x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of 1.",
        ],
    );
    let deep = object(json!({"l": {"type": "array", "items": rule(
        object(json!({"m": {"type": "array", "items": {"type": "string"}}})), "self.m.all(x, x.contains('a'))")}}));
    check_document(
        "at each element of a list without bounds",
        &deep,
        &["s.properties[l].items.x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds"],
    );
    check_document(
        "texts without bounds in a regular expression",
        &rule(
            object(json!({"l": {"type": "array", "maxItems": 100, "items": {"type": "string"}}})),
            "self.l.all(x, x.matches('^[a-z]+$'))",
        ),
        &["s.x-kubernetes-validations[0].rule: Forbidden"],
    );
    let message = json!([{"rule": "true", "messageExpression": "self.l.map(a, self.l.map(b, a + b)).size() > 0 ? 'a' : 'b'"}]);
    let mut expensive = object(json!({"l": numbers}));
    expensive["x-kubernetes-validations"] = message;
    check_document(
        "a message",
        &expensive,
        &["s.x-kubernetes-validations[0].messageExpression: Forbidden: estimated messageExpression cost"],
    );
    let mut many = object(json!({"l": bounded(1200)}));
    many["x-kubernetes-validations"] = (0..20).map(|_| json!({"rule": every})).collect();
    let total = "s: Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds";
    let found = {
        let mut causes = Vec::new();
        check(&many, "s", &mut Programs::default(), &mut causes);
        causes
    };
    assert_eq!(found.len(), NAMED + 1);
    assert!(format!("{}: {}", found[NAMED].field, found[NAMED].message).starts_with(total), "{found:?}");
}

#[test]
fn what_objects_may_cost_is_known_before_rules_are_evaluated() {
    let nested = "self.l.all(a, self.l.all(b, self.l.all(c, a + b != c)))";
    let schema = rule(object(json!({"l": {"type": "array", "items": {"type": "integer"}}})), nested);
    let prices = Prices::of(&object(json!({"spec": schema}))).expect("there are rules");
    let of = |count: usize| json!({"spec": {"l": vec![1; count]}});
    let small = prices.bound(&of(10), None, REQUEST_LIMIT).expect("a small one");
    let larger = prices.bound(&of(20), None, REQUEST_LIMIT).expect("a larger one");
    assert!(small > 1000 && larger > 6 * small && larger < 10 * small, "{small} {larger}");
    let refused = prices.bound(&of(1000), None, REQUEST_LIMIT).expect_err("a large one");
    assert_eq!(refused.field, "spec");
    assert!(refused.message.contains("call cost exceeds limit for rule: self.l.all"), "{refused:?}");
    // Many cheap ones are one expensive one.
    let many = object(json!({"l": {"type": "array", "items": rule(
        json!({"type": "string"}), "self.contains('abcdefghijklmnopqrstuvwxyz')")}}));
    let prices = Prices::of(&many).expect("there are rules");
    let texts = json!({"l": vec!["x".repeat(1000); 50]});
    assert!(prices.bound(&texts, None, REQUEST_LIMIT).is_ok());
    let refused = prices.bound(&texts, None, 10_000).expect_err("too many");
    assert!(refused.message.contains("running out of cost budget"), "{refused:?}");
    assert!(refused.field.starts_with("l["), "{refused:?}");
}

#[test]
fn a_bound_follows_values_through_expressions() {
    let cost = |text: &str, value: Value| {
        let program = Program::compile(text).expect("it parses");
        estimate(&program, Rc::new(Extent::of_value(&value)), None)
    };
    let long = "x".repeat(10_000);
    for (name, text, value, least) in [
        ("a field", "self.a.b.contains('abcdefghij')", json!({"a": {"b": long}}), 1000),
        ("an element", "self.a[0].contains('abcdefghij')", json!({"a": [long]}), 1000),
        ("a value of a map", "self.a['k'].contains('abcdefghij')", json!({"a": {"k": long}}), 1000),
        (
            "what a list was mapped to",
            "self.a.map(x, x + x).all(y, y.contains('abcdefghij'))",
            json!({"a": [long]}),
            3000,
        ),
        (
            "what passed a filter",
            "self.a.filter(x, true)[0].contains('abcdefghij')",
            json!({"a": [long]}),
            1000,
        ),
        ("either", "(self.a == '' ? 'b' : self.a).contains('abcdefghij')", json!({"a": long}), 1000),
        ("parts", "self.a.split('').all(x, x == 'a')", json!({"a": long}), 10_000),
        ("comparison", "self.a == self.a + 'b'", json!({"a": long}), 2000),
        ("keys", "self.a.all(k, k.contains('abcdefghij'))", json!({"a": {(long.as_str()): 1}}), 1000),
        ("sets", "sets.intersects(self.a, self.a)", json!({"a": vec![1; 100]}), 10_000),
    ] {
        let found = cost(text, value);
        assert!(found >= least, "{name}: {found}, not {least}");
        assert!(found <= least * 40, "{name}: {found} is far more than {least}");
    }
}

/// No rule keeps the server busy for long: what may be evaluated at most, in the worst shape.
#[test]
fn sizes_that_explode_saturate() {
    let mut text = "self".to_owned();
    for depth in 0..12 {
        text = format!("[{text}, {text}].map(x{depth}, x{depth} + x{depth})[0]");
        if text.len() > 20_000 {
            break;
        }
    }
    let program = Program::compile(&text).expect("it parses");
    let cost = estimate(&program, Rc::new(Extent::text(u64::MAX)), None);
    assert_eq!(cost, u64::MAX);
}
