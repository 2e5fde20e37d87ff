//! One stream: moves requests, changes and responses between the client, the state machine and the source.

use std::net::SocketAddr;
use std::sync::Arc;

use lateen_envoy::envoy::config::core::v3::Node;
use lateen_envoy::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use tokio::sync::mpsc;
use tonic::Status;
use tonic::codegen::{Body, StdError};
use tonic::metadata::MetadataMap;

use super::framing::Requests;
use super::session::Session;
use super::status::Streams;
use super::{Protocol, Response, ServerOptions};
use crate::source::{Client, ResourceSource, Subscriber};

/// What the two kinds of request have in common.
pub(super) trait DiscoveryMessage: prost::Message + Default + 'static {
    const PROTOCOL: Protocol;
    fn take_node(&mut self) -> Option<Node>;
    fn type_url(&self) -> &str;
    fn apply(self, session: &mut Session, subscriber: &mut dyn Subscriber);
}

impl DiscoveryMessage for DiscoveryRequest {
    const PROTOCOL: Protocol = Protocol::Sotw;

    fn take_node(&mut self) -> Option<Node> {
        self.node.take()
    }

    fn type_url(&self) -> &str {
        &self.type_url
    }

    fn apply(self, session: &mut Session, subscriber: &mut dyn Subscriber) {
        session.on_sotw(self, subscriber);
    }
}

impl DiscoveryMessage for DeltaDiscoveryRequest {
    const PROTOCOL: Protocol = Protocol::Delta;

    fn take_node(&mut self) -> Option<Node> {
        self.node.take()
    }

    fn type_url(&self) -> &str {
        &self.type_url
    }

    fn apply(self, session: &mut Session, subscriber: &mut dyn Subscriber) {
        session.on_delta(self, subscriber);
    }
}

/// What a request says besides its messages.
pub(super) struct Head {
    pub(super) metadata: MetadataMap,
    pub(super) extensions: http::Extensions,
    pub(super) remote_address: Option<SocketAddr>,
}

pub(super) type Outbound = mpsc::Sender<Result<Box<Response>, Status>>;

/// Runs a stream to its end.
pub(super) async fn run<S, R, B>(
    source: Arc<S>,
    options: Arc<ServerOptions>,
    streams: Streams,
    head: Head,
    inbound: Requests<R, B>,
    outbound: Outbound,
) where
    S: ResourceSource,
    R: DiscoveryMessage,
    B: Body + Send,
    B::Error: Into<StdError>,
{
    if let Err(status) = serve(source, options, streams, head, inbound, &outbound).await {
        // A client that has gone needs no reason.
        let _ = outbound.send(Err(status)).await;
    }
}

async fn serve<S, R, B>(
    source: Arc<S>,
    options: Arc<ServerOptions>,
    streams: Streams,
    head: Head,
    mut inbound: Requests<R, B>,
    outbound: &Outbound,
) -> Result<(), Status>
where
    S: ResourceSource,
    R: DiscoveryMessage,
    B: Body + Send,
    B::Error: Into<StdError>,
{
    let Some(mut first) = inbound.message().await? else { return Ok(()) };
    let mut node = first
        .take_node()
        .ok_or_else(|| Status::invalid_argument("the first request of a stream must carry the node"))?;
    let remote_address = head.remote_address;
    let client =
        Client { node: node.clone(), metadata: head.metadata, extensions: head.extensions, remote_address };
    let mut subscriber = source.connect(client).await?;
    // Envoy lists every extension that it was built with, with all their types.
    node.extensions = Vec::new();

    let registration = streams.register(Arc::new(node), remote_address, R::PROTOCOL);
    let mut session = Session::new(
        options,
        R::PROTOCOL == Protocol::Delta,
        registration.types.clone(),
        registration.names.clone(),
    );
    apply(first, &mut session, subscriber.as_mut())?;
    loop {
        session.settle(subscriber.as_mut());
        tokio::select! {
            biased;
            request = inbound.message() => match request {
                Ok(Some(request)) => apply(request, &mut session, subscriber.as_mut())?,
                Ok(None) => return Ok(()),
                Err(status) => {
                    tracing::debug!(stream = registration.id.0, %status, "a client has gone");
                    return Ok(());
                }
            },
            () = outbound.closed() => return Ok(()),
            // Built only once the client can take it: whatever changes before then is part of it.
            permit = outbound.reserve(), if session.is_ready() => match permit {
                Ok(permit) => {
                    if let Some(response) = session.next_push(subscriber.as_mut()) {
                        permit.send(Ok(Box::new(response)));
                    }
                }
                Err(_) => return Ok(()),
            },
            changes = subscriber.changed() => match changes {
                Some(changes) => session.on_change(changes, subscriber.as_ref()),
                None => return Ok(()),
            },
        }
    }
}

fn apply<R: DiscoveryMessage>(
    request: R,
    session: &mut Session,
    subscriber: &mut dyn Subscriber,
) -> Result<(), Status> {
    if request.type_url().is_empty() {
        return Err(Status::invalid_argument("a request on an aggregated stream must name a type_url"));
    }
    request.apply(session, subscriber);
    Ok(())
}
