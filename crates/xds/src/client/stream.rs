//! The client's task: connects, and moves messages between the server, the state and the handler.

use std::sync::Arc;
use std::time::SystemTime;

use futures::StreamExt;
use http::uri::PathAndQuery;
use lateen_base::backoff::Backoff;
use lateen_envoy::Any;
use lateen_envoy::envoy::config::core::v3::{ControlPlane, Node};
use lateen_envoy::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::state::{Received, Request, State};
use super::{ClientOptions, Command, Connection, Handle, Handler, Resource, Update};
use crate::codec::MessageCodec;
use crate::transport::full_reason;
use crate::{DELTA_PATH, Protocol, SOTW_PATH, resource_name};

pub(super) struct Task<H> {
    pub(super) channel: Channel,
    pub(super) options: ClientOptions,
    pub(super) state: State,
    pub(super) handler: H,
    pub(super) handle: Handle,
    pub(super) commands: mpsc::UnboundedReceiver<Command>,
    pub(super) connected: watch::Sender<bool>,
}

impl<H: Handler> Task<H> {
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new(self.options.min_backoff, self.options.max_backoff);
        loop {
            let result = match self.options.protocol {
                Protocol::Delta => self.stream::<DeltaDiscoveryRequest>(&mut backoff).await,
                Protocol::Sotw => self.stream::<DiscoveryRequest>(&mut backoff).await,
            };
            let reason = match result {
                Ok(()) => "the server ended the stream".to_owned(),
                Err(status) => match std::error::Error::source(&status) {
                    Some(cause) => format!("{:?}: {}", status.code(), full_reason(cause)),
                    None => format!("{:?}: {}", status.code(), status.message()),
                },
            };
            tracing::debug!(%reason, "discovery stream lost");
            self.down(&reason);
            let delay = tokio::time::sleep(backoff.next_delay());
            tokio::pin!(delay);
            loop {
                tokio::select! {
                    () = &mut delay => break,
                    command = self.commands.recv() => match command {
                        Some(command) => _ = self.state.command(command, false),
                        None => return,
                    },
                }
            }
        }
    }

    async fn stream<R: DiscoveryMessage>(&mut self, backoff: &mut Backoff) -> Result<(), Status> {
        while let Ok(command) = self.commands.try_recv() {
            self.state.command(command, false);
        }
        let metadata = (self.options.metadata)().await?;
        let mut grpc = tonic::client::Grpc::new(self.channel.clone()).max_decoding_message_size(usize::MAX);
        grpc.ready().await.map_err(|error| Status::unavailable(full_reason(&error)))?;

        let (outbound, messages) = mpsc::unbounded_channel();
        let mut outbound = Outbound::<R> { sender: outbound, node: Some(self.options.node.clone()) };
        for request in self.state.open() {
            outbound.send(request);
        }
        let mut request = tonic::Request::new(UnboundedReceiverStream::new(messages));
        *request.metadata_mut() = metadata;
        let codec = MessageCodec::<R, R::Response>::default();
        let opening =
            grpc.streaming(request, PathAndQuery::from_static(self.options.path.unwrap_or(R::PATH)), codec);
        tokio::pin!(opening);
        // A server may send its headers with the first response only, which it owes to a request: so requests go on.
        let mut inbound: Streaming<R::Response> = loop {
            tokio::select! {
                response = &mut opening => break response?.into_inner(),
                Some(command) = self.commands.recv() => {
                    if let Some(request) = self.state.command(command, true) {
                        outbound.send(request);
                    }
                }
            }
        };
        self.up();
        loop {
            tokio::select! {
                message = inbound.next() => match message {
                    Some(response) => {
                        let (update, received, control_plane) = R::receive(response?);
                        backoff.reset();
                        outbound.send(self.update(update, received, control_plane));
                    }
                    None => return Ok(()),
                },
                Some(command) = self.commands.recv() => {
                    if let Some(request) = self.state.command(command, true) {
                        outbound.send(request);
                    }
                }
            }
        }
    }

    fn update(
        &mut self,
        mut update: Update,
        mut received: Received,
        control_plane: Option<ControlPlane>,
    ) -> Request {
        self.state.complete(&mut update);
        received.removed.clone_from(&update.removed);
        let rejected = self.handler.update(update, &self.handle);
        for rejected in &rejected {
            let type_url = &*received.type_url;
            tracing::warn!(type_url, name = rejected.name, reason = rejected.reason, "resource rejected");
        }
        let mut status = self.handle.status.lock();
        if rejected.is_empty() {
            status.accepted += 1;
        } else {
            status.rejected += 1;
        }
        if let Some(control_plane) = control_plane {
            status.control_plane = control_plane.identifier;
        }
        drop(status);
        self.state.answer(&received, &rejected)
    }

    fn up(&mut self) {
        let mut status = self.handle.status.lock();
        status.connected = true;
        status.since = Some(SystemTime::now());
        status.connects += 1;
        drop(status);
        self.connected.send_replace(true);
        self.handler.connection(Connection::Up);
    }

    fn down(&mut self, reason: &str) {
        let mut status = self.handle.status.lock();
        if status.connected || status.since.is_none() {
            status.since = Some(SystemTime::now());
        }
        status.connected = false;
        status.failures += 1;
        status.last_failure = Some(reason.to_owned());
        drop(status);
        self.connected.send_replace(false);
        self.handler.connection(Connection::Down { reason });
        self.handler.disconnected(&self.handle);
    }
}

/// The requests of one stream, the first of which carries the node.
struct Outbound<R> {
    sender: mpsc::UnboundedSender<R>,
    node: Option<Node>,
}

impl<R: DiscoveryMessage> Outbound<R> {
    fn send(&mut self, request: Request) {
        if let Some(message) = R::from_request(request, &mut self.node) {
            // Where the stream is over, the next one starts from the state.
            let _ = self.sender.send(message);
        }
    }
}

/// What differs between the two protocols on the wire.
trait DiscoveryMessage: prost::Message + Default + 'static {
    type Response: prost::Message + Default + 'static;
    const PATH: &'static str;
    fn from_request(request: Request, node: &mut Option<Node>) -> Option<Self>;
    fn receive(response: Self::Response) -> (Update, Received, Option<ControlPlane>);
}

impl DiscoveryMessage for DiscoveryRequest {
    type Response = DiscoveryResponse;
    const PATH: &'static str = SOTW_PATH;

    fn from_request(request: Request, node: &mut Option<Node>) -> Option<Self> {
        match request {
            Request::Sotw(request) => Some(Self { node: node.take(), ..request }),
            Request::Delta(_) => None,
        }
    }

    fn receive(response: DiscoveryResponse) -> (Update, Received, Option<ControlPlane>) {
        let DiscoveryResponse { version_info, resources, type_url, nonce, control_plane, .. } = response;
        let resources = resources.into_iter().map(|any| Resource {
            name: resource_name(&any.value).unwrap_or_default().to_owned(),
            version: version_info.clone(),
            type_url: any.type_url,
            body: any.value,
        });
        let (update, received) =
            parts(type_url, nonce, version_info.clone(), resources.collect(), Vec::new());
        (update, received, control_plane)
    }
}

impl DiscoveryMessage for DeltaDiscoveryRequest {
    type Response = DeltaDiscoveryResponse;
    const PATH: &'static str = DELTA_PATH;

    fn from_request(request: Request, node: &mut Option<Node>) -> Option<Self> {
        match request {
            Request::Delta(request) => Some(Self { node: node.take(), ..request }),
            Request::Sotw(_) => None,
        }
    }

    fn receive(response: DeltaDiscoveryResponse) -> (Update, Received, Option<ControlPlane>) {
        let resources = response.resources.into_iter().map(|resource| {
            let Any { type_url, value } = resource.resource.unwrap_or_default();
            Resource { name: resource.name, version: resource.version, type_url, body: value }
        });
        let (update, received) = parts(
            response.type_url,
            response.nonce,
            response.system_version_info,
            resources.collect(),
            response.removed_resources,
        );
        (update, received, response.control_plane)
    }
}

fn parts(
    type_url: String,
    nonce: String,
    version: String,
    resources: Vec<Resource>,
    removed: Vec<String>,
) -> (Update, Received) {
    let type_url: Arc<str> = type_url.into();
    let received = Received {
        type_url: type_url.clone(),
        nonce,
        version: version.clone(),
        resources: resources
            .iter()
            .map(|resource| (resource.name.clone(), resource.version.clone()))
            .collect(),
        removed: removed.clone(),
    };
    (Update { type_url, version, resources, removed }, received)
}
