//! Answers: content negotiation, bodies, warnings.

use crate::status::Status;
use bytes::Bytes;
use futures::Stream;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use serde_json::Value;
use std::io;

/// The body of every answer. Only one that is passed on from elsewhere can fail: the connection is then cut.
pub type Body = BoxBody<Bytes, io::Error>;

/// The form in which a client wants objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The objects themselves.
    Object,
    /// `meta.k8s.io/v1` `Table`.
    Table,
    /// `meta.k8s.io/v1` `PartialObjectMetadata`.
    Metadata,
}

/// Reads the `Accept` header: the first acceptable entry counts.
///
/// Only JSON is spoken; a client that lists protobuf first and JSON after it gets JSON.
pub fn negotiate(accept: &str) -> Result<Form, Status> {
    if accept.trim().is_empty() {
        return Ok(Form::Object);
    }
    for entry in accept.split(',') {
        let mut parts = entry.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default();
        if !matches!(media_type, "application/json" | "application/*" | "*/*") {
            continue;
        }
        let (mut form, mut group, mut version) = (None, "meta.k8s.io", "v1");
        for parameter in parts {
            match parameter.split_once('=') {
                Some(("as", name)) => form = Some(name),
                Some(("g", name)) => group = name,
                Some(("v", name)) => version = name,
                _ => {}
            }
        }
        match (form, group, version) {
            (None, ..) => return Ok(Form::Object),
            (Some("Table"), "meta.k8s.io", "v1") => return Ok(Form::Table),
            (Some("PartialObjectMetadata" | "PartialObjectMetadataList"), "meta.k8s.io", "v1") => {
                return Ok(Form::Metadata);
            }
            _ => {}
        }
    }
    Err(Status::not_acceptable())
}

/// A body that is all there.
pub fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// An answer of bytes.
pub fn bytes(code: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(whole(body));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// An answer of JSON.
pub fn json(code: StatusCode, value: &Value) -> Response<Body> {
    bytes(code, "application/json", serde_json::to_vec(value).unwrap_or_default())
}

/// An answer that is a status.
pub fn status(status: &Status) -> Response<Body> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(code, &status.to_json());
    if let Some(seconds) = status.details.retry_after_seconds {
        response.headers_mut().insert(http::header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// An answer that goes on.
pub fn stream(
    content_type: &'static str,
    chunks: impl Stream<Item = Bytes> + Send + Sync + 'static,
) -> Response<Body> {
    use futures::StreamExt as _;
    let frames = chunks.map(|chunk| Ok::<_, io::Error>(Frame::data(chunk)));
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(frames)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Adds `Warning` headers (RFC 7234, section 5.5), code 299 as Kubernetes does.
pub fn warn(response: &mut Response<Body>, warnings: &[String]) {
    let mut seen: Vec<&String> = Vec::new();
    for warning in warnings {
        if seen.contains(&warning) {
            continue;
        }
        seen.push(warning);
        let clean: String = warning.chars().filter(|character| !character.is_control()).collect();
        let text = format!("299 - \"{}\"", clean.replace('\\', "\\\\").replace('"', "\\\""));
        if let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) {
            response.headers_mut().append(http::header::WARNING, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negotiation() {
        let check =
            |accept: &str, expect: Option<Form>| assert_eq!(negotiate(accept).ok(), expect, "{accept}");
        check("", Some(Form::Object));
        check("*/*", Some(Form::Object));
        check("application/json", Some(Form::Object));
        check("application/vnd.kubernetes.protobuf,application/json", Some(Form::Object));
        check("application/vnd.kubernetes.protobuf", None);
        check(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
            Some(Form::Table),
        );
        check("application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json", Some(Form::Object));
        check("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", Some(Form::Metadata));
        check("text/html", None);
    }
}
