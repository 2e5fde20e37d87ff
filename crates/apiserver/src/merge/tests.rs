//! Tables of what the parts of the merge do.

use super::managers::{Conflict, Force, Writer, apply, message, track};
use super::set::FieldSet;
use super::shape::Shape;
use super::walk;
use crate::schema::node::{NodeId, Schema};
use serde_json::{Value, json};

/// A kind with one of each: a list with keys (one of them with a default), a set, an atomic list, maps.
fn schema() -> (Schema, NodeId) {
    let document = json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {
            "number": {"type": "integer"},
            "text": {"type": "string"},
            "ports": {"type": "array", "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["port", "protocol"],
                "items": {"type": "object", "properties": {
                    "port": {"type": "integer"}, "protocol": {"type": "string", "default": "TCP"},
                    "name": {"type": "string"}}}},
            "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "list": {"type": "array", "items": {"type": "integer"}},
            "map": {"type": "object", "additionalProperties": {"type": "string"}},
            "whole": {"type": "object", "x-kubernetes-map-type": "atomic", "additionalProperties": {"type": "string"}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        }},
    }});
    Schema::compile(&document, "schema").expect("the schema compiles")
}

fn with<T>(test: impl FnOnce(Shape<'_>) -> T) -> T {
    let (schema, root) = schema();
    test(Shape::Object(&schema, root))
}

#[test]
fn the_fields_of_a_value() {
    let check = |name: &str, spec: Value, expect: Value| {
        let fields = with(|shape| walk::fields(shape, &json!({"spec": spec})));
        assert_eq!(fields.to_json(), json!({"f:spec": expect}), "{name}");
        assert_eq!(FieldSet::from_json(&fields.to_json()), Some(fields), "{name}: read back");
    };
    check("values", json!({"number": 1, "text": "a"}), json!({"f:number": {}, "f:text": {}}));
    check(
        "a list with keys, one by default",
        json!({"ports": [{"port": 80, "name": "a"}]}),
        json!({"f:ports": {r#"k:{"port":80,"protocol":"TCP"}"#: {".": {}, "f:name": {}, "f:port": {}}}}),
    );
    check("a set", json!({"tags": ["b", "a"]}), json!({"f:tags": {r#"v:"a""#: {}, r#"v:"b""#: {}}}));
    check("an atomic list", json!({"list": [1, 2]}), json!({"f:list": {}}));
    check("a map", json!({"map": {"x": "1"}}), json!({"f:map": {"f:x": {}}}));
    check("an empty map", json!({"map": {}}), json!({"f:map": {}}));
    check("an atomic map", json!({"whole": {"x": "1"}}), json!({"f:whole": {}}));
    check("no schema", json!({"free": {"a": {"b": [1]}}}), json!({"f:free": {"f:a": {".": {}, "f:b": {}}}}));
}

#[test]
fn differences() {
    type Row = (&'static str, Value, Value, [&'static [&'static str]; 3]);
    let rows: Vec<Row> = vec![
        ("the same", json!({"number": 1}), json!({"number": 1}), [&[], &[], &[]]),
        ("another value", json!({"number": 1}), json!({"number": 2}), [&[], &[".spec.number"], &[]]),
        (
            "one more",
            json!({}),
            json!({"number": 2, "map": {"a": "b"}}),
            [&[".spec.map.a", ".spec.number"], &[], &[]],
        ),
        (
            "an element with keys",
            json!({"ports": [{"port": 80, "name": "a"}, {"port": 81, "protocol": "UDP"}]}),
            json!({"ports": [{"port": 80, "name": "b"}]}),
            [
                &[],
                &[r#".spec.ports[port=80,protocol="TCP"].name"#],
                &[
                    r#".spec.ports[port=81,protocol="UDP"].port"#,
                    r#".spec.ports[port=81,protocol="UDP"].protocol"#,
                ],
            ],
        ),
        (
            "an element of a set",
            json!({"tags": ["a", "b"]}),
            json!({"tags": ["b", "c"]}),
            [&[r#".spec.tags[="c"]"#], &[], &[r#".spec.tags[="a"]"#]],
        ),
        ("an atomic list", json!({"list": [1]}), json!({"list": [1, 2]}), [&[], &[".spec.list"], &[]]),
        ("an order", json!({"tags": ["a", "b"]}), json!({"tags": ["b", "a"]}), [&[], &[], &[]]),
    ];
    for (name, old, new, expect) in rows {
        let (old, new) = (json!({"spec": old}), json!({"spec": new}));
        let found = with(|shape| walk::compare(shape, Some(&old), Some(&new)));
        let sets = [found.added, found.modified, found.removed];
        for (set, expect) in sets.iter().zip(expect) {
            assert_eq!(set.leaves(), *expect, "{name}");
        }
    }
}

#[test]
fn merges_keep_what_is_there_and_the_order_of_what_is_applied() {
    let check = |name: &str, live: Value, applied: Value, expect: Value| {
        let merged =
            with(|shape| walk::merge(shape, Some(&json!({"spec": live})), &json!({"spec": applied})));
        assert_eq!(merged["spec"], expect, "{name}");
    };
    check(
        "fields",
        json!({"number": 1, "text": "a"}),
        json!({"text": "b"}),
        json!({"number": 1, "text": "b"}),
    );
    check(
        "elements with keys",
        json!({"ports": [{"port": 1, "name": "a"}, {"port": 2, "name": "b"}, {"port": 3}]}),
        json!({"ports": [{"port": 3, "name": "c"}, {"port": 1, "protocol": "TCP"}, {"port": 4}]}),
        json!({"ports": [{"port": 2, "name": "b"}, {"port": 3, "name": "c"},
            {"port": 1, "name": "a", "protocol": "TCP"}, {"port": 4}]}),
    );
    check("sets", json!({"tags": ["a", "b"]}), json!({"tags": ["c", "a"]}), json!({"tags": ["c", "a", "b"]}));
    check("atomic lists", json!({"list": [1, 2]}), json!({"list": [3]}), json!({"list": [3]}));
    check(
        "atomic maps",
        json!({"whole": {"a": "1"}}),
        json!({"whole": {"b": "2"}}),
        json!({"whole": {"b": "2"}}),
    );
}

fn writer<'a>(manager: &'a str) -> Writer<'a> {
    Writer { manager, api_version: "g/v1", subresource: "" }
}

/// Applies a specification; the answer is the new specification and the fields of every manager.
fn applied(live: Option<&Value>, manager: &str, spec: Value, force: bool) -> Result<Value, Vec<Conflict>> {
    let force = if force { Force::Yes } else { Force::No };
    let config = json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "n"}, "spec": spec});
    with(|shape| apply(shape, live, &config, &writer(manager), &force))
}

fn managers(object: &Value) -> Vec<(String, Value)> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    let name = |entry: &Value| format!("{} {}", text(entry, "manager"), text(entry, "operation"));
    entries.iter().map(|entry| (name(entry), entry["fieldsV1"]["f:spec"].clone())).collect()
}

#[test]
fn what_a_manager_gives_up_goes_unless_somebody_has_it() {
    let first = applied(None, "a", json!({"number": 1, "map": {"x": "1", "y": "1"}}), false).unwrap();
    let second = applied(Some(&first), "b", json!({"map": {"y": "1", "z": "1"}}), false).unwrap();
    assert_eq!(second["spec"], json!({"number": 1, "map": {"x": "1", "y": "1", "z": "1"}}));
    let third = applied(Some(&second), "a", json!({"text": "t"}), false).unwrap();
    assert_eq!(third["spec"], json!({"map": {"y": "1", "z": "1"}, "text": "t"}));
    assert_eq!(
        managers(&third),
        [
            ("a Apply".to_owned(), json!({"f:text": {}})),
            ("b Apply".to_owned(), json!({"f:map": {"f:y": {}, "f:z": {}}})),
        ]
    );
    let last = applied(Some(&third), "b", json!({}), false).unwrap();
    assert_eq!(last["spec"], json!({"text": "t"}));
}

#[test]
fn elements_go_with_the_manager_who_had_them() {
    let first = applied(None, "a", json!({"ports": [{"port": 1, "name": "x"}, {"port": 2}]}), false).unwrap();
    let second = applied(Some(&first), "b", json!({"ports": [{"port": 3}]}), false).unwrap();
    let third = applied(Some(&second), "a", json!({"ports": [{"port": 2, "name": "y"}]}), false).unwrap();
    assert_eq!(third["spec"], json!({"ports": [{"port": 2, "name": "y"}, {"port": 3}]}));
}

#[test]
fn conflicts_name_the_manager_and_the_field() {
    let first = applied(None, "a", json!({"number": 1, "text": "t"}), false).unwrap();
    let conflicts = applied(Some(&first), "b", json!({"number": 2}), false).unwrap_err();
    assert_eq!(message(&conflicts), r#"Apply failed with 1 conflict: conflict with "a": .spec.number"#);
    let conflicts = applied(Some(&first), "b", json!({"number": 2, "text": "u"}), false).unwrap_err();
    assert_eq!(
        message(&conflicts),
        "Apply failed with 2 conflicts: conflicts with \"a\":\n- .spec.number\n- .spec.text"
    );
    let shared = applied(Some(&first), "b", json!({"number": 1}), false).unwrap();
    assert_eq!(managers(&shared).len(), 2, "the same value is shared");
    let forced = applied(Some(&first), "b", json!({"number": 2}), true).unwrap();
    assert_eq!(
        managers(&forced),
        [("a Apply".to_owned(), json!({"f:text": {}})), ("b Apply".to_owned(), json!({"f:number": {}}))]
    );
    let mut edited = first.clone();
    edited["spec"]["number"] = json!(5);
    with(|shape| track(shape, Some(&first), &mut edited, &writer("editor")));
    let conflicts = applied(Some(&edited), "a", json!({"number": 1, "text": "t"}), false).unwrap_err();
    let time = edited["metadata"]["managedFields"][1]["time"].as_str().unwrap();
    assert_eq!(conflicts[0].manager, format!("\"editor\" using g/v1 at {time}"));
}

#[test]
fn updates_are_kept_account_of() {
    let mut first =
        json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "n"}, "spec": {"number": 1}});
    with(|shape| track(shape, None, &mut first, &writer("a")));
    assert_eq!(managers(&first), [("a Update".to_owned(), json!({".": {}, "f:number": {}}))]);
    let mut second = first.clone();
    second["spec"] = json!({"number": 2, "text": "t"});
    with(|shape| track(shape, Some(&first), &mut second, &writer("b")));
    assert_eq!(
        managers(&second),
        [("a Update".to_owned(), json!({})), ("b Update".to_owned(), json!({"f:number": {}, "f:text": {}}))]
    );
    let mut forgotten = second.clone();
    forgotten["metadata"]["managedFields"] = json!([{}]);
    with(|shape| track(shape, Some(&second), &mut forgotten, &writer("b")));
    assert_eq!(managers(&forgotten), []);
    let mut kept = second.clone();
    kept["metadata"]["managedFields"] = json!([]);
    with(|shape| track(shape, Some(&second), &mut kept, &writer("b")));
    assert_eq!(managers(&kept), managers(&second), "an empty list forgets nothing");
    let adopted = applied(Some(&forgotten), "c", json!({"text": "t"}), false).unwrap();
    assert_eq!(managers(&adopted)[1].0, "before-first-apply Update");
}

#[test]
fn the_oldest_updates_are_put_together() {
    let mut object = json!({"metadata": {"name": "n"}, "spec": {"map": {}}});
    with(|shape| track(shape, None, &mut object, &writer("first")));
    for count in 0..14 {
        let old = object.clone();
        object["spec"]["map"][format!("k{count}")] = json!("v");
        let manager = format!("m{count}");
        with(|shape| track(shape, Some(&old), &mut object, &writer(&manager)));
    }
    let names: Vec<String> = managers(&object).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), 10, "{names:?}");
    assert!(names.contains(&"ancient-changes Update".to_owned()), "{names:?}");
}

#[test]
fn what_cannot_be_applied() {
    let mut found = Vec::new();
    let value = json!({"spec": {"ports": [{"port": 1}, {"protocol": "TCP", "port": 1}]}});
    with(|shape| walk::faults(shape, &value, "", &mut found));
    assert_eq!(found, [r#".spec.ports: duplicate entries for key [{"port":1,"protocol":"TCP"}]"#]);
}
