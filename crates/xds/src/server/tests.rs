//! The state machine by tables of what a client says and what it gets. Types are called by one letter here, in the
//! order c, e, l, r; c and l are full-state types.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use lateen_envoy::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use lateen_envoy::google::rpc;

use super::session::Session;
use super::status::{SharedTypes, SyncState};
use super::{Response, ServerOptions};
use crate::{ChangeSet, EncodedResource, Event, Subscriber};

/// A world of versions by type and name.
#[derive(Default)]
struct World {
    resources: BTreeMap<(String, String), u32>,
    log: Vec<String>,
    /// Names of type d that were asked for: of it only `base` goes to everybody.
    asked: Vec<String>,
}

impl World {
    fn of(resources: &[&str]) -> Self {
        let mut world = Self::default();
        for resource in resources {
            world.set(resource);
        }
        world
    }

    /// `c/a@1`, or `c/a` for removal. Gives the change.
    fn set(&mut self, resource: &str) -> ChangeSet {
        let (id, version) = resource.split_once('@').unwrap_or((resource, ""));
        let (kind, name) = id.split_once('/').unwrap();
        let key = (kind.to_owned(), name.to_owned());
        match version.parse() {
            Ok(version) => self.resources.insert(key, version),
            Err(_) => self.resources.remove(&key),
        };
        let mut changes = ChangeSet::new();
        changes.add_names(kind, [Arc::from(name)]);
        changes
    }
}

fn resource(name: &str, version: u32) -> Arc<EncodedResource> {
    Arc::new(EncodedResource::new(name, version.to_string(), vec![version as u8].into()))
}

impl Subscriber for World {
    fn changed(&mut self) -> BoxFuture<'_, Option<ChangeSet>> {
        Box::pin(std::future::pending())
    }

    fn list(&mut self, type_url: &str) -> Vec<Arc<EncodedResource>> {
        let all = |name: &str| type_url != "d" || name == "base";
        let of_type = self.resources.iter().filter(|((kind, name), _)| kind == type_url && all(name));
        of_type.map(|((_, name), version)| resource(name, *version)).collect()
    }

    fn get(&mut self, type_url: &str, name: &str) -> Option<Arc<EncodedResource>> {
        if type_url == "d" && name != "base" && !self.asked.iter().any(|asked| asked == name) {
            return None;
        }
        let version = self.resources.get(&(type_url.to_owned(), name.to_owned()))?;
        Some(resource(name, *version))
    }

    fn dependents(&self, type_url: &str, resource: &EncodedResource) -> Vec<(Arc<str>, Arc<str>)> {
        if type_url == "c" { vec![("e".into(), resource.name().clone())] } else { Vec::new() }
    }

    fn event(&mut self, event: Event<'_>) {
        if let Event::Subscribed { type_url: "d", added, removed, .. } = event {
            self.asked.extend(added.iter().map(ToString::to_string));
            self.asked.retain(|name| !removed.iter().any(|gone| **gone == **name));
        }
        self.log.push(match event {
            Event::Subscribed { type_url, added, removed, wildcard } => {
                format!(
                    "{type_url} +{} -{}{}",
                    added.join(","),
                    removed.join(","),
                    if wildcard { " *" } else { "" }
                )
            }
            Event::Settled => "settled".to_owned(),
            Event::Sent { .. } => return,
            Event::Reported { type_url, error } => format!("{type_url} reported {error:?}"),
            Event::Accepted { type_url, nonce, .. } => format!("{type_url} ack {nonce}"),
            Event::Rejected { type_url, nonce, names, message } => {
                format!("{type_url} nack {nonce} [{}] {message}", names.join(","))
            }
        });
    }
}

struct Stream {
    session: Session,
    world: World,
    status: SharedTypes,
    delta: bool,
}

impl Stream {
    fn new(delta: bool, resources: &[&str]) -> Self {
        let status = SharedTypes::default();
        let options = ServerOptions {
            order: ["c", "e", "l", "r"].map(Arc::from).to_vec(),
            full_state: ["c", "l"].map(Arc::from).to_vec(),
            identifier: "".into(),
            reports: Vec::new(),
        };
        let session = Session::new(Arc::new(options), delta, status.clone(), Arc::default());
        Self { session, world: World::of(resources), status, delta }
    }

    fn subscribe(&mut self, kind: &str, names: &[&str]) {
        if self.delta {
            self.delta(DeltaDiscoveryRequest { resource_names_subscribe: strings(names), ..delta(kind) });
        } else {
            self.sotw(DiscoveryRequest { resource_names: strings(names), ..sotw(kind) });
        }
    }

    fn sotw(&mut self, request: DiscoveryRequest) {
        self.session.on_sotw(request, &mut self.world);
    }

    fn delta(&mut self, request: DeltaDiscoveryRequest) {
        self.session.on_delta(request, &mut self.world);
    }

    fn change(&mut self, resource: &str) {
        let changes = self.world.set(resource);
        self.session.on_change(changes, &self.world);
    }

    /// The next response as `c: a@1 b@2 -x`; `-` for none.
    fn next(&mut self) -> String {
        self.push().map_or("-".into(), |response| describe(&response))
    }

    fn push(&mut self) -> Option<Response> {
        let response = self.session.next_push(&mut self.world);
        assert!(response.is_some() || !self.session.is_ready(), "ready, but nothing to send");
        response
    }

    /// Takes responses and accepts each, until there are none.
    fn drain(&mut self, names: &[(&str, &[&str])]) -> Vec<String> {
        let mut seen = Vec::new();
        while let Some(response) = self.push() {
            seen.push(describe(&response));
            let names = names
                .iter()
                .find(|(kind, _)| *kind == &*response.type_url)
                .map_or(&[][..], |(_, names)| names);
            self.ack(&response, names);
        }
        seen
    }

    fn ack(&mut self, response: &Response, names: &[&str]) {
        let (kind, nonce) = (&response.type_url, response.nonce.to_string());
        if self.delta {
            self.delta(DeltaDiscoveryRequest { response_nonce: nonce, ..delta(kind) });
        } else {
            let version_info = response.version.to_string();
            let resource_names = strings(names);
            self.sotw(DiscoveryRequest { response_nonce: nonce, version_info, resource_names, ..sotw(kind) });
        }
    }
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

fn delta(kind: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { type_url: kind.into(), ..Default::default() }
}

fn sotw(kind: &str) -> DiscoveryRequest {
    DiscoveryRequest { type_url: kind.into(), ..Default::default() }
}

fn describe(response: &Response) -> String {
    let mut text = format!("{}:", response.type_url);
    for resource in &response.resources {
        text.push_str(&format!(" {}@{}", resource.name(), resource.version()));
    }
    for name in &response.removed {
        text.push_str(&format!(" -{name}"));
    }
    text
}

#[test]
fn first_requests_get_what_they_ask_for() {
    let resources = ["c/a@1", "c/b@2", "e/a@3"];
    for (name, is_delta, kind, names, expected) in [
        ("legacy wildcard", true, "c", &[][..], "c: a@1 b@2"),
        ("legacy wildcard, sotw", false, "c", &[][..], "c: a@1 b@2"),
        ("star", true, "c", &["*"][..], "c: a@1 b@2"),
        ("star, sotw", false, "c", &["*"][..], "c: a@1 b@2"),
        ("by name", true, "e", &["a"][..], "e: a@3"),
        ("by name, sotw", false, "e", &["a"][..], "e: a@3"),
        ("by name, some missing", true, "e", &["a", "x"][..], "e: a@3 -x"),
        ("by name, missing, sotw", false, "e", &["x"][..], "-"),
        ("everything of nothing is an answer", true, "l", &[][..], "l:"),
        ("everything of nothing is an answer, sotw", false, "l", &[][..], "l:"),
    ] {
        let mut stream = Stream::new(is_delta, &resources);
        stream.subscribe(kind, names);
        assert_eq!(stream.next(), expected, "{name}");
        assert_eq!(stream.next(), "-", "{name}");
    }
}

#[test]
fn a_change_sends_only_what_changed() {
    for (is_delta, expected) in [(true, "c: a@5"), (false, "c: a@5 b@2")] {
        let mut stream = Stream::new(is_delta, &["c/a@1", "c/b@2"]);
        stream.subscribe("c", &[]);
        stream.drain(&[]);
        stream.change("c/a@5");
        assert_eq!(stream.next(), expected);
    }
    let mut stream = Stream::new(false, &["e/a@1", "e/b@2"]);
    stream.subscribe("e", &["a", "b"]);
    stream.drain(&[("e", &["a", "b"])]);
    stream.change("e/b@3");
    assert_eq!(stream.next(), "e: b@3", "a type without full state");
}

#[test]
fn changes_merge_until_the_answer_has_come() {
    let mut stream = Stream::new(true, &["c/a@1"]);
    stream.subscribe("c", &[]);
    let first = stream.push().unwrap();
    stream.change("c/a@2");
    stream.change("c/a@3");
    stream.change("c/b@1");
    assert_eq!(stream.next(), "-", "one response at a time");
    stream.ack(&first, &[]);
    assert_eq!(stream.next(), "c: a@3 b@1");
}

#[test]
fn a_change_back_to_what_is_held_sends_nothing() {
    let mut stream = Stream::new(true, &["c/a@1"]);
    stream.subscribe("c", &[]);
    stream.drain(&[]);
    stream.change("c/a@2");
    stream.change("c/a@1");
    assert_eq!(stream.next(), "-");
}

#[test]
fn types_are_pushed_in_order_and_removed_in_reverse() {
    for is_delta in [true, false] {
        let mut stream = Stream::new(is_delta, &["c/old@1", "l/l@1", "r/r@1"]);
        stream.subscribe("c", &[]);
        stream.subscribe("l", &[]);
        stream.subscribe("r", &["r"]);
        let names: &[(&str, &[&str])] = &[("r", &["r"])];
        stream.drain(names);
        // A route moves from one cluster to another.
        stream.change("r/r@2");
        stream.change("c/old");
        stream.change("c/new@1");
        let expected = match is_delta {
            true => ["c: new@1", "r: r@2", "c: -old"],
            false => ["c: new@1 old@1", "r: r@2", "c: new@1"],
        };
        assert_eq!(stream.drain(names), expected, "delta: {is_delta}");
    }
}

#[test]
fn a_client_is_settled_once_all_is_answered() {
    let mut stream = Stream::new(true, &["c/old@1", "r/r@1"]);
    stream.subscribe("c", &[]);
    stream.subscribe("r", &["r"]);
    stream.drain(&[]);
    let settled = |stream: &mut Stream| {
        stream.world.log.clear();
        stream.session.settle(&mut stream.world);
        stream.world.log.contains(&"settled".to_owned())
    };
    assert!(settled(&mut stream), "all is answered");
    assert!(!settled(&mut stream), "it is said once");
    stream.change("r/r@2");
    stream.change("c/old");
    assert!(!settled(&mut stream), "something is due");
    let route = stream.push().unwrap();
    assert!(!settled(&mut stream), "something is under way");
    stream.ack(&route, &[]);
    assert!(!settled(&mut stream), "the removal waits for the route");
    let cluster = stream.push().unwrap();
    stream.ack(&cluster, &[]);
    assert!(settled(&mut stream));
}

#[test]
fn a_removal_waits_for_the_answer_of_what_refers_to_it() {
    let mut stream = Stream::new(true, &["c/old@1", "r/r@1"]);
    stream.subscribe("c", &[]);
    stream.subscribe("r", &["r"]);
    stream.drain(&[]);
    stream.change("r/r@2");
    stream.change("c/old");
    let route = stream.push().unwrap();
    assert_eq!(describe(&route), "r: r@2");
    assert_eq!(stream.next(), "-");
    stream.ack(&route, &[]);
    assert_eq!(stream.next(), "c: -old");
}

#[test]
fn a_rejected_response_is_remembered_and_not_sent_again() {
    for is_delta in [true, false] {
        let mut stream = Stream::new(is_delta, &["c/a@1"]);
        stream.subscribe("c", &[]);
        let response = stream.push().unwrap();
        let error_detail = Some(rpc::Status { code: 3, message: "a: bad".into(), ..Default::default() });
        let response_nonce = response.nonce.to_string();
        if is_delta {
            stream.delta(DeltaDiscoveryRequest { response_nonce, error_detail, ..delta("c") });
        } else {
            stream.sotw(DiscoveryRequest { response_nonce, error_detail, ..sotw("c") });
        }
        assert_eq!(stream.next(), "-");
        let status = stream.status.lock()["c"].clone();
        assert_eq!(status.state(), SyncState::Rejected);
        assert_eq!(status.rejection.unwrap().message, "a: bad");
        assert_eq!(stream.world.log, ["c + - *", "c nack 1 [a] a: bad"]);
        stream.change("c/a@2");
        let repaired = stream.push().unwrap();
        stream.ack(&repaired, &[]);
        let status = stream.status.lock()["c"].clone();
        assert_eq!((status.state(), status.rejection), (SyncState::Synced, None));
    }
}

#[test]
fn who_comes_back_with_what_it_should_hold_gets_nothing() {
    let held = [("a", "1"), ("b", "2")].map(|(name, version)| (name.to_owned(), version.to_owned())).into();
    for (name, resources, expected) in [
        ("all the same", &["c/a@1", "c/b@2"][..], "-"),
        ("one changed", &["c/a@1", "c/b@3"][..], "c: b@3"),
        ("one gone", &["c/a@1"][..], "c: -b"),
        ("one new", &["c/a@1", "c/b@2", "c/c@1"][..], "c: c@1"),
    ] {
        let mut stream = Stream::new(true, resources);
        let initial_resource_versions = BTreeMap::clone(&held);
        stream.delta(DeltaDiscoveryRequest { initial_resource_versions, ..delta("c") });
        assert_eq!(stream.next(), expected, "{name}");
        assert_eq!(stream.next(), "-", "{name}");
    }
}

#[test]
fn state_of_the_world_resumes_by_the_version_of_the_whole() {
    let mut before = Stream::new(false, &["c/a@1", "c/b@2", "e/a@1"]);
    before.subscribe("c", &[]);
    before.subscribe("e", &["a"]);
    let clusters = before.push().unwrap();
    let endpoints = before.push().unwrap();
    for (name, resources, expected) in [
        ("all the same", &["c/a@1", "c/b@2", "e/a@1"][..], ["-", "-"]),
        ("both changed", &["c/a@1", "c/b@3", "e/a@2"][..], ["c: a@1 b@3", "e: a@2"]),
    ] {
        let mut after = Stream::new(false, resources);
        after.sotw(DiscoveryRequest { version_info: clusters.version.to_string(), ..sotw("c") });
        let version_info = endpoints.version.to_string();
        after.sotw(DiscoveryRequest { version_info, resource_names: strings(&["a"]), ..sotw("e") });
        assert_eq!([after.next(), after.next()], expected, "{name}");
    }
}

#[test]
fn subscriptions_grow_and_shrink() {
    let mut stream = Stream::new(true, &["e/a@1", "e/b@2"]);
    stream.subscribe("e", &["a"]);
    assert_eq!(stream.drain(&[]), ["e: a@1"]);
    stream.subscribe("e", &["b"]);
    assert_eq!(stream.drain(&[]), ["e: b@2"]);
    stream.subscribe("e", &["a"]);
    assert_eq!(stream.drain(&[]), ["e: a@1"], "asked for again, sent again");
    stream.delta(DeltaDiscoveryRequest { resource_names_unsubscribe: strings(&["a"]), ..delta("e") });
    stream.change("e/a@7");
    stream.change("e/b@7");
    assert_eq!(stream.drain(&[]), ["e: b@7"]);

    let mut stream = Stream::new(false, &["e/a@1", "e/b@2"]);
    stream.subscribe("e", &["a"]);
    let first = stream.push().unwrap();
    stream.ack(&first, &["a", "b"]);
    let second = stream.push().unwrap();
    assert_eq!(describe(&second), "e: b@2");
    stream.ack(&second, &[]);
    stream.change("e/a@7");
    assert_eq!(stream.next(), "-", "after names, none means nothing");
}

#[test]
fn who_wants_all_gets_what_goes_to_all_and_what_it_asks_for() {
    let mut stream = Stream::new(true, &["d/base@1", "d/x@1", "d/y@1"]);
    stream.subscribe("d", &[]);
    assert_eq!(stream.drain(&[]), ["d: base@1"]);
    stream.subscribe("d", &["x", "nowhere"]);
    assert_eq!(stream.drain(&[]), ["d: x@1 -nowhere"], "there is an answer to every question");
    for (change, expected) in [
        ("d/y@2", &[][..]),
        ("d/x@2", &["d: x@2"]),
        ("d/nowhere@3", &["d: nowhere@3"]),
        ("d/base@2", &["d: base@2"]),
        ("d/x", &["d: -x"]),
    ] {
        stream.change(change);
        assert_eq!(stream.drain(&[]), expected, "{change}");
    }
    let names = strings(&["nowhere"]);
    stream.delta(DeltaDiscoveryRequest { resource_names_unsubscribe: names, ..delta("d") });
    assert_eq!(stream.drain(&[]), ["d: -nowhere"], "all does not include it");
    // The same client comes back.
    let mut stream = Stream::new(true, &["d/base@2", "d/x@2", "d/y@2"]);
    let held = [("base", "2"), ("x", "1"), ("y", "2")];
    stream.delta(DeltaDiscoveryRequest {
        resource_names_subscribe: strings(&["*", "x"]),
        initial_resource_versions: held.map(|(name, version)| (name.to_owned(), version.to_owned())).into(),
        ..delta("d")
    });
    assert_eq!(stream.drain(&[]), ["d: x@2 -y"], "it resumes by versions");
}

#[test]
fn an_answer_to_an_older_response_counts_for_nothing() {
    let mut stream = Stream::new(false, &["e/a@1"]);
    stream.subscribe("e", &["a"]);
    let first = stream.push().unwrap();
    stream.ack(&first, &["a"]);
    stream.change("e/a@2");
    let second = stream.push().unwrap();
    stream.ack(&first, &["a", "b"]);
    assert_eq!(stream.status.lock()["e"].state(), SyncState::Stale);
    stream.ack(&second, &["a"]);
    assert_eq!(stream.status.lock()["e"].state(), SyncState::Synced);
}

#[test]
fn what_depends_on_a_changed_resource_is_sent_again() {
    for (is_delta, names) in [(true, &[][..]), (false, &["a", "b"][..])] {
        let mut stream = Stream::new(is_delta, &["c/a@1", "c/b@1", "e/a@1", "e/b@1"]);
        stream.subscribe("c", &[]);
        stream.subscribe("e", &["a", "b"]);
        let names: &[(&str, &[&str])] = &[("e", names)];
        stream.drain(names);
        stream.change("c/a@2");
        let clusters = if is_delta { "c: a@2" } else { "c: a@2 b@1" };
        assert_eq!(stream.drain(names), [clusters, "e: a@1"], "delta: {is_delta}");
    }
}
