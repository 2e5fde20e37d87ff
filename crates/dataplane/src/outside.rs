//! What configuration refers to outside of itself. This crate looks at nothing; who compiles gives it in.

use bytes::Bytes;

/// Files and variables that configuration names. They are read when a resource is compiled, and never later.
pub trait Outside: std::fmt::Debug {
    /// What is in a file (`DataSource.filename`), or why it cannot be read.
    fn file(&self, path: &str) -> Result<Bytes, String>;
    /// A variable of the environment (`DataSource.environment_variable`, the operator `ENVIRONMENT`).
    fn variable(&self, name: &str) -> Option<String>;
}

/// No files, no variables.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nothing;

impl Outside for Nothing {
    fn file(&self, path: &str) -> Result<Bytes, String> {
        Err(format!("`{path}` is not read here; write inline_string"))
    }

    fn variable(&self, _: &str) -> Option<String> {
        None
    }
}

#[cfg(test)]
mod tests {
    use lateen_envoy::json::from_json;
    use serde_json::json;

    use super::*;
    use crate::compile::{compile_routes, compile_routes_in};
    use crate::route::Action;

    #[derive(Debug)]
    struct World;

    impl Outside for World {
        fn file(&self, path: &str) -> Result<Bytes, String> {
            match path {
                "/page" => Ok(Bytes::from_static(b"from a file")),
                other => Err(format!("no {other}")),
            }
        }

        fn variable(&self, name: &str) -> Option<String> {
            (name == "SET").then(|| "from a variable".to_owned())
        }
    }

    #[test]
    fn bodies_are_read_when_a_table_is_compiled() {
        let table = |body: serde_json::Value| {
            let route = json!({"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": body}});
            let host = json!({"name": "v", "domains": ["*"], "routes": [route]});
            from_json(&json!({"name": "r", "virtual_hosts": [host]})).unwrap()
        };
        for (name, body, expect) in [
            ("file", json!({"filename": "/page"}), Ok("from a file")),
            ("variable", json!({"environment_variable": "SET"}), Ok("from a variable")),
            ("no file", json!({"filename": "/none"}), Err(".filename")),
            ("no variable", json!({"environment_variable": "UNSET"}), Err(".environment_variable")),
        ] {
            match (compile_routes_in(table(body), &World), expect) {
                (Ok(compiled), Ok(text)) => match &compiled.value.virtual_hosts[0].routes[0].action {
                    Action::Direct(direct) => assert_eq!(direct.body, text, "{name}"),
                    other => panic!("{name}: {other:?}"),
                },
                (Err(error), Err(path)) => assert!(error.path.ends_with(path), "{name}: {error}"),
                (outcome, _) => panic!("{name}: {outcome:?}"),
            }
        }
        assert!(compile_routes(table(json!({"filename": "/page"}))).is_err(), "nothing is read unasked");
    }
}
