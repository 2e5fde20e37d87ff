//! Bodies that a resource names instead of holding them: files and variables of the environment, read once, before the
//! resource is compiled. What is compiled does no input or output.

use lateen_dataplane::ConfigError;
use lateen_envoy::TypeUrl;
use lateen_envoy::fields::{Descend, walk_set_fields};
use lateen_envoy::json::{from_json, to_json};
use lateen_envoy::prost::Message;
use lateen_envoy::type_urls::short_name;
use serde_json::{Value, json};

/// Fields of that type which hold bodies and formats; files of keys and certificates are others' affair, for they are
/// looked at again when they change.
const FIELDS: [&str; 2] = ["body", "text_format_source"];

/// The message with the contents of files in place of their names.
pub fn inline<M: Message + TypeUrl + Default>(message: M) -> Result<M, ConfigError> {
    if !names_any(&message) {
        return Ok(message);
    }
    let mut value = to_json(&message);
    substitute(&mut value, String::new())
        .and_then(|()| from_json(&value).map_err(|error| (error.path.clone(), error.to_string())))
        .map_err(|(path, message)| ConfigError {
            resource: short_name(M::TYPE_URL).unwrap_or(M::TYPE_URL).to_owned(),
            path,
            message,
        })
}

fn names_any<M: Message + TypeUrl>(message: &M) -> bool {
    let mut found = false;
    walk_set_fields(message, &mut |field| {
        let outer = || field.path.rsplit('.').nth(1).unwrap_or_default();
        found |= matches!(&*field.name, "filename" | "environment_variable") && FIELDS.contains(&outer());
        Descend::Into
    });
    found
}

/// The error is a path and what is wrong there.
fn substitute(value: &mut Value, path: String) -> Result<(), (String, String)> {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                if FIELDS.contains(&&name[..])
                    && let Some(text) = content(value).map_err(|message| (path.clone(), message))?
                {
                    *value = json!({"inline_string": text});
                } else {
                    substitute(value, path)?;
                }
            }
            Ok(())
        }
        Value::Array(items) => {
            items.iter_mut().enumerate().try_for_each(|(at, item)| substitute(item, format!("{path}[{at}]")))
        }
        _ => Ok(()),
    }
}

/// What the source names; none where it does not name anything.
fn content(source: &Value) -> Result<Option<String>, String> {
    let name = |field: &str| source.get(field).and_then(Value::as_str);
    if let Some(path) = name("filename") {
        return std::fs::read_to_string(path)
            .map(Some)
            .map_err(|error| format!("cannot read {path}: {error}"));
    }
    if let Some(variable) = name("environment_variable") {
        return std::env::var(variable).map(Some).map_err(|error| format!("{variable}: {error}"));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lateen_envoy::envoy::config::route::v3::RouteConfiguration;

    fn table(body: &Value) -> RouteConfiguration {
        let route = json!({"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": body}});
        let host = json!({"name": "v", "domains": ["*"], "routes": [route]});
        from_json(&json!({"name": "r", "virtual_hosts": [host]})).unwrap()
    }

    #[test]
    fn files_take_the_place_of_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("page");
        std::fs::write(&file, "from a file").unwrap();
        assert_eq!(
            inline(table(&json!({"filename": file}))).unwrap(),
            table(&json!({"inline_string": "from a file"}))
        );
        let plain = table(&json!({"inline_string": "plain"}));
        assert_eq!(inline(plain.clone()).unwrap(), plain);
        let error = inline(table(&json!({"filename": folder.path().join("none")}))).unwrap_err();
        assert!(error.path.ends_with("routes[0].direct_response.body"), "{error}");
    }
}
