//! The answer to a request that was sent.

use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::Buf;
use lateen_dataplane::head::ResponseHead;
use lateen_dataplane::http_protocol::HeaderCase;
use lateen_dataplane::stream_info::HeadSize;

use super::{Account, Lease, TunnelKind, UpstreamResponse};
use crate::http1::{self as codec1, Framing, ParsedResponse};
use crate::http2 as codec2;
use crate::message::{BodyReader, MessageError};
use crate::respond::Interim;
use crate::stream::Shared;

impl UpstreamResponse {
    /// Sends the head of a request without a body.
    pub async fn flush(&self) -> Result<(), MessageError> {
        if let Self::Http1 { lease, .. } = self
            && let Some(connection) = &lease.connection
        {
            connection.shared.flush().await?;
            lease.sent.set(true);
        }
        Ok(())
    }

    /// Says that the request's body was sent to its end.
    pub fn request_sent(&self) {
        match self {
            Self::Http1 { lease, .. } => lease.sent.set(true),
            Self::Http2 { guard, .. } => guard.sent.set(true),
        }
    }

    /// Whether it is HTTP/1 that is spoken.
    pub fn is_http1(&self) -> bool {
        matches!(self, Self::Http1 { .. })
    }

    /// How large the head was, where it is known.
    pub fn head_size(&self) -> HeadSize {
        match self {
            Self::Http1 { lease, .. } => lease.head.get(),
            Self::Http2 { .. } => HeadSize::default(),
        }
    }

    /// Interim answers (1xx) go there.
    pub fn relay_interim(&mut self, to: Option<Rc<Interim>>) {
        match self {
            Self::Http1 { interim, .. } | Self::Http2 { interim, .. } => *interim = to,
        }
    }

    /// The status of the first interim answer, if there was any.
    pub fn interim_status(&self) -> Option<u16> {
        match self {
            Self::Http1 { interim_status, .. } | Self::Http2 { interim_status, .. } => {
                Some(*interim_status).filter(|status| *status != 0)
            }
        }
    }

    fn account(&self) -> Option<&Account> {
        match self {
            Self::Http1 { lease, .. } => lease.connection.as_ref().map(|connection| &connection.account),
            Self::Http2 { guard, .. } => Some(guard.account()),
        }
    }

    /// The upstream broke the protocol of its connection (HTTP/1), which ends by that.
    pub fn count_protocol_error(&self) {
        if let (Self::Http1 { .. }, Some(account)) = (self, self.account()) {
            account.protocol_error();
        }
    }

    /// The head of the final response (or of a change of protocol), and its body.
    pub async fn head(&mut self) -> Result<(ResponseHead, BodyReader), MessageError> {
        let result = match self {
            Self::Http1 { lease, to_head, tunnel, interim, interim_status } => {
                let wanted = (*to_head, *tunnel);
                http1_head(lease, wanted, interim.as_deref(), interim_status).await
            }
            Self::Http2 { .. } => self.http2_head().await,
        };
        if let Err(MessageError::Protocol(_)) = &result {
            self.count_protocol_error();
        }
        result
    }

    async fn http2_head(&mut self) -> Result<(ResponseHead, BodyReader), MessageError> {
        let Self::Http2 { response, guard, protocol, interim, interim_status } = self else {
            return Err(MessageError::Closed);
        };
        let answer = std::future::poll_fn(|context| {
            while let Poll::Ready(Some(Ok(head))) = response.poll_informational(context) {
                if *interim_status == 0 {
                    *interim_status = head.status().as_u16();
                }
                if let Some(interim) = interim {
                    interim.push(codec2::response_head(&head.into_parts().0));
                }
            }
            Pin::new(&mut *response).poll(context)
        });
        let answer = answer.await.map_err(|error| guard.outcome.failed(error))?;
        let (parts, stream) = answer.into_parts();
        let mut head = codec2::response_head(&parts);
        if let Some(protocol) = protocol
            && head.status == 200
        {
            // As HTTP/1 says that the protocol is changed (RFC 8441, 5).
            head.status = 101;
            head.headers.set("upgrade", protocol.as_bytes());
            head.headers.set("connection", "upgrade");
        }
        let body = if stream.is_end_stream() {
            guard.outcome.complete();
            BodyReader::Done
        } else {
            BodyReader::Http2(codec2::BodyReader::new(stream).with_outcome(&guard.outcome))
        };
        Ok((head, body))
    }

    /// Whether any byte of an answer came.
    pub fn has_begun(&self) -> bool {
        match self {
            Self::Http1 { lease, .. } => {
                lease.connection.as_ref().is_some_and(|connection| !connection.shared.input().is_empty())
            }
            Self::Http2 { .. } => false,
        }
    }
}

async fn http1_head(
    lease: &Lease,
    (to_head, tunnel): (bool, TunnelKind),
    interim: Option<&Interim>,
    interim_status: &mut u16,
) -> Result<(ResponseHead, BodyReader), MessageError> {
    let Some(connection) = &lease.connection else { return Err(MessageError::Closed) };
    let shared = connection.shared.clone();
    let bytes_of = |shared| {
        let received = Rc::clone(&lease.received);
        BodyReader::Http1(codec1::BodyReader::new(shared, Framing::UntilClose, received))
    };
    if tunnel == TunnelKind::Raw {
        return Ok((ResponseHead::new(200), bytes_of(shared)));
    }
    let mut head = ResponseHead::default();
    loop {
        let Some(parsed) = take_head(lease, &connection.account, &shared, to_head, &mut head)? else {
            match shared.fill().await {
                Ok(1..) => continue,
                // What has begun is not to end so.
                _ if !shared.input().is_empty() => {
                    return Err(MessageError::Protocol("the connection ended within a head"));
                }
                Ok(_) => return Err(MessageError::Closed),
                Err(error) => return Err(error.into()),
            }
        };
        match head.status {
            101 if tunnel == TunnelKind::Upgrade => return Ok((head, bytes_of(shared))),
            101 => return Err(MessageError::Protocol("nobody asked for another protocol")),
            // An interim answer: the final one follows.
            100..=199 => {
                if *interim_status == 0 {
                    *interim_status = head.status;
                }
                if let Some(interim) = interim {
                    interim.push(std::mem::take(&mut head));
                }
            }
            200..=299 if tunnel == TunnelKind::Connect => return Ok((head, bytes_of(shared))),
            _ => {
                if parsed.close {
                    connection.account.close_notified();
                }
                lease.keep.set(parsed.keep_alive);
                let received = Rc::clone(&lease.received);
                let reader = codec1::BodyReader::new(shared, parsed.framing, received)
                    .with_trailers(connection.account.cluster.config.http1.trailers);
                let body = if reader.is_done() { BodyReader::Done } else { BodyReader::Http1(reader) };
                return Ok((head, body));
            }
        }
    }
}

/// Takes a head off what was received; none where it is not complete.
fn take_head(
    lease: &Lease,
    account: &Account,
    shared: &Shared,
    to_head: bool,
    head: &mut ResponseHead,
) -> Result<Option<ParsedResponse>, MessageError> {
    let config = &account.cluster.config;
    let limits =
        codec1::Limits { bytes: config.response_limits.bytes, fields: config.response_limits.fields };
    let mut input = shared.input();
    let parsed = codec1::parse_response(&input, limits, to_head, head).map_err(MessageError::Protocol)?;
    let Some(parsed) = parsed else { return Ok(None) };
    lease.head.set(HeadSize {
        bytes: parsed.length as u32,
        line: parsed.line as u32,
        fields: parsed.fields as u32,
    });
    if parsed.fields > limits.fields {
        return Err(MessageError::Protocol("the response's head has too many fields"));
    }
    if config.http1.header_case == HeaderCase::Preserve {
        codec1::remember_names(&input[..parsed.length], &mut head.headers);
    }
    input.advance(parsed.length);
    Ok(Some(parsed))
}
