//! The consuming side: one aggregated stream, kept open.
//!
//! [`start`] spawns a task that connects, subscribes, hands each response to a [`Handler`] and answers the server with
//! what the handler says of it: an ACK, or a NACK that lists the rejected resources with their reasons. One bad
//! resource rejects itself alone; the rest of its response counts. After a loss of the connection the task comes back
//! with backoff and tells the server which versions it holds, so that only what changed is sent.
//!
//! ```no_run
//! # fn main() {
//! use lateen_xds::client::{self, ClientOptions, Handle, Handler, RejectedResource, Update};
//!
//! struct Mine;
//! impl Handler for Mine {
//!     fn update(&mut self, update: Update, handle: &Handle) -> Vec<RejectedResource> {
//!         for resource in &update.resources { /* decode resource.body, apply */ }
//!         handle.subscribe("type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment", ["reviews"]);
//!         Vec::new()
//!     }
//! }
//! let channel = lateen_xds::transport::unix_channel("/run/xds.sock");
//! let handle = client::start(channel, ClientOptions::default(), Mine);
//! handle.subscribe_all("type.googleapis.com/envoy.config.cluster.v3.Cluster");
//! # }
//! ```

mod state;
mod stream;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use lateen_envoy::envoy::config::core::v3::Node;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::Channel;

use crate::Protocol;
use crate::transport::{MetadataSource, no_metadata};

/// How a client behaves.
#[derive(Clone)]
pub struct ClientOptions {
    /// Who it is; sent on the first message of a stream.
    pub node: Node,
    /// Which protocol it speaks.
    pub protocol: Protocol,
    /// The method that is called, where it is not the aggregated one: [`service_path`](crate::service_path).
    pub path: Option<&'static str>,
    /// Metadata of each stream.
    pub metadata: MetadataSource,
    /// The first delay after a failure; it doubles up to [`max_backoff`](Self::max_backoff), with jitter.
    pub min_backoff: Duration,
    /// The longest delay.
    pub max_backoff: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            node: Node::default(),
            protocol: Protocol::Delta,
            path: None,
            metadata: no_metadata(),
            min_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(15),
        }
    }
}

/// A response of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// The type of everything in it.
    pub type_url: Arc<str>,
    /// The server's word for it (`version_info` or `system_version_info`).
    pub version: String,
    /// Added and changed resources.
    pub resources: Vec<Resource>,
    /// Names of what is gone. State of the world: what was held and is missing from a full response.
    pub removed: Vec<String>,
}

/// A resource as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Its name; state of the world carries none, so there it is read from the body.
    pub name: String,
    /// Its version; in state of the world that of the response.
    pub version: String,
    /// The type URL of the body.
    pub type_url: String,
    /// The encoded message: a slice of the response's buffer.
    pub body: Bytes,
}

/// A resource that a handler does not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectedResource {
    /// Its name.
    pub name: String,
    /// Why, for the server's log and `proxy-status`.
    pub reason: String,
}

/// Takes what the server sends. Called on the client's task: no other response is read meanwhile.
pub trait Handler: Send + 'static {
    /// Applies an update and returns what of it was rejected. Of a rejected resource the state before remains in force.
    fn update(&mut self, update: Update, handle: &Handle) -> Vec<RejectedResource>;

    /// The stream opened or was lost (with the reason).
    fn connection(&mut self, state: Connection<'_>) {
        let _ = state;
    }

    /// The stream was lost, and the next is not tried yet: what is subscribed and held now counts when it opens.
    fn disconnected(&mut self, handle: &Handle) {
        let _ = handle;
    }
}

/// What a handler is told of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection<'a> {
    /// The server accepted the stream.
    Up,
    /// The stream failed or ended; the next attempt follows by itself.
    Down {
        /// Why.
        reason: &'a str,
    },
}

/// Counters and state of a client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientStatus {
    /// Whether a stream is open.
    pub connected: bool,
    /// Since when it is as it is; `None` before the first attempt has ended.
    pub since: Option<SystemTime>,
    /// Streams opened so far.
    pub connects: u64,
    /// Attempts and streams that failed.
    pub failures: u64,
    /// The last failure.
    pub last_failure: Option<String>,
    /// Responses taken as a whole.
    pub accepted: u64,
    /// Responses of which something was rejected.
    pub rejected: u64,
    /// The control plane's name for itself, where it gives one.
    pub control_plane: String,
}

/// Steers a client. Clones share; the client ends when the last one is dropped, or by [`stop`](Self::stop).
#[derive(Debug, Clone)]
pub struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    status: Arc<Mutex<ClientStatus>>,
    connected: watch::Receiver<bool>,
    stop: CancellationToken,
    // The handler's own handle has none, or the client would keep itself alive.
    _guard: Option<Arc<DropGuard>>,
}

impl Handle {
    /// Wants all resources of a type.
    pub fn subscribe_all(&self, type_url: impl Into<Arc<str>>) {
        self.send(Command { type_url: type_url.into(), wildcard: Some(true), ..Default::default() });
    }

    /// No longer wants all resources of a type.
    pub fn unsubscribe_all(&self, type_url: impl Into<Arc<str>>) {
        self.send(Command { type_url: type_url.into(), wildcard: Some(false), ..Default::default() });
    }

    /// Wants these resources too.
    pub fn subscribe<N: Into<String>>(
        &self,
        type_url: impl Into<Arc<str>>,
        names: impl IntoIterator<Item = N>,
    ) {
        let add = names.into_iter().map(Into::into).collect();
        self.send(Command { type_url: type_url.into(), add, ..Default::default() });
    }

    /// No longer wants these.
    pub fn unsubscribe<N: Into<String>>(
        &self,
        type_url: impl Into<Arc<str>>,
        names: impl IntoIterator<Item = N>,
    ) {
        let remove = names.into_iter().map(Into::into).collect();
        self.send(Command { type_url: type_url.into(), remove, ..Default::default() });
    }

    /// Holds these resources already, by name and version, as from an earlier run: the server is told when the next
    /// stream opens, and sends only what changed. `version` is that of the last response (state of the world). Only for
    /// what is subscribed to, and while no stream is open ([`Handler::disconnected`]).
    pub fn hold(
        &self,
        type_url: impl Into<Arc<str>>,
        version: impl Into<String>,
        resources: impl IntoIterator<Item = (String, String)>,
    ) {
        let hold = Some((version.into(), resources.into_iter().collect()));
        self.send(Command { type_url: type_url.into(), hold, ..Default::default() });
    }

    /// State and counters at this moment.
    pub fn status(&self) -> ClientStatus {
        self.status.lock().clone()
    }

    /// Becomes true while a stream is open.
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.connected.clone()
    }

    /// Ends the client.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    fn send(&self, command: Command) {
        // After the end there is nobody to subscribe.
        let _ = self.commands.send(command);
    }
}

/// A change of a subscription.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Command {
    type_url: Arc<str>,
    wildcard: Option<bool>,
    add: Vec<String>,
    remove: Vec<String>,
    /// The version of the type, and names with versions.
    hold: Option<(String, Vec<(String, String)>)>,
}

/// Starts a client on the current runtime.
pub fn start(channel: Channel, options: ClientOptions, handler: impl Handler) -> Handle {
    let (handle, task) = new(channel, options, handler);
    tokio::spawn(task);
    handle
}

/// Makes a client without spawning it: the future is the client, and does nothing unless it is polled.
pub fn new(
    channel: Channel,
    options: ClientOptions,
    handler: impl Handler,
) -> (Handle, impl Future<Output = ()> + Send) {
    let (commands, received) = mpsc::unbounded_channel();
    let (connected_sender, connected) = watch::channel(false);
    let stop = CancellationToken::new();
    let inner = Handle { commands, status: Arc::default(), connected, stop: stop.clone(), _guard: None };
    let guard = Some(Arc::new(stop.clone().drop_guard()));
    let handle = Handle { _guard: guard, ..inner.clone() };
    let task = stream::Task {
        channel,
        state: state::State::new(options.protocol),
        options,
        handler,
        handle: inner,
        commands: received,
        connected: connected_sender,
    };
    let client = async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = task.run() => {}
        }
    };
    (handle, client)
}
