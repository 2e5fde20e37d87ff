//! Bodies in Kubernetes' protobuf encoding, turned into JSON for a few small kinds.
//!
//! The server speaks JSON. `kubectl create namespace`, `create token`, `auth can-i` and their like, however, send
//! protobuf without asking, so the messages behind them are read here; answers are JSON, which those clients accept.
//! Everything else is refused with 415. Field numbers are those of Kubernetes' `generated.proto` files.

use crate::status::Status;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use prost::encoding::decode_varint;
use serde_json::{Map, Value, json};

/// The media type.
pub(super) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// What every body begins with.
const MAGIC: &[u8] = b"k8s\0";

/// What a field holds.
#[derive(Clone, Copy)]
enum Field {
    Text,
    Number,
    Flag,
    Message(&'static Message),
    Texts,
    Messages(&'static Message),
    TextMap,
    BytesMap,
    /// What the server sets itself.
    Ignored,
}

/// Number, JSON name and content of each field.
struct Message(&'static [(u64, &'static str, Field)]);

static OWNER: Message = Message(&[
    (1, "kind", Field::Text),
    (3, "name", Field::Text),
    (4, "uid", Field::Text),
    (5, "apiVersion", Field::Text),
    (6, "controller", Field::Flag),
    (7, "blockOwnerDeletion", Field::Flag),
]);

static METADATA: Message = Message(&[
    (1, "name", Field::Text),
    (2, "generateName", Field::Text),
    (3, "namespace", Field::Text),
    (4, "selfLink", Field::Ignored),
    (5, "uid", Field::Text),
    (6, "resourceVersion", Field::Text),
    (7, "generation", Field::Ignored),
    (8, "creationTimestamp", Field::Ignored),
    (9, "deletionTimestamp", Field::Ignored),
    (10, "deletionGracePeriodSeconds", Field::Ignored),
    (11, "labels", Field::TextMap),
    (12, "annotations", Field::TextMap),
    (13, "ownerReferences", Field::Messages(&OWNER)),
    (14, "finalizers", Field::Texts),
    (17, "managedFields", Field::Ignored),
]);

static NAMESPACE: Message = Message(&[
    (1, "metadata", Field::Message(&METADATA)),
    (2, "spec", Field::Message(&Message(&[(1, "finalizers", Field::Texts)]))),
    (3, "status", Field::Ignored),
]);

static CONFIG_MAP: Message = Message(&[
    (1, "metadata", Field::Message(&METADATA)),
    (2, "data", Field::TextMap),
    (3, "binaryData", Field::BytesMap),
    (4, "immutable", Field::Flag),
]);

static SECRET: Message = Message(&[
    (1, "metadata", Field::Message(&METADATA)),
    (2, "data", Field::BytesMap),
    (3, "type", Field::Text),
    (4, "stringData", Field::TextMap),
    (5, "immutable", Field::Flag),
]);

static SERVICE_ACCOUNT: Message = Message(&[
    (1, "metadata", Field::Message(&METADATA)),
    (3, "imagePullSecrets", Field::Messages(&Message(&[(1, "name", Field::Text)]))),
    (4, "automountServiceAccountToken", Field::Flag),
]);

static TOKEN_REQUEST: Message = Message(&[
    (1, "metadata", Field::Message(&METADATA)),
    (
        2,
        "spec",
        Field::Message(&Message(&[
            (1, "audiences", Field::Texts),
            (
                3,
                "boundObjectRef",
                Field::Message(&Message(&[
                    (1, "kind", Field::Text),
                    (2, "apiVersion", Field::Text),
                    (3, "name", Field::Text),
                    (4, "uid", Field::Text),
                ])),
            ),
            (4, "expirationSeconds", Field::Number),
        ])),
    ),
    (3, "status", Field::Ignored),
]);

static TOKEN_REVIEW: Message = Message(&[
    (1, "metadata", Field::Message(&METADATA)),
    (2, "spec", Field::Message(&Message(&[(1, "token", Field::Text), (2, "audiences", Field::Texts)]))),
    (3, "status", Field::Ignored),
]);

static SELF_SUBJECT_REVIEW: Message =
    Message(&[(1, "metadata", Field::Message(&METADATA)), (2, "status", Field::Ignored)]);

static SELF_SUBJECT_ACCESS_REVIEW: Message = Message(&[
    (1, "metadata", Field::Message(&METADATA)),
    (
        2,
        "spec",
        Field::Message(&Message(&[
            (
                1,
                "resourceAttributes",
                Field::Message(&Message(&[
                    (1, "namespace", Field::Text),
                    (2, "verb", Field::Text),
                    (3, "group", Field::Text),
                    (4, "version", Field::Text),
                    (5, "resource", Field::Text),
                    (6, "subresource", Field::Text),
                    (7, "name", Field::Text),
                ])),
            ),
            (
                2,
                "nonResourceAttributes",
                Field::Message(&Message(&[(1, "path", Field::Text), (2, "verb", Field::Text)])),
            ),
        ])),
    ),
    (3, "status", Field::Ignored),
]);

static SELF_SUBJECT_RULES_REVIEW: Message = Message(&[
    (1, "metadata", Field::Message(&METADATA)),
    (2, "spec", Field::Message(&Message(&[(1, "namespace", Field::Text)]))),
    (3, "status", Field::Ignored),
]);

static RULE: Message = Message(&[
    (1, "verbs", Field::Texts),
    (2, "apiGroups", Field::Texts),
    (3, "resources", Field::Texts),
    (4, "resourceNames", Field::Texts),
    (5, "nonResourceURLs", Field::Texts),
]);

static LABEL_SELECTOR: Message = Message(&[
    (1, "matchLabels", Field::TextMap),
    (
        2,
        "matchExpressions",
        Field::Messages(&Message(&[
            (1, "key", Field::Text),
            (2, "operator", Field::Text),
            (3, "values", Field::Texts),
        ])),
    ),
]);

static ROLE: Message = Message(&[
    (1, "metadata", Field::Message(&METADATA)),
    (2, "rules", Field::Messages(&RULE)),
    (
        3,
        "aggregationRule",
        Field::Message(&Message(&[(1, "clusterRoleSelectors", Field::Messages(&LABEL_SELECTOR))])),
    ),
]);

static BINDING: Message = Message(&[
    (1, "metadata", Field::Message(&METADATA)),
    (
        2,
        "subjects",
        Field::Messages(&Message(&[
            (1, "kind", Field::Text),
            (2, "apiGroup", Field::Text),
            (3, "name", Field::Text),
            (4, "namespace", Field::Text),
        ])),
    ),
    (
        3,
        "roleRef",
        Field::Message(&Message(&[
            (1, "apiGroup", Field::Text),
            (2, "kind", Field::Text),
            (3, "name", Field::Text),
        ])),
    ),
]);

static DELETE_OPTIONS: Message = Message(&[
    (1, "gracePeriodSeconds", Field::Number),
    (
        2,
        "preconditions",
        Field::Message(&Message(&[(1, "uid", Field::Text), (2, "resourceVersion", Field::Text)])),
    ),
    (3, "orphanDependents", Field::Flag),
    (4, "propagationPolicy", Field::Text),
    (5, "dryRun", Field::Texts),
]);

/// The envelope, `k8s.io.apimachinery.pkg.runtime.Unknown`.
struct Envelope<'a> {
    api_version: String,
    kind: String,
    raw: &'a [u8],
}

/// Turns a body into JSON.
pub(super) fn to_json(body: &[u8]) -> Result<Bytes, Status> {
    let envelope = body.strip_prefix(MAGIC).and_then(envelope).ok_or_else(malformed)?;
    let message = message_of(&envelope).ok_or_else(|| unsupported(&envelope.kind, "this kind"))?;
    let mut object = read(envelope.raw, message, &envelope.kind)?;
    object.insert("apiVersion".to_owned(), envelope.api_version.into());
    object.insert("kind".to_owned(), envelope.kind.into());
    Ok(Value::Object(object).to_string().into())
}

fn message_of(envelope: &Envelope<'_>) -> Option<&'static Message> {
    Some(match (envelope.api_version.as_str(), envelope.kind.as_str()) {
        ("v1", "Namespace") => &NAMESPACE,
        ("v1", "ConfigMap") => &CONFIG_MAP,
        ("v1", "Secret") => &SECRET,
        ("v1", "ServiceAccount") => &SERVICE_ACCOUNT,
        ("authentication.k8s.io/v1", "TokenRequest") => &TOKEN_REQUEST,
        ("authentication.k8s.io/v1", "TokenReview") => &TOKEN_REVIEW,
        ("authentication.k8s.io/v1", "SelfSubjectReview") => &SELF_SUBJECT_REVIEW,
        ("authorization.k8s.io/v1", "SelfSubjectAccessReview") => &SELF_SUBJECT_ACCESS_REVIEW,
        ("authorization.k8s.io/v1", "SelfSubjectRulesReview") => &SELF_SUBJECT_RULES_REVIEW,
        ("rbac.authorization.k8s.io/v1", "Role" | "ClusterRole") => &ROLE,
        ("rbac.authorization.k8s.io/v1", "RoleBinding" | "ClusterRoleBinding") => &BINDING,
        (_, "DeleteOptions") => &DELETE_OPTIONS,
        _ => return None,
    })
}

fn envelope(body: &[u8]) -> Option<Envelope<'_>> {
    let mut envelope = Envelope { api_version: String::new(), kind: String::new(), raw: &[] };
    for (number, content) in fields(body)? {
        match (number, content) {
            (1, Content::Bytes(head)) => {
                for (number, content) in fields(head)? {
                    let Content::Bytes(text) = content else { return None };
                    let text = std::str::from_utf8(text).ok()?.to_owned();
                    match number {
                        1 => envelope.api_version = text,
                        2 => envelope.kind = text,
                        _ => return None,
                    }
                }
            }
            (2, Content::Bytes(raw)) => envelope.raw = raw,
            _ => {}
        }
    }
    Some(envelope)
}

/// A field as it is on the wire; Kubernetes' messages use these two wire types only.
#[derive(Clone, Copy)]
enum Content<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn fields(mut body: &[u8]) -> Option<Vec<(u64, Content<'_>)>> {
    let mut found = Vec::new();
    while !body.is_empty() {
        let key = decode_varint(&mut body).ok()?;
        let number = decode_varint(&mut body).ok()?;
        let content = match key & 7 {
            0 => Content::Number(number),
            2 => {
                let (content, rest) = body.split_at_checked(usize::try_from(number).ok()?)?;
                body = rest;
                Content::Bytes(content)
            }
            _ => return None,
        };
        found.push((key >> 3, content));
    }
    Some(found)
}

fn read(body: &[u8], message: &Message, kind: &str) -> Result<Map<String, Value>, Status> {
    let mut object = Map::new();
    for (number, content) in fields(body).ok_or_else(malformed)? {
        let Some((_, name, field)) = message.0.iter().find(|(known, ..)| *known == number) else {
            return Err(unsupported(kind, &format!("field {number}")));
        };
        match (field, content) {
            (Field::Ignored, _) => {}
            (Field::Number, Content::Number(number)) => {
                object.insert((*name).to_owned(), number.cast_signed().into());
            }
            (Field::Flag, Content::Number(flag)) => {
                object.insert((*name).to_owned(), (flag != 0).into());
            }
            // Go writes empty strings that JSON would leave out.
            (Field::Text, Content::Bytes([])) => {}
            (Field::Text, Content::Bytes(bytes)) => {
                object.insert((*name).to_owned(), text(bytes)?.into());
            }
            (Field::Message(inner), Content::Bytes(bytes)) => {
                object.insert((*name).to_owned(), read(bytes, inner, kind)?.into());
            }
            (Field::Texts, Content::Bytes(bytes)) => push(&mut object, name, text(bytes)?.into()),
            (Field::Messages(inner), Content::Bytes(bytes)) => {
                push(&mut object, name, read(bytes, inner, kind)?.into());
            }
            (Field::TextMap | Field::BytesMap, Content::Bytes(bytes)) => {
                let (key, value) = entry(bytes)?;
                let value = match field {
                    Field::TextMap => text(value)?,
                    _ => BASE64_STANDARD.encode(value),
                };
                object.entry(*name).or_insert_with(|| json!({}))[key.as_str()] = value.into();
            }
            _ => return Err(malformed()),
        }
    }
    Ok(object)
}

fn push(object: &mut Map<String, Value>, name: &str, value: Value) {
    if let Value::Array(list) = object.entry(name).or_insert_with(|| json!([])) {
        list.push(value);
    }
}

/// A map's entry is a message of key and value.
fn entry(body: &[u8]) -> Result<(String, &[u8]), Status> {
    let (mut key, mut value) = (String::new(), &[][..]);
    for (number, content) in fields(body).ok_or_else(malformed)? {
        match (number, content) {
            (1, Content::Bytes(bytes)) => key = text(bytes)?,
            (2, Content::Bytes(bytes)) => value = bytes,
            _ => return Err(malformed()),
        }
    }
    Ok((key, value))
}

fn text(bytes: &[u8]) -> Result<String, Status> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| malformed())
}

fn malformed() -> Status {
    Status::bad_request("the body is not an object in the protobuf encoding of Kubernetes")
}

fn unsupported(kind: &str, what: &str) -> Status {
    Status::unsupported_media_type(format!(
        "{kind}: this server does not read {what} in the protobuf encoding; send application/json (kubectl: write the \
         object to a file and use kubectl apply -f)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(content.len()).unwrap()], content].concat()
    }

    fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let head = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
        [MAGIC, &field(1, &head), &field(2, raw), &field(3, b""), &field(4, b"")].concat()
    }

    #[test]
    fn small_kinds_become_json() {
        let check = |name: &str, body: Vec<u8>, expect: Result<Value, u16>| {
            let got = to_json(&body).map(|json| serde_json::from_slice::<Value>(&json).unwrap());
            assert_eq!(got.map_err(|status| status.code), expect, "{name}");
        };
        let label = [field(1, b"a"), field(2, b"b")].concat();
        let metadata = [field(1, b"n"), field(2, b""), field(11, &label), field(8, b"")].concat();
        let namespace = [field(1, &metadata), field(2, b""), field(3, b"")].concat();
        check(
            "a namespace",
            body("v1", "Namespace", &namespace),
            Ok(
                json!({"metadata": {"name": "n", "labels": {"a": "b"}}, "spec": {}, "apiVersion": "v1", "kind": "Namespace"}),
            ),
        );
        let spec = [field(1, b"x"), field(1, b"y"), vec![4 << 3, 0xd8, 0x04]].concat();
        check(
            "a token request",
            body("authentication.k8s.io/v1", "TokenRequest", &field(2, &spec)),
            Ok(json!({"spec": {"audiences": ["x", "y"], "expirationSeconds": 600},
                "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"})),
        );
        let secret = field(2, &[field(1, b"k"), field(2, b"\xff")].concat());
        check(
            "a secret",
            body("v1", "Secret", &secret),
            Ok(json!({"data": {"k": "/w=="}, "apiVersion": "v1", "kind": "Secret"})),
        );
        check("another kind", body("v1", "Pod", b""), Err(415));
        check("a field that is not known", body("v1", "Namespace", &field(9, b"")), Err(415));
        check("no envelope", b"{}".to_vec(), Err(400));
        check("cut off", body("v1", "Namespace", &[0x0a, 0x05]), Err(400));
        check("not a length", [MAGIC, &[0x0a, 0xff]].concat(), Err(400));
    }
}
