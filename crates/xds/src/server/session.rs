//! The state machine of one stream: what the client wants, holds and has said, and what to send it next. No I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use lateen_envoy::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use xxhash_rust::xxh3::Xxh3Default;

use super::held::{Held, HeldSet, Wanted};
use super::names::{NamePool, NameSet};
use super::status::{Rejection, SharedTypes, TypeStatus};
use super::{Response, ServerOptions};
use crate::EncodedResource;
use crate::source::{ChangeSet, Event, Names, Subscriber};

const WILDCARD: &str = "*";

pub(super) struct Session {
    options: Arc<ServerOptions>,
    delta: bool,
    types: BTreeMap<Arc<str>, TypeState>,
    nonces: u64,
    status: SharedTypes,
    pool: Arc<NamePool>,
    /// Something was asked for or changed since the client was last found settled.
    unsettled: bool,
}

#[derive(Default)]
struct TypeState {
    wildcard: bool,
    names: NameSet,
    /// State of the world: once names were given, an empty list means nothing and no longer everything.
    named: bool,
    held: HeldSet,
    /// What may differ from `held`.
    dirty: Option<Names>,
    /// Names to be answered whatever is held: just asked for, or waited for again.
    asked: BTreeSet<Arc<str>>,
    /// Removals held back until later types no longer refer to them.
    removals: BTreeSet<Arc<str>>,
    /// A response is due even if it is empty: the client's first request.
    owed: bool,
    /// The client itself asked, so no order is to be kept.
    requested: bool,
    in_flight: Option<InFlight>,
    last_nonce: Arc<str>,
}

struct InFlight {
    nonce: Arc<str>,
    version: Arc<str>,
    names: Vec<Arc<str>>,
}

/// What a response would consist of.
#[derive(Default)]
struct Difference {
    changed: Vec<Arc<EncodedResource>>,
    removed: Vec<Arc<str>>,
}

impl TypeState {
    fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    fn wanted<'a>(&'a self, type_url: &'a str) -> Wanted<'a> {
        Wanted { type_url, wildcard: self.wildcard, names: &self.names }
    }

    fn holds(&self, type_url: &str, name: &str) -> bool {
        self.held.contains(self.wanted(type_url), name)
    }

    fn mark(&mut self, name: Arc<str>) {
        match self.dirty.get_or_insert_with(|| Names::Some(BTreeSet::new())) {
            Names::All => {}
            Names::Some(names) => {
                names.insert(name);
            }
        }
    }

    fn has_news(&self) -> bool {
        self.dirty.is_some() || self.owed
    }

    /// Everything the client should hold.
    fn desired(
        &self,
        type_url: &str,
        subscriber: &mut dyn Subscriber,
    ) -> BTreeMap<Arc<str>, Arc<EncodedResource>> {
        let mut desired = BTreeMap::new();
        if self.wildcard {
            desired.extend(
                subscriber.list(type_url).into_iter().map(|resource| (resource.name().clone(), resource)),
            );
        }
        for name in self.names.iter() {
            if !desired.contains_key(name)
                && let Some(resource) = subscriber.get(type_url, name)
            {
                desired.insert(name.clone(), resource);
            }
        }
        desired
    }

    fn is_news(&self, type_url: &str, resource: &EncodedResource) -> bool {
        let held = || self.held.version(self.wanted(type_url), resource.name());
        self.asked.contains(resource.name()) || held().is_none_or(|version| version != *resource.version())
    }

    fn difference(&self, type_url: &str, subscriber: &mut dyn Subscriber) -> Difference {
        let mut difference = Difference::default();
        match &self.dirty {
            Some(Names::All) => {
                let desired = self.desired(type_url, subscriber);
                let gone = |name: &&Arc<str>| !desired.contains_key(*name);
                let held = self.held.names(self.wanted(type_url));
                let mut removed: BTreeSet<Arc<str>> = held.iter().filter(gone).cloned().collect();
                removed.extend(self.asked.iter().filter(gone).cloned());
                difference.removed.extend(removed);
                difference
                    .changed
                    .extend(desired.into_values().filter(|resource| self.is_news(type_url, resource)));
            }
            Some(Names::Some(names)) => {
                for name in names.union(&self.removals).filter(|name| self.wants(name)) {
                    match subscriber.get(type_url, name) {
                        Some(resource) if self.is_news(type_url, &resource) => {
                            difference.changed.push(resource)
                        }
                        Some(_) => {}
                        None if self.holds(type_url, name) || self.asked.contains(name) => {
                            difference.removed.push(name.clone());
                        }
                        None => {}
                    }
                }
            }
            None => {
                let gone =
                    |name: &&Arc<str>| self.holds(type_url, name) && subscriber.get(type_url, name).is_none();
                difference.removed.extend(self.removals.iter().filter(gone).cloned());
            }
        }
        difference
    }
}

impl Session {
    pub(super) fn new(
        options: Arc<ServerOptions>,
        delta: bool,
        status: SharedTypes,
        pool: Arc<NamePool>,
    ) -> Self {
        Self { options, delta, types: BTreeMap::new(), nonces: 0, status, pool, unsettled: false }
    }

    /// A request of the state-of-the-world protocol.
    pub(super) fn on_sotw(&mut self, request: DiscoveryRequest, subscriber: &mut dyn Subscriber) {
        if self.is_report(&request.type_url) {
            let error = request.error_detail.as_ref().map(|error| error.message.as_str());
            return subscriber.event(Event::Reported { type_url: &request.type_url, error });
        }
        self.unsettled = true;
        let type_url: Arc<str> = request.type_url.into();
        let known = self.types.contains_key(&type_url);
        let state = self.types.entry(type_url.clone()).or_default();
        if !request.response_nonce.is_empty() && known {
            if *request.response_nonce != *state.last_nonce {
                // An answer to an older response; the answer to the newer one is on its way and says the same or more.
                return;
            }
            let error = request.error_detail.map(|error| error.message);
            Self::answered(&type_url, state, &self.status, error, subscriber);
        }
        // Without a nonce a client begins anew, unless there was no response yet whose nonce it could repeat.
        let first = !known || request.response_nonce.is_empty() && !state.last_nonce.is_empty();
        if first {
            state.held.clear();
            state.in_flight = None;
        }

        let names: BTreeSet<Arc<str>> = request
            .resource_names
            .iter()
            .filter(|name| *name != WILDCARD)
            .map(|name| {
                // The list is repeated with every answer.
                let known = state.names.get(name.as_str()).cloned();
                let shared = || subscriber.get(&type_url, name).map(|resource| resource.name().clone());
                known.or_else(shared).unwrap_or_else(|| name.as_str().into())
            })
            .collect();
        let wildcard = names.len() < request.resource_names.len()
            && request.resource_names.iter().any(|name| name == WILDCARD)
            || request.resource_names.is_empty() && !state.named;
        state.named |= !request.resource_names.is_empty();
        let added: Vec<Arc<str>> = names.difference(&state.names).cloned().collect();
        let removed: Vec<Arc<str>> = state.names.difference(&names).cloned().collect();
        let changed = !added.is_empty() || !removed.is_empty() || wildcard != state.wildcard;
        let more = wildcard && !state.wildcard;
        state.names.replace(&self.pool, names);
        state.wildcard = wildcard;
        let wanted = Wanted { type_url: &type_url, wildcard, names: &state.names };
        state.held.keep_wanted(wanted);
        if first || more {
            state.dirty = Some(Names::All);
            state.requested = true;
            state.owed = wildcard;
        }
        for name in &added {
            state.mark(name.clone());
            state.requested = true;
        }
        if first && !request.version_info.is_empty() {
            let desired = state.desired(&type_url, subscriber);
            if *version_of(desired.values()) == *request.version_info {
                // It came back with what it should hold: nothing to say.
                state.held =
                    desired.into_iter().map(|(name, resource)| (name, Held::from(&resource))).collect();
                state.dirty = None;
                state.owed = false;
                state.requested = false;
            }
        }
        if first || changed {
            subscriber.event(Event::Subscribed {
                type_url: &type_url,
                added: &added,
                removed: &removed,
                wildcard,
            });
        }
        self.publish(&type_url);
    }

    /// A request of the delta protocol.
    pub(super) fn on_delta(&mut self, request: DeltaDiscoveryRequest, subscriber: &mut dyn Subscriber) {
        if self.is_report(&request.type_url) {
            let error = request.error_detail.as_ref().map(|error| error.message.as_str());
            return subscriber.event(Event::Reported { type_url: &request.type_url, error });
        }
        self.unsettled = true;
        let type_url: Arc<str> = request.type_url.into();
        let first = !self.types.contains_key(&type_url);
        let state = self.types.entry(type_url.clone()).or_default();
        if state.in_flight.as_ref().is_some_and(|in_flight| *in_flight.nonce == *request.response_nonce) {
            let error = request.error_detail.map(|error| error.message);
            Self::answered(&type_url, state, &self.status, error, subscriber);
        }
        if first {
            state.dirty = Some(Names::All);
            state.requested = true;
            state.held = request
                .initial_resource_versions
                .into_iter()
                .map(|(name, version)| (name.into(), Held { version: version.into(), resource: None }))
                .collect();
            state.wildcard = request.resource_names_subscribe.is_empty();
        }
        let mut added = Vec::new();
        for name in request.resource_names_subscribe {
            if name == WILDCARD {
                if !state.wildcard {
                    state.wildcard = true;
                    state.dirty = Some(Names::All);
                    state.requested = true;
                }
                continue;
            }
            // The allocation of the resource's own name is shared by all who want it.
            let known = subscriber.get(&type_url, &name).map(|resource| resource.name().clone());
            let name: Arc<str> = known.unwrap_or_else(|| name.into());
            // Asked for by name, a resource is sent even if it was before: the client may have dropped it. What it says
            // it holds is the exception.
            if !first || !state.holds(&type_url, &name) {
                state.asked.insert(name.clone());
                state.mark(name.clone());
                state.requested = true;
            }
            added.push(name);
        }
        let mut removed = Vec::new();
        for name in request.resource_names_unsubscribe {
            if name == WILDCARD {
                state.wildcard = false;
            } else {
                let known = state.names.get(name.as_str());
                let known = known.or_else(|| added.iter().find(|added| ***added == *name)).cloned();
                if let Some(name) = known {
                    state.asked.remove(&name);
                    removed.push(name);
                }
            }
        }
        state.names.change(&self.pool, &added, &removed);
        let wildcard = state.wildcard;
        if wildcard {
            // Whoever still wants everything is told whether that includes what it no longer wants by name ("xDS REST
            // and gRPC protocol", section "Unsubscribing from Resources").
            for name in &removed {
                state.asked.insert(name.clone());
                state.mark(name.clone());
            }
        }
        let wanted = Wanted { type_url: &type_url, wildcard, names: &state.names };
        if !first {
            // On the first request what it holds and does not want is to be removed.
            state.held.keep_wanted(wanted);
        } else {
            // A client that waits for its first answer gets one, even if there is nothing.
            state.owed = wildcard && state.held.len(wanted) == 0;
        }
        if first || !added.is_empty() || !removed.is_empty() {
            subscriber.event(Event::Subscribed {
                type_url: &type_url,
                added: &added,
                removed: &removed,
                wildcard,
            });
        }
        self.publish(&type_url);
    }

    fn is_report(&self, type_url: &str) -> bool {
        self.options.reports.iter().any(|report| **report == *type_url)
    }

    fn answered(
        type_url: &Arc<str>,
        state: &mut TypeState,
        status: &SharedTypes,
        error: Option<String>,
        subscriber: &mut dyn Subscriber,
    ) {
        let Some(answered) = state.in_flight.take() else { return };
        let mut status = status.lock();
        let status = status.entry(type_url.clone()).or_default();
        let InFlight { nonce, version, names } = answered;
        match error {
            None => {
                subscriber.event(Event::Accepted { type_url, nonce: &nonce, version: &version });
                status.acked_nonce = nonce;
                status.acked_version = version;
                status.acked_at = Some(SystemTime::now());
                status.rejection = None;
            }
            // What was sent counts as held: it is not sent again before it changes, or the client comes back without it.
            Some(message) => {
                tracing::warn!(%type_url, %nonce, %message, "a client rejected a response");
                subscriber.event(Event::Rejected {
                    type_url,
                    nonce: &nonce,
                    names: &names,
                    message: &message,
                });
                status.rejection = Some(Rejection { nonce, version, names, message, at: SystemTime::now() });
            }
        }
    }

    /// Says once that everything due was sent and answered ([`Event::Settled`]), when it is so.
    pub(super) fn settle(&mut self, subscriber: &mut dyn Subscriber) {
        let quiet =
            |state: &TypeState| !state.has_news() && state.in_flight.is_none() && state.removals.is_empty();
        if self.unsettled && self.types.values().all(quiet) {
            self.unsettled = false;
            subscriber.event(Event::Settled);
        }
    }

    /// Something changed; what is not yet sent of earlier changes merges with it.
    pub(super) fn on_change(&mut self, changes: ChangeSet, subscriber: &dyn Subscriber) {
        self.unsettled = true;
        if let Some(holding) = subscriber.holding() {
            // Of the types that did not change the client holds the same of the new snapshot as of the old one.
            for (type_url, state) in &mut self.types {
                if state.dirty.is_none() && !changes.types.contains_key(type_url) {
                    state.held.move_base(Arc::clone(&holding));
                }
            }
        }
        for (type_url, names) in changes.types {
            let Some(state) = self.types.get_mut(&type_url) else { continue };
            match names {
                Names::All => state.dirty = Some(Names::All),
                Names::Some(names) => {
                    for name in names {
                        if state.wants(&name) {
                            state.mark(name);
                        }
                    }
                }
            }
        }
    }

    /// Whether [`next_push`](Self::next_push) has something to look at.
    pub(super) fn is_ready(&self) -> bool {
        self.candidate().is_some()
    }

    /// The type whose turn it is.
    fn candidate(&self) -> Option<Arc<str>> {
        let mut blocked = false;
        for (index, type_url) in self.options.order.iter().enumerate() {
            let Some(state) = self.types.get(type_url) else { continue };
            let removable = !state.removals.is_empty() && !self.later_pending(index);
            if !state.has_news() && !removable {
                continue;
            }
            if state.in_flight.is_none() && (!blocked || state.requested) {
                return Some(type_url.clone());
            }
            blocked = true;
        }
        let unordered = |(type_url, state): &(&Arc<str>, &TypeState)| {
            !self.options.order.contains(type_url) && state.has_news() && state.in_flight.is_none()
        };
        self.types.iter().find(unordered).map(|(type_url, _)| type_url.clone())
    }

    /// Whether a type that may refer to resources of the one at `index` is still to be pushed, answered or pruned.
    fn later_pending(&self, index: usize) -> bool {
        self.options.order[index + 1..]
            .iter()
            .filter_map(|type_url| self.types.get(type_url))
            .any(|state| state.has_news() || state.in_flight.is_some() || !state.removals.is_empty())
    }

    /// The next response to send, if any is due.
    pub(super) fn next_push(&mut self, subscriber: &mut dyn Subscriber) -> Option<Response> {
        loop {
            let type_url = self.candidate()?;
            let index = self.options.order.iter().position(|ordered| *ordered == type_url);
            let keep_removals = index.is_some_and(|index| self.later_pending(index));
            if let Some(response) = self.push(&type_url, keep_removals, subscriber) {
                return Some(response);
            }
        }
    }

    fn push(
        &mut self,
        type_url: &Arc<str>,
        keep_removals: bool,
        subscriber: &mut dyn Subscriber,
    ) -> Option<Response> {
        let state = self.types.get_mut(type_url)?;
        let Difference { changed, removed } = state.difference(type_url, subscriber);
        let all_looked_at = state.dirty.is_some();
        let asked = std::mem::take(&mut state.asked);
        let owed = std::mem::take(&mut state.owed);
        state.dirty = None;
        state.requested = false;
        state.removals.clear();

        let mut removed_now = Vec::new();
        for name in removed {
            // Who asked for it by name waits for the answer.
            if keep_removals && !asked.contains(&name) {
                state.removals.insert(name);
            } else {
                removed_now.push(name);
            }
        }
        let updated: Vec<Arc<EncodedResource>> =
            changed.iter().filter(|resource| state.holds(type_url, resource.name())).cloned().collect();
        let mut removed_held = false;
        for name in &removed_now {
            removed_held |= state.holds(type_url, name);
            state.held.remove(type_url, name);
        }
        match subscriber.holding() {
            Some(holding) if self.delta && all_looked_at => state.held.rebase(holding, &state.removals),
            _ => {
                for resource in &changed {
                    let mut held = Held::from(resource);
                    if self.delta {
                        held.resource = None;
                    }
                    state.held.insert(resource.name().clone(), held);
                }
            }
        }

        let full = self.options.full_state.contains(type_url);
        let due = owed
            || !changed.is_empty()
            || if self.delta { !removed_now.is_empty() } else { full && removed_held };
        if !due {
            self.publish(type_url);
            return None;
        }
        let (resources, version) = if self.delta {
            (changed, subscriber.version())
        } else {
            let all = state.held.resources();
            let version = version_of(all.values().copied());
            (if full { all.into_values().cloned().collect() } else { changed }, version)
        };
        self.nonces += 1;
        let nonce: Arc<str> = format!("{:x}", self.nonces).into();
        let response = Response {
            delta: self.delta,
            type_url: type_url.clone(),
            version: version.clone(),
            nonce: nonce.clone(),
            removed: if self.delta { removed_now } else { Vec::new() },
            identifier: self.options.identifier.clone(),
            resources,
        };
        let names = response.resources.iter().map(|resource| resource.name().clone()).collect();
        state.last_nonce = nonce.clone();
        state.in_flight = Some(InFlight { nonce, version, names });
        self.send_dependents_again(type_url, &updated, subscriber);
        self.sent(type_url, &response);
        subscriber.event(Event::Sent {
            type_url,
            bytes: response.resources.iter().map(|resource| resource.any().len()).sum(),
        });
        Some(response)
    }

    fn send_dependents_again(
        &mut self,
        type_url: &str,
        updated: &[Arc<EncodedResource>],
        subscriber: &mut dyn Subscriber,
    ) {
        for resource in updated {
            for (dependent, name) in subscriber.dependents(type_url, resource) {
                if let Some(state) = self.types.get_mut(&dependent)
                    && state.wants(&name)
                {
                    state.asked.insert(name.clone());
                    state.mark(name);
                }
            }
        }
    }

    fn sent(&self, type_url: &Arc<str>, response: &Response) {
        self.publish(type_url);
        let mut status = self.status.lock();
        let status = status.entry(type_url.clone()).or_default();
        status.sent_nonce = response.nonce.clone();
        status.sent_version = response.version.clone();
        status.sent_at = Some(SystemTime::now());
    }

    fn publish(&self, type_url: &Arc<str>) {
        let Some(state) = self.types.get(type_url) else { return };
        let mut status = self.status.lock();
        let status: &mut TypeStatus = status.entry(type_url.clone()).or_default();
        status.wildcard = state.wildcard;
        status.names = state.names.len();
        status.held = state.held.len(state.wanted(type_url));
    }
}

/// The version of a set of resources, which must come in the order of their names: equal sets have equal versions, so
/// that a client which comes back with it is known to hold them.
fn version_of<'a>(resources: impl Iterator<Item = &'a Arc<EncodedResource>>) -> Arc<str> {
    let mut hash = Xxh3Default::new();
    for resource in resources {
        for text in [resource.name(), resource.version()] {
            hash.update(&(text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        }
    }
    format!("{:016x}", hash.digest()).into()
}
