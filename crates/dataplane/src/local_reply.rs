//! Answers of the proxy's own, as the configuration has them look (`HttpConnectionManager.local_reply_config`, and
//! `DirectResponseAction.body_format`).

use bytes::Bytes;

use crate::access_log::{LogFilter, LogFormat};
use crate::format::Source;
use crate::head::{RequestHead, ResponseHead};
use crate::route::HeaderMutations;
use crate::stream_info::StreamInfo;

/// A body made of operators (`envoy.config.core.v3.SubstitutionFormatString`).
#[derive(Debug, Clone)]
pub struct BodyFormat {
    /// Text or JSON.
    pub format: LogFormat,
    /// `content-type`; without one, that of plain text or of JSON.
    pub content_type: Option<Box<str>>,
}

const TEXT: &str = "text/plain";
const JSON: &str = "application/json";

impl BodyFormat {
    /// Puts a body in its form.
    pub fn render(
        &self,
        body: Bytes,
        info: &mut StreamInfo,
        request: &RequestHead,
        response: Option<&ResponseHead>,
        hostname: &str,
    ) -> Bytes {
        // `%LOCAL_REPLY_BODY%` is found where log lines find it.
        let logged = std::mem::replace(&mut info.local_reply_body, body);
        let mut out = Vec::new();
        let source = Source { info, request: Some(request), response, trailers: None, hostname };
        self.format.write(&source, &mut out);
        info.local_reply_body = logged;
        out.into()
    }

    /// The type of the body.
    pub fn content_type(&self) -> &str {
        match (&self.content_type, &self.format) {
            (Some(kind), _) => kind,
            (None, LogFormat::Text { .. }) => TEXT,
            (None, LogFormat::Json { .. }) => JSON,
        }
    }
}

/// `LocalReplyConfig`.
#[derive(Debug, Default)]
pub struct LocalReplies {
    /// The first that fits changes an answer.
    pub mappers: Vec<Mapper>,
    /// The form of bodies for which no mapper has one.
    pub format: Option<BodyFormat>,
}

/// `ResponseMapper`.
#[derive(Debug)]
pub struct Mapper {
    /// Which answers.
    pub filter: LogFilter,
    /// The status in place of theirs.
    pub status: Option<u16>,
    /// The body in place of theirs.
    pub body: Option<Bytes>,
    /// The form of the body.
    pub format: Option<BodyFormat>,
    /// Changes of their fields.
    pub headers: HeaderMutations,
}

impl LocalReplies {
    /// Changes an answer before it is sent; returns the type of its body.
    pub fn rewrite(
        &self,
        head: &mut ResponseHead,
        body: &mut Bytes,
        info: &mut StreamInfo,
        request: &RequestHead,
        hostname: &str,
    ) -> &str {
        info.response_code = head.status;
        let mut format = self.format.as_ref();
        let mapper = self.mappers.iter().find(|mapper| {
            let source =
                Source { info, request: Some(request), response: Some(head), trailers: None, hostname };
            mapper.filter.passes(&source, info.random)
        });
        if let Some(mapper) = mapper {
            if let Some(other) = &mapper.body {
                *body = other.clone();
            }
            mapper.headers.apply_to_response(head, request, info, hostname);
            if let Some(status) = mapper.status {
                head.status = status;
                info.response_code = status;
            }
            format = mapper.format.as_ref().or(format);
        }
        match format {
            Some(format) => {
                *body = format.render(std::mem::take(body), info, request, Some(head), hostname);
                format.content_type()
            }
            None => TEXT,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access_log::Comparison;
    use crate::format::Format;

    fn text(format: &str, kind: Option<&str>) -> BodyFormat {
        let format = LogFormat::Text { format: Format::compile(format).unwrap(), omit_empty: false };
        BodyFormat { format, content_type: kind.map(Into::into) }
    }

    #[test]
    fn the_first_mapper_that_fits_counts() {
        let of = |status, to, body: Option<&'static str>, format| Mapper {
            filter: LogFilter::Status(Comparison::Equal, status),
            status: to,
            body: body.map(Bytes::from),
            format,
            headers: HeaderMutations::default(),
        };
        let replies = LocalReplies {
            mappers: vec![
                of(503, Some(500), Some("mapped"), None),
                of(503, Some(501), None, None),
                of(404, None, None, Some(text("<%LOCAL_REPLY_BODY%>", None))),
            ],
            format: Some(text("%LOCAL_REPLY_BODY% %RESPONSE_CODE% %REQ(:PATH)%", Some("text/html"))),
        };
        let request = RequestHead::new("GET", "a", "/x");
        for (name, status, expect) in [
            ("mapped", 503, (500, "mapped 500 /x", "text/html")),
            ("with a form of its own", 404, (404, "<body>", "text/plain")),
            ("another", 408, (408, "body 408 /x", "text/html")),
        ] {
            let (mut head, mut body) = (ResponseHead::new(status), Bytes::from("body"));
            let mut info = StreamInfo { local_reply_body: Bytes::from("kept"), ..StreamInfo::default() };
            let kind = replies.rewrite(&mut head, &mut body, &mut info, &request, "");
            assert_eq!((head.status, std::str::from_utf8(&body).unwrap(), kind), expect, "{name}");
            assert_eq!((info.response_code, &info.local_reply_body[..]), (expect.0, &b"kept"[..]), "{name}");
        }
    }
}
