//! Documents into typed objects.

use lateen_api::{Object, ObjectMeta, Resource};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::check::{UnknownFields, check_schema};
use crate::crds::kind_schema;
use crate::{Problem, Verdict};

/// A typed object and what was noticed while it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadObject<T> {
    /// The object, without its status.
    pub object: Object<T>,
    /// Unknown fields, where they are no errors.
    pub warnings: Vec<Problem>,
}

/// Why a document is no object of the kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// It is no JSON or YAML.
    #[error("not a document: {0}")]
    Syntax(String),
    /// It is of another kind.
    #[error("kind: {found:?} is not {expected}")]
    Kind {
        /// The kind that was asked for.
        expected: &'static str,
        /// The kind that the document has.
        found: String,
    },
    /// Fields do not fit.
    #[error("{}", .0.message())]
    Fields(Verdict),
}

/// Reads a YAML or JSON document.
pub fn read<T: Resource + DeserializeOwned + Default>(
    text: &str,
    unknown: UnknownFields,
) -> Result<ReadObject<T>, ReadError> {
    let value: Value = serde_saphyr::from_str(text).map_err(|error| ReadError::Syntax(error.to_string()))?;
    read_value(value, unknown)
}

/// Reads a JSON value.
pub fn read_value<T: Resource + DeserializeOwned + Default>(
    mut value: Value,
    unknown: UnknownFields,
) -> Result<ReadObject<T>, ReadError> {
    let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    if kind != T::KIND {
        return Err(ReadError::Kind { expected: T::KIND, found: kind });
    }
    let metadata: ObjectMeta = match value.get_mut("metadata").map(Value::take) {
        None | Some(Value::Null) => ObjectMeta::default(),
        Some(metadata) => serde_json::from_value(metadata).map_err(|error| one("metadata", error))?,
    };
    let spec = match value.get_mut("spec").map(Value::take) {
        None | Some(Value::Null) => Value::Object(Default::default()),
        Some(spec) => spec,
    };
    let verdict = kind_schema(T::KIND)
        .map(|kind| check_schema(&kind.schema["properties"]["spec"], &spec, "spec", unknown))
        .unwrap_or_default();
    if !verdict.is_valid() {
        return Err(ReadError::Fields(verdict));
    }
    // What the schema cannot tell, such as the form of a duration, is found here.
    let spec = serde_path_to_error::deserialize(&spec)
        .map_err(|error| one(&format!("spec.{}", error.path()), error.into_inner()))?;
    Ok(ReadObject {
        object: Object { api_version, kind, metadata, spec, status: None },
        warnings: verdict.warnings,
    })
}

fn one(path: &str, error: serde_json::Error) -> ReadError {
    let mut verdict = Verdict::default();
    verdict.error(path, error.to_string(), "");
    ReadError::Fields(verdict)
}

#[cfg(test)]
mod tests {
    use lateen_api::networking::VirtualService;

    use super::*;

    const DOCUMENT: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - route:
    - destination: {host: reviews, subset: v1}
      weight: 100
    timeout: 0.5s
    colour: red
";

    #[test]
    fn unknown_fields_by_mode() {
        let lenient = read::<VirtualService>(DOCUMENT, UnknownFields::Warn).unwrap();
        assert_eq!(lenient.object.spec.http[0].route[0].destination.subset, "v1");
        assert_eq!(lenient.object.spec.http[0].timeout, Some(lateen_api::Duration::from_millis(500)));
        assert_eq!(lenient.warnings[0].path, "spec.http[0].colour");
        let strict = read::<VirtualService>(DOCUMENT, UnknownFields::Error).unwrap_err();
        assert!(strict.to_string().contains("spec.http[0].colour"), "{strict}");
    }

    #[test]
    fn another_kind_is_refused() {
        let error = read::<VirtualService>("{kind: Gateway}", UnknownFields::Warn).unwrap_err();
        assert_eq!(error.to_string(), "kind: \"Gateway\" is not VirtualService");
    }
}
