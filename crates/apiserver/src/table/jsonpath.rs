//! The part of `kubectl`'s JSONPath that printer columns use: fields, indices, wildcards, filters by equality.

use serde_json::Value;

/// All values at a path such as `.status.conditions[?(@.type=="Ready")].status`.
pub fn find<'a>(object: &'a Value, path: &str) -> Vec<&'a Value> {
    let mut found = vec![object];
    let mut rest = path.trim().trim_start_matches('{').trim_end_matches('}').trim_start_matches('$');
    while !rest.is_empty() && !found.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            let Some(end) = closing(inner) else { return Vec::new() };
            found = bracket(&found, &inner[..end]);
            rest = &inner[end + 1..];
        } else {
            let text = rest.trim_start_matches('.');
            let end = field_end(text);
            let name = text[..end].replace("\\.", ".");
            found = match name.as_str() {
                "" => found,
                "*" => found.iter().flat_map(|value| children(value)).collect(),
                name => found.iter().filter_map(|value| value.get(name)).collect(),
            };
            rest = &text[end..];
        }
    }
    found
}

/// Where a field's name ends: at a bracket or a dot that is not escaped.
fn field_end(text: &str) -> usize {
    let mut escaped = false;
    for (index, character) in text.char_indices() {
        match character {
            '\\' => escaped = true,
            '.' | '[' if !escaped => return index,
            _ => escaped = false,
        }
    }
    text.len()
}

/// Where a bracket closes, outside of quotes.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    for (index, character) in text.char_indices() {
        match (quote, character) {
            (None, ']') => return Some(index),
            (None, '"' | '\'') => quote = Some(character),
            (Some(open), character) if open == character => quote = None,
            _ => {}
        }
    }
    None
}

fn bracket<'a>(values: &[&'a Value], text: &str) -> Vec<&'a Value> {
    let text = text.trim();
    if text == "*" {
        return values.iter().flat_map(|value| children(value)).collect();
    }
    if let Some(name) = unquoted(text) {
        return values.iter().filter_map(|value| value.get(name)).collect();
    }
    if let Ok(index) = text.parse::<i64>() {
        return values.iter().filter_map(|value| at(value, index)).collect();
    }
    let Some(filter) = text.strip_prefix("?(").and_then(|text| text.strip_suffix(')')) else {
        return Vec::new();
    };
    let (left, wanted) = match filter.split_once("==") {
        Some((left, right)) => (left.trim(), Some(right.trim())),
        None => (filter.trim(), None),
    };
    let path = left.trim_start_matches('@');
    let passes = |value: &&Value| {
        let found = find(value, path);
        match wanted {
            None => !found.is_empty(),
            Some(wanted) => found.iter().any(|value| match unquoted(wanted) {
                Some(text) => value.as_str() == Some(text),
                None => !value.is_string() && format!("{value}") == wanted,
            }),
        }
    };
    values.iter().flat_map(|value| children(value)).filter(passes).collect()
}

fn at(value: &Value, index: i64) -> Option<&Value> {
    let list = value.as_array()?;
    let place = if index < 0 { list.len() as i64 + index } else { index };
    usize::try_from(place).ok().and_then(|place| list.get(place))
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(list) => list.iter().collect(),
        Value::Object(map) => map.values().collect(),
        _ => Vec::new(),
    }
}

fn unquoted(text: &str) -> Option<&str> {
    ['"', '\''].iter().find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_of_printer_columns() {
        let object = json!({
            "metadata": {"labels": {"a.b/c": "x"}},
            "list": [{"t": "A", "v": 1}, {"t": "B", "v": 2}],
        });
        for (path, expect) in [
            (".list[0].v", json!([1])),
            (".list[-1].v", json!([2])),
            (".list[*].v", json!([1, 2])),
            (".list[?(@.t==\"B\")].v", json!([2])),
            (".list[?(@.v==1)].t", json!(["A"])),
            (".metadata.labels['a.b/c']", json!(["x"])),
            (".metadata.labels.a\\.b/c", json!(["x"])),
            ("{.list[0].t}", json!(["A"])),
            (".none.deeper", json!([])),
        ] {
            assert_eq!(json!(find(&object, path)), expect, "{path}");
        }
    }
}
