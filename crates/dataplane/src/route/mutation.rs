//! Adding and removing header fields (`request_headers_to_add` and its siblings, on every level).

use crate::format::{Format, Source};
use crate::head::{Headers, RequestHead, ResponseHead};

/// `envoy.config.core.v3.HeaderValueOption.HeaderAppendAction`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendAction {
    /// Another field of the name.
    Append,
    /// Only if there is none.
    AddIfAbsent,
    /// In place of all.
    Overwrite,
    /// In place of all, if there is one.
    OverwriteIfExists,
}

/// A field to add.
#[derive(Debug, Clone)]
pub struct HeaderValue {
    /// In lower case; `:path`, `:authority`, `host` change the pseudo header.
    pub name: Box<[u8]>,
    /// Its value.
    pub value: Format,
    /// How it meets what is there.
    pub action: AppendAction,
    /// Whether an empty value is sent too.
    pub keep_empty: bool,
}

/// What one level of configuration does to both heads.
#[derive(Debug, Clone, Default)]
pub struct HeaderMutations {
    /// Fields to add to requests.
    pub request_add: Vec<HeaderValue>,
    /// Fields to remove from requests.
    pub request_remove: Vec<Box<[u8]>>,
    /// Fields to add to responses.
    pub response_add: Vec<HeaderValue>,
    /// Fields to remove from responses.
    pub response_remove: Vec<Box<[u8]>>,
}

impl HeaderMutations {
    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.request_add.is_empty()
            && self.request_remove.is_empty()
            && self.response_add.is_empty()
            && self.response_remove.is_empty()
    }

    /// Changes a request: removals come first, as in Envoy.
    pub fn apply_to_request(&self, head: &mut RequestHead, info: &crate::StreamInfo, hostname: &str) {
        for name in &self.request_remove {
            head.headers.remove(name);
        }
        for addition in &self.request_add {
            addition.add_to_request(head, info, hostname);
        }
    }

    /// Changes a response.
    pub fn apply_to_response(
        &self,
        head: &mut ResponseHead,
        request: &RequestHead,
        info: &crate::StreamInfo,
        hostname: &str,
    ) {
        for name in &self.response_remove {
            head.headers.remove(name);
        }
        for addition in &self.response_add {
            addition.add_to_response(head, request, info, hostname);
        }
    }
}

impl HeaderValue {
    /// Adds it to a request.
    pub fn add_to_request(&self, head: &mut RequestHead, info: &crate::StreamInfo, hostname: &str) {
        let mut value = Vec::new();
        let source = Source { info, request: Some(head), response: None, trailers: None, hostname };
        self.value.header_value(&source, &mut value);
        match &self.name[..] {
            b":path" => head.set_path(value),
            b":authority" | b"host" => head.set_authority(value),
            b":method" => head.set_method(value),
            _ => self.add(&mut head.headers, value),
        }
    }

    /// Adds it to a response.
    pub fn add_to_response(
        &self,
        head: &mut ResponseHead,
        request: &RequestHead,
        info: &crate::StreamInfo,
        hostname: &str,
    ) {
        let mut value = Vec::new();
        let source = Source { info, request: Some(request), response: Some(head), trailers: None, hostname };
        self.value.header_value(&source, &mut value);
        self.add(&mut head.headers, value);
    }

    /// The same with its value worked out.
    #[must_use]
    pub fn resolve(&self, source: &Source<'_>) -> Self {
        let mut value = Vec::new();
        self.value.header_value(source, &mut value);
        Self { value: Format::literal(value), ..self.clone() }
    }

    /// Adds a field that was [`resolve`](Self::resolve)d.
    pub fn add_literal(&self, headers: &mut Headers) {
        self.add(headers, self.value.as_literal().unwrap_or_default().to_vec());
    }

    fn add(&self, headers: &mut Headers, mut value: Vec<u8>) {
        // Whatever an operator copied from elsewhere must not end the line.
        value.retain(|byte| !matches!(byte, b'\r' | b'\n' | 0));
        if value.is_empty() && !self.keep_empty {
            return;
        }
        let there = headers.contains(&self.name);
        match self.action {
            AppendAction::Append => headers.append(&self.name, value),
            AppendAction::AddIfAbsent if there => {}
            AppendAction::AddIfAbsent => headers.append(&self.name, value),
            AppendAction::Overwrite => headers.set(&self.name, value),
            AppendAction::OverwriteIfExists if there => headers.set(&self.name, value),
            AppendAction::OverwriteIfExists => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_append_action() {
        for (name, action, before, expect) in [
            ("append", AppendAction::Append, &[("x", "1")][..], &[("x", "1"), ("x", "GET")][..]),
            ("absent, there", AppendAction::AddIfAbsent, &[("x", "1")], &[("x", "1")]),
            ("absent, missing", AppendAction::AddIfAbsent, &[], &[("x", "GET")]),
            ("overwrite", AppendAction::Overwrite, &[("x", "1"), ("x", "2")], &[("x", "GET")]),
            ("overwrite if exists, missing", AppendAction::OverwriteIfExists, &[], &[]),
        ] {
            let value = Format::compile("%REQ(:METHOD)%").unwrap();
            let mutations = HeaderMutations {
                request_add: vec![HeaderValue { name: b"x"[..].into(), value, action, keep_empty: false }],
                ..HeaderMutations::default()
            };
            let mut head = RequestHead::new("GET", "a", "/");
            head.headers.extend_from(before);
            mutations.apply_to_request(&mut head, &crate::StreamInfo::default(), "");
            assert_eq!(head.headers, expect.iter().copied().collect(), "{name}");
        }
    }

    impl Headers {
        fn extend_from(&mut self, fields: &[(&str, &str)]) {
            for (name, value) in fields {
                self.append(name, value);
            }
        }
    }
}
