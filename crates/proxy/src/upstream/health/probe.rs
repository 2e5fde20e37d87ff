//! One question to one host.

use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use lateen_dataplane::cluster::Host;
use lateen_dataplane::head::{RequestHead, ResponseHead};
use lateen_dataplane::health::{
    CheckKind, HealthCheck, HealthCheckTarget, HttpCheck, Verdict, contains_in_order,
};
use lateen_dataplane::listener::Address;

use crate::http1::{self, Framing};
use crate::http2;
use crate::message::{BodyEvent, BodyReader, MessageError};
use crate::state::ClusterHandle;
use crate::stats::Shard;
use crate::stream::{Shared, Stream};
use crate::tls::Wanted;
use crate::upstream::{Purpose, connect};

/// Asks one host, again and again.
pub(super) struct Prober {
    /// Where it is asked.
    host: Host,
    /// The authority that its endpoint says.
    hostname: Box<str>,
    kept: Option<Kept>,
    /// Whether the last answer was held against the name of the service.
    service_asked: bool,
    /// Of the last answer over HTTP.
    status: u16,
}

/// The connection of the last question.
enum Kept {
    Http1(Shared),
    Http2(SendRequest<Bytes>),
}

/// An answer, as far as it is judged.
struct Answer {
    head: ResponseHead,
    body: BytesMut,
    /// Of gRPC, from the trailers.
    grpc_status: Option<Box<str>>,
}

impl Prober {
    pub(super) fn new(host: &Arc<Host>, target: &HealthCheckTarget) -> Self {
        let mut address = target.address.clone().unwrap_or_else(|| host.address.clone());
        if let (Some(port), Address::Socket(socket)) = (target.port, &mut address) {
            socket.set_port(port);
        }
        Self {
            host: Host::new(address, &host.hostname).through(host.transport),
            hostname: target.hostname.clone(),
            kept: None,
            service_asked: false,
            status: 0,
        }
    }

    /// The status of the last answer to an HTTP check.
    pub(super) fn status(&self) -> u16 {
        self.status
    }

    /// The next question is asked on a new connection.
    pub(super) fn forget(&mut self) {
        self.kept = None;
    }

    /// Whether it was looked at, in the last answer, which cluster the host is of.
    pub(super) fn service_was_asked(&mut self) -> bool {
        std::mem::take(&mut self.service_asked)
    }

    pub(super) async fn ask(
        &mut self,
        shard: &Arc<Shard>,
        cluster: &ClusterHandle,
        check: &HealthCheck,
    ) -> Verdict {
        let verdict = match &check.kind {
            CheckKind::Http(config) => self.http(shard, cluster, config).await,
            CheckKind::Tcp { send, receive } => self.tcp(shard, cluster, send.as_ref(), receive).await,
            CheckKind::Grpc { service, authority, metadata } => {
                let timeout = grpc_timeout(check.timeout);
                self.grpc(shard, cluster, service, authority, metadata, &timeout).await
            }
        };
        if !check.reuse_connection {
            self.forget();
        }
        verdict.unwrap_or(Verdict::NetworkFailure)
    }

    async fn connect(&self, shard: &Arc<Shard>, cluster: &ClusterHandle, wanted: Wanted) -> Option<Stream> {
        let purpose = Purpose { wanted, dialing: None };
        connect(shard, cluster, &self.host, purpose).await.ok()
    }

    fn authority<'a>(&'a self, configured: &'a str, cluster: &'a ClusterHandle) -> &'a str {
        [&*self.hostname, configured]
            .into_iter()
            .find(|name| !name.is_empty())
            .unwrap_or(&cluster.config.name)
    }

    async fn tcp(
        &mut self,
        shard: &Arc<Shard>,
        cluster: &ClusterHandle,
        send: Option<&Bytes>,
        receive: &[Bytes],
    ) -> Option<Verdict> {
        let connection = Shared::new(self.connect(shard, cluster, Wanted::Any).await?, BytesMut::new());
        if let Some(send) = send {
            connection.write(send).await.ok()?;
        }
        while !contains_in_order(&connection.input(), receive) {
            if connection.fill().await.ok()? == 0 {
                return Some(Verdict::NetworkFailure);
            }
        }
        Some(Verdict::Success { degraded: false })
    }

    async fn http(
        &mut self,
        shard: &Arc<Shard>,
        cluster: &ClusterHandle,
        config: &HttpCheck,
    ) -> Option<Verdict> {
        let mut head =
            RequestHead::new(config.method, self.authority(&config.host, cluster).as_bytes(), &*config.path);
        head.headers.append("user-agent", "Envoy/HC");
        for (name, value, replace) in &config.add {
            match (&**name, replace) {
                ("host" | ":authority", _) => head.set_authority(value.as_bytes()),
                (name, true) => head.headers.set(name, value.as_bytes()),
                (name, false) => head.headers.append(name, value.as_bytes()),
            }
        }
        for name in &config.remove {
            head.headers.remove(&**name);
        }
        let body = config.send.clone().unwrap_or_default();
        let limit = config.buffer;
        let answer = match config.http2 {
            true => self.ask_http2(shard, cluster, &head, body, limit).await?,
            false => self.ask_http1(shard, cluster, &head, body, limit).await?,
        };
        let body_fits = contains_in_order(&answer.body, &config.receive);
        let degraded = answer.head.headers.get("x-envoy-degraded").is_some();
        self.status = answer.head.status;
        let verdict = config.judge(answer.head.status, body_fits);
        if !matches!(verdict, Verdict::Success { .. }) {
            return Some(verdict);
        }
        if let Some(service) = &config.service {
            self.service_asked = true;
            let named = answer.head.headers.get("x-envoy-upstream-healthchecked-cluster");
            if !named.is_some_and(|name| service.matches(name)) {
                return Some(Verdict::Failure);
            }
        }
        Some(Verdict::Success { degraded })
    }

    async fn ask_http1(
        &mut self,
        shard: &Arc<Shard>,
        cluster: &ClusterHandle,
        head: &RequestHead,
        body: Bytes,
        limit: usize,
    ) -> Option<Answer> {
        let connection = match self.kept.take() {
            Some(Kept::Http1(connection)) if !connection.is_stale() => connection,
            _ => Shared::new(self.connect(shard, cluster, Wanted::Http1).await?, BytesMut::new()),
        };
        http1::write_request(
            &mut connection.output(),
            head,
            Framing::Length(body.len() as u64),
            None,
            http1::Spelling::default(),
        );
        connection.write(&body).await.ok()?;
        let (head, keep, reader) = response_head(&connection, head.method() == b"HEAD").await?;
        let complete = Rc::new(std::cell::Cell::new(false));
        let reader = http1::BodyReader::new(connection.clone(), reader, Rc::clone(&complete));
        let reader = if reader.is_done() { BodyReader::Done } else { BodyReader::Http1(reader) };
        let (body, grpc_status) = read_body(reader, limit).await?;
        if keep && complete.get() {
            self.kept = Some(Kept::Http1(connection));
        }
        Some(Answer { head, body, grpc_status })
    }

    async fn ask_http2(
        &mut self,
        shard: &Arc<Shard>,
        cluster: &ClusterHandle,
        head: &RequestHead,
        body: Bytes,
        limit: usize,
    ) -> Option<Answer> {
        let mut sender = match self.kept.take() {
            Some(Kept::Http2(sender)) => sender.ready().await.ok(),
            _ => None,
        };
        if sender.is_none() {
            let stream = self.connect(shard, cluster, Wanted::Http2).await?;
            let (made, connection) = h2::client::handshake(stream).await.ok()?;
            tokio::task::spawn_local(async move {
                let _ = connection.await;
            });
            sender = made.ready().await.ok();
        }
        let mut sender = sender?;
        let request = http2::request(head, None).ok()?;
        let (response, mut stream) = sender.send_request(request, body.is_empty()).ok()?;
        if !body.is_empty() {
            stream.send_data(body, true).ok()?;
        }
        let (parts, stream) = response.await.ok()?.into_parts();
        let reader = match stream.is_end_stream() {
            true => BodyReader::Done,
            false => BodyReader::Http2(http2::BodyReader::new(stream)),
        };
        let (body, grpc_status) = read_body(reader, limit).await?;
        self.kept = Some(Kept::Http2(sender));
        Some(Answer { head: http2::response_head(&parts), body, grpc_status })
    }

    /// `grpc.health.v1.Health/Check`.
    async fn grpc(
        &mut self,
        shard: &Arc<Shard>,
        cluster: &ClusterHandle,
        service: &str,
        authority: &str,
        metadata: &[(Box<str>, Box<str>)],
        timeout: &str,
    ) -> Option<Verdict> {
        let authority = self.authority(authority, cluster).as_bytes().to_vec();
        let mut head = RequestHead::new("POST", &authority[..], "/grpc.health.v1.Health/Check");
        head.headers.append("te", "trailers");
        head.headers.append("content-type", "application/grpc");
        head.headers.append("grpc-timeout", timeout);
        head.headers.append("user-agent", "Envoy/HC");
        for (name, value) in metadata {
            head.headers.append(&**name, value.as_bytes());
        }
        let answer = self.ask_http2(shard, cluster, &head, health_request(service), 4096).await?;
        let status = answer
            .grpc_status
            .or_else(|| answer.head.headers.get_str("grpc-status").map(Into::into))
            .unwrap_or_default();
        let serving = answer.head.status == 200 && &*status == "0" && is_serving(&answer.body);
        Some(if serving { Verdict::Success { degraded: false } } else { Verdict::Failure })
    }
}

async fn response_head(connection: &Shared, to_head: bool) -> Option<(ResponseHead, bool, Framing)> {
    let limits = http1::Limits { bytes: 64 * 1024, fields: 256 };
    let mut head = ResponseHead::default();
    loop {
        let parsed = {
            let mut input = connection.input();
            let parsed = http1::parse_response(&input, limits, to_head, &mut head).ok()?;
            if let Some(parsed) = &parsed {
                bytes::Buf::advance(&mut *input, parsed.length);
            }
            parsed
        };
        match parsed {
            Some(_) if (100..200).contains(&head.status) => {}
            Some(parsed) => return Some((head, parsed.keep_alive, parsed.framing)),
            None if connection.fill().await.ok()? == 0 => return None,
            None => {}
        }
    }
}

/// The body, as much of it as is judged, and the status of gRPC.
async fn read_body(mut reader: BodyReader, limit: usize) -> Option<(BytesMut, Option<Box<str>>)> {
    let mut body = BytesMut::new();
    loop {
        let event: Result<BodyEvent, MessageError> = reader.next().await;
        match event.ok()? {
            BodyEvent::Data(chunk) => {
                // Without a limit in the configuration everything is looked at.
                let room = if limit == 0 { chunk.len() } else { limit.saturating_sub(body.len()) };
                body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            }
            BodyEvent::Trailers(trailers) => {
                return Some((body, trailers.get_str("grpc-status").map(Into::into)));
            }
            BodyEvent::End => return Some((body, None)),
        }
    }
}

/// A time as gRPC writes it: eight digits at most, in milliseconds where that is enough.
fn grpc_timeout(time: std::time::Duration) -> String {
    let mut number = time.as_millis();
    for (unit, divisor) in [('m', 1000), ('S', 60), ('M', 60)] {
        if number <= 99_999_999 {
            return format!("{number}{unit}");
        }
        number /= divisor;
    }
    format!("{number}H")
}

/// A `HealthCheckRequest` in a frame of gRPC: field 1 is the service.
fn health_request(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push((length as u8 & 0x7f) | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let mut frame = vec![0];
    frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
    frame.extend_from_slice(&message);
    frame.into()
}

/// Whether a `HealthCheckResponse` says SERVING: field 1 is 1.
fn is_serving(body: &[u8]) -> bool {
    let Some(([0, ..], message)) = body.split_at_checked(5) else { return false };
    message.windows(2).next() == Some(&[0x08, 0x01][..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_grpc() {
        use std::time::Duration;
        for (time, expect) in [
            (Duration::from_millis(1), "1m"),
            (Duration::from_secs(1), "1000m"),
            (Duration::from_millis(99_999_999), "99999999m"),
            (Duration::from_millis(100_000_000), "100000S"),
            (Duration::from_secs(100_000_000), "1666666M"),
        ] {
            assert_eq!(grpc_timeout(time), expect);
        }
    }

    #[test]
    fn frames_of_grpc() {
        assert_eq!(&health_request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&health_request("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = health_request(&"x".repeat(200));
        assert_eq!(long[5..8], [0x0a, 0xc8, 0x01]);
        for (name, body, expect) in [
            ("serving", &[0, 0, 0, 0, 2, 8, 1][..], true),
            ("not serving", &[0, 0, 0, 0, 2, 8, 2], false),
            ("unknown", &[0, 0, 0, 0, 0], false),
            ("compressed", &[1, 0, 0, 0, 2, 8, 1], false),
            ("cut off", &[0, 0, 0], false),
        ] {
            assert_eq!(is_serving(body), expect, "{name}");
        }
    }
}
