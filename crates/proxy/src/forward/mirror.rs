//! Mirrors (`request_mirror_policies`): copies of a request, sent while its body comes. Nobody waits for their answers.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lateen_dataplane::circuit::RoutePriority;
use lateen_dataplane::cluster::UpstreamProtocol;
use lateen_dataplane::head::{Headers, RequestHead};
use lateen_dataplane::outlier::Report;
use lateen_dataplane::route::{Forward, Mirror, without_port};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::active::ActiveRequest;
use super::tries::{HostPart, count_status};
use crate::message::{BodyEvent, BodyReader, BodyWriter, MessageError};
use crate::router::Exchange;
use crate::state::ClusterHandle;
use crate::tls::Wanted;
use crate::upstream::outlier::judged_status;
use crate::upstream::{AcquireError, Dialing, Tunnel, UseOf};
use crate::worker::{Choice, Worker};

/// A copy that is so many bytes behind is given up: the request does not wait for it.
const BEHIND: usize = 1 << 20;

/// Sends copies of a request, and lets them see its body as it is read.
pub(super) fn mirror(
    exchange: &Exchange,
    action: &Forward,
    body: &mut BodyReader,
    timeout: Option<Duration>,
) {
    let mut copies = Vec::new();
    for mirror in &action.mirrors {
        let Some((cluster, head)) = copy_of(exchange, mirror) else { continue };
        let (body_sender, body_receiver) = unbounded_channel();
        let queued: Rc<Cell<usize>> = Rc::default();
        let copy = Copy {
            worker: Rc::clone(&exchange.worker),
            cluster,
            head,
            destination: exchange.connection.destination(),
            body: (!body.is_done()).then_some((body_receiver, Rc::clone(&queued))),
        };
        copies.push(Sink { parts: Some(body_sender), queued });
        tokio::task::spawn_local(copy.run(timeout));
    }
    if !body.is_done() && !copies.is_empty() {
        let inner = std::mem::replace(body, BodyReader::Done);
        *body = BodyReader::Mirrored(Box::new(MirroredBody { inner, copies }));
    }
}

/// Where a copy goes, and its head; none where this request is not copied.
fn copy_of(exchange: &Exchange, mirror: &Mirror) -> Option<(Arc<ClusterHandle>, RequestHead)> {
    if !mirror.fraction.contains(exchange.worker.random()) {
        return None;
    }
    let named = mirror.header.as_ref().and_then(|name| std::str::from_utf8(exchange.head.field(name)?).ok());
    let name = named.unwrap_or(&mirror.cluster);
    let cluster = exchange.worker.state.clusters.load().get(name).cloned()?;
    let mut head = exchange.head.clone();
    if let Some(host) = &mirror.host {
        head.set_authority(host);
    } else if mirror.shadow_suffix {
        let authority = head.authority().to_vec();
        let host = without_port(&authority);
        head.set_authority([host, b"-shadow", &authority[host.len()..]].concat());
    }
    // The copy is a request of our own.
    head.headers.set("x-envoy-internal", "true");
    let own = exchange.worker.state.local_address.to_string();
    crate::request::append_list(&mut head.headers, "x-forwarded-for", &own, ",");
    Some((cluster, head))
}

/// A part of the body for a copy.
enum Part {
    Data(Bytes),
    End(Option<Headers>),
}

/// Where a copy's body goes.
#[derive(Debug)]
struct Sink {
    parts: Option<UnboundedSender<Part>>,
    /// Bytes that were not sent yet.
    queued: Rc<Cell<usize>>,
}

/// A request's body that copies see, too.
#[derive(Debug)]
pub struct MirroredBody {
    inner: BodyReader,
    copies: Vec<Sink>,
}

impl MirroredBody {
    /// The next part.
    pub async fn next(&mut self) -> Result<BodyEvent, MessageError> {
        let event = self.inner.next().await?;
        for copy in &mut self.copies {
            copy.pass(&event);
        }
        Ok(event)
    }

    /// Whether it is known that nothing more comes.
    pub fn is_done(&self) -> bool {
        // The copies have to be told of the end.
        false
    }
}

impl Sink {
    fn pass(&mut self, event: &BodyEvent) {
        let Some(parts) = &self.parts else { return };
        let part = match event {
            BodyEvent::Data(chunk) => {
                self.queued.set(self.queued.get() + chunk.len());
                Part::Data(chunk.clone())
            }
            BodyEvent::Trailers(trailers) => Part::End(Some(trailers.clone())),
            BodyEvent::End => Part::End(None),
        };
        // Whoever receives may have failed long ago. Without an end a copy is not complete, and is reset.
        if parts.send(part).is_err() || self.queued.get() > BEHIND {
            self.parts = None;
        }
    }
}

/// A copy on its way.
struct Copy {
    worker: Rc<Worker>,
    cluster: Arc<ClusterHandle>,
    head: RequestHead,
    destination: Option<SocketAddr>,
    body: Option<(UnboundedReceiver<Part>, Rc<Cell<usize>>)>,
}

impl Copy {
    async fn run(mut self, timeout: Option<Duration>) {
        let sent = self.send();
        let status = match timeout {
            None => sent.await,
            Some(timeout) => match tokio::time::timeout(timeout, sent).await {
                Ok(status) => status,
                Err(_) => {
                    self.worker.stats.increment(self.cluster.stats.upstream_rq_timeout);
                    Some(504)
                }
            },
        };
        // The answer of an upstream was counted when it came.
        if let Some(status) = status {
            count_status(&self.worker.stats, &self.cluster, true, HostPart::default(), status);
        }
    }

    /// Sends the copy and reads its answer. The status that counts where there is none; none where nobody counts.
    async fn send(&mut self) -> Option<u16> {
        let (worker, cluster) = (&self.worker, &self.cluster);
        let choice = Choice { destination: self.destination, ..Choice::default() };
        let Some(host) = worker.choose_host(cluster, choice) else {
            worker.stats.increment(cluster.stats.upstream_cx_none_healthy);
            return Some(503);
        };
        let wanted = match cluster.config.protocol {
            UpstreamProtocol::Http2 => Wanted::Http2,
            UpstreamProtocol::Auto => Wanted::Either,
            UpstreamProtocol::Http1 | UpstreamProtocol::AsDownstream => Wanted::Http1,
        };
        let dialing = Dialing::new(cluster, &host, &self.head, None);
        let priority = RoutePriority::Default;
        let acquired = worker
            .pools
            .acquire(&worker.stats, cluster, &host, priority, wanted, dialing, UseOf::Request)
            .await;
        let upstream = match acquired {
            Ok(upstream) => upstream,
            Err(error) => {
                if matches!(error, AcquireError::Connect(_)) {
                    cluster.report(&host, Report::LocalFailure);
                }
                return Some(503);
            }
        };
        let mut active = ActiveRequest::new(worker, cluster, priority);
        if !active.attach(&host) {
            upstream.not_used();
            return Some(503);
        }
        let end = self.body.is_none();
        let Ok((writer, mut response)) = upstream.send(&self.head, end, Tunnel::None) else {
            return Some(503);
        };
        match (writer, &mut self.body) {
            (Some(writer), Some(body)) => match copy_body(body, writer).await {
                Some(Ok(())) => response.request_sent(),
                Some(Err(_)) => return Some(503),
                // The request itself was given up.
                None => return None,
            },
            _ => {
                if response.flush().await.is_err() {
                    return Some(503);
                }
            }
        }
        let (head, mut body) = match response.head().await {
            Ok(answer) => answer,
            Err(error) => return Some(if matches!(error, MessageError::Protocol(_)) { 502 } else { 503 }),
        };
        cluster.report(&host, Report::Answer(judged_status(&head)));
        count_status(&worker.stats, cluster, true, HostPart::of(&host).answered(&head), head.status);
        while let Ok(BodyEvent::Data(_)) = body.next().await {}
        None
    }
}

/// Sends a body as it comes. None where it does not come to its end.
async fn copy_body(
    (parts, queued): &mut (UnboundedReceiver<Part>, Rc<Cell<usize>>),
    mut writer: BodyWriter,
) -> Option<Result<(), MessageError>> {
    loop {
        let part = match parts.try_recv() {
            Ok(part) => part,
            Err(_) => {
                if let Err(error) = writer.flush().await {
                    return Some(Err(error));
                }
                parts.recv().await?
            }
        };
        let result = match part {
            Part::Data(chunk) => {
                queued.set(queued.get().saturating_sub(chunk.len()));
                writer.data(chunk).await
            }
            Part::End(trailers) => return Some(writer.finish(trailers.as_ref()).await),
        };
        if result.is_err() {
            return Some(result);
        }
    }
}
