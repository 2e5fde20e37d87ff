//! What a client subscribes to and holds, and the requests that follow from it. No I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lateen_envoy::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use lateen_envoy::google::rpc;

use super::{Command, RejectedResource, Update};
use crate::Protocol;

const WILDCARD: &str = "*";
/// google.rpc.Code.INVALID_ARGUMENT
const INVALID_ARGUMENT: i32 = 3;

pub(super) struct State {
    protocol: Protocol,
    /// In the order of the first subscription, which is the order of requests after a reconnect.
    types: Vec<(Arc<str>, TypeState)>,
}

#[derive(Default)]
struct TypeState {
    wildcard: bool,
    names: BTreeSet<String>,
    /// What was accepted, with versions: the server is told after a reconnect.
    held: BTreeMap<String, String>,
    /// State of the world: the version of the last accepted response.
    version: String,
    /// State of the world: the nonce of the last response.
    nonce: String,
    /// Whether this stream has seen a request of the type.
    requested: bool,
}

/// A request of either protocol, without the node.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Request {
    Sotw(DiscoveryRequest),
    Delta(DeltaDiscoveryRequest),
}

impl State {
    pub(super) fn new(protocol: Protocol) -> Self {
        Self { protocol, types: Vec::new() }
    }

    /// The requests that open a stream.
    pub(super) fn open(&mut self) -> Vec<Request> {
        let protocol = self.protocol;
        self.types
            .iter_mut()
            .filter_map(|(type_url, state)| {
                state.nonce.clear();
                state.requested = false;
                state.is_subscribed().then(|| state.first_request(protocol, type_url))
            })
            .collect()
    }

    /// Changes a subscription; gives the request that says so, if a stream is open.
    pub(super) fn command(&mut self, command: Command, open: bool) -> Option<Request> {
        let protocol = self.protocol;
        let index = match self.types.iter().position(|(type_url, _)| *type_url == command.type_url) {
            Some(index) => index,
            None => {
                self.types.push((command.type_url.clone(), TypeState::default()));
                self.types.len() - 1
            }
        };
        let (type_url, state) = &mut self.types[index];
        let mut subscribe = Vec::new();
        let mut unsubscribe = Vec::new();
        if let Some(wildcard) = command.wildcard
            && wildcard != state.wildcard
        {
            state.wildcard = wildcard;
            if wildcard { &mut subscribe } else { &mut unsubscribe }.push(WILDCARD.to_owned());
        }
        for name in command.add {
            if state.names.insert(name.clone()) {
                subscribe.push(name);
            }
        }
        for name in command.remove {
            if state.names.remove(&name) {
                unsubscribe.push(name);
            }
        }
        if let Some((version, resources)) = command.hold {
            state.version = version;
            state.held.extend(resources);
        }
        let TypeState { wildcard, names, held, .. } = state;
        held.retain(|name, _| *wildcard || names.contains(name));
        if !open || subscribe.is_empty() && unsubscribe.is_empty() {
            return None;
        }
        if !state.requested {
            return Some(state.first_request(protocol, type_url));
        }
        Some(match protocol {
            Protocol::Sotw => Request::Sotw(state.sotw(type_url, None)),
            Protocol::Delta => Request::Delta(DeltaDiscoveryRequest {
                type_url: type_url.to_string(),
                resource_names_subscribe: subscribe,
                resource_names_unsubscribe: unsubscribe,
                ..Default::default()
            }),
        })
    }

    /// What a full state-of-the-world response leaves out is gone: completes the list of removed names.
    pub(super) fn complete(&self, update: &mut Update) {
        let Some((_, state)) = self.types.iter().find(|(type_url, _)| *type_url == update.type_url) else {
            return;
        };
        if self.protocol == Protocol::Sotw && state.wildcard {
            let present: BTreeSet<&str> =
                update.resources.iter().map(|resource| resource.name.as_str()).collect();
            update.removed =
                state.held.keys().filter(|name| !present.contains(name.as_str())).cloned().collect();
        }
    }

    /// The answer to a response of which some resources were rejected, or none.
    pub(super) fn answer(&mut self, received: &Received, rejected: &[RejectedResource]) -> Request {
        let protocol = self.protocol;
        let error_detail = (!rejected.is_empty()).then(|| rpc::Status {
            code: INVALID_ARGUMENT,
            message: rejected
                .iter()
                .map(|rejected| format!("{}: {}", rejected.name, rejected.reason))
                .collect::<Vec<_>>()
                .join("; "),
            ..Default::default()
        });
        if let Some((_, state)) = self.types.iter_mut().find(|(type_url, _)| *type_url == received.type_url) {
            for (name, version) in &received.resources {
                // Of a rejected resource the version before, if any, is still in force.
                let wanted = state.wildcard || state.names.contains(name);
                if wanted && !rejected.iter().any(|rejected| rejected.name == *name) {
                    state.held.insert(name.clone(), version.clone());
                }
            }
            for name in &received.removed {
                state.held.remove(name);
            }
            if protocol == Protocol::Sotw {
                state.nonce.clone_from(&received.nonce);
                if rejected.is_empty() {
                    state.version.clone_from(&received.version);
                }
                return Request::Sotw(state.sotw(&received.type_url, error_detail));
            }
        }
        match protocol {
            Protocol::Sotw => Request::Sotw(DiscoveryRequest {
                type_url: received.type_url.to_string(),
                response_nonce: received.nonce.clone(),
                error_detail,
                ..Default::default()
            }),
            Protocol::Delta => Request::Delta(DeltaDiscoveryRequest {
                type_url: received.type_url.to_string(),
                response_nonce: received.nonce.clone(),
                error_detail,
                ..Default::default()
            }),
        }
    }
}

/// What of a response its answer depends on.
#[derive(Debug, Clone, Default)]
pub(super) struct Received {
    pub(super) type_url: Arc<str>,
    pub(super) nonce: String,
    pub(super) version: String,
    /// Names and versions.
    pub(super) resources: Vec<(String, String)>,
    pub(super) removed: Vec<String>,
}

impl TypeState {
    fn is_subscribed(&self) -> bool {
        self.wildcard || !self.names.is_empty()
    }

    fn first_request(&mut self, protocol: Protocol, type_url: &Arc<str>) -> Request {
        self.requested = true;
        match protocol {
            Protocol::Sotw => Request::Sotw(self.sotw(type_url, None)),
            Protocol::Delta => Request::Delta(DeltaDiscoveryRequest {
                type_url: type_url.to_string(),
                resource_names_subscribe: self.wanted(),
                initial_resource_versions: self.held.clone(),
                ..Default::default()
            }),
        }
    }

    fn wanted(&self) -> Vec<String> {
        let wildcard = self.wildcard.then(|| WILDCARD.to_owned());
        wildcard.into_iter().chain(self.names.iter().cloned()).collect()
    }

    fn sotw(&self, type_url: &Arc<str>, error_detail: Option<rpc::Status>) -> DiscoveryRequest {
        DiscoveryRequest {
            type_url: type_url.to_string(),
            resource_names: self.wanted(),
            version_info: self.version.clone(),
            response_nonce: self.nonce.clone(),
            error_detail,
            ..Default::default()
        }
    }
}
