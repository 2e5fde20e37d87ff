//! The client's state: what it says for what it was told.

use lateen_envoy::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};

use super::state::{Received, Request, State};
use super::{Command, RejectedResource, Resource, Update};
use crate::Protocol;

fn subscribe(names: &[&str]) -> Command {
    Command {
        type_url: "t".into(),
        add: names.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

fn all() -> Command {
    Command { type_url: "t".into(), wildcard: Some(true), ..Default::default() }
}

fn received(nonce: &str, resources: &[(&str, &str)]) -> Received {
    Received {
        type_url: "t".into(),
        nonce: nonce.into(),
        version: format!("v{nonce}"),
        resources: resources.iter().map(|(name, version)| (name.to_string(), version.to_string())).collect(),
        removed: Vec::new(),
    }
}

fn delta(request: Option<Request>) -> DeltaDiscoveryRequest {
    match request {
        Some(Request::Delta(request)) => request,
        other => panic!("{other:?}"),
    }
}

fn sotw(request: Option<Request>) -> DiscoveryRequest {
    match request {
        Some(Request::Sotw(request)) => request,
        other => panic!("{other:?}"),
    }
}

#[test]
fn delta_says_what_changes_and_after_a_reconnect_all_that_is_held() {
    let mut state = State::new(Protocol::Delta);
    assert_eq!(state.command(subscribe(&["a"]), false), None, "no stream, nothing to say");
    let opened = delta(state.open().pop());
    assert_eq!(opened.resource_names_subscribe, ["a"]);
    let more = delta(state.command(subscribe(&["a", "b"]), true));
    assert_eq!(more.resource_names_subscribe, ["b"], "only what is new");
    assert_eq!(state.command(subscribe(&["b"]), true), None);

    let bad = RejectedResource { name: "b".into(), reason: "bad".into() };
    state.answer(&received("1", &[("a", "1"), ("b", "1")]), &[]);
    let answer = delta(Some(state.answer(&received("2", &[("a", "2"), ("b", "2")]), &[bad])));
    assert_eq!(answer.response_nonce, "2");
    assert_eq!(answer.error_detail.unwrap().message, "b: bad");
    state.answer(&received("3", &[("stranger", "1")]), &[]);

    let again = delta(state.open().pop());
    assert_eq!(again.resource_names_subscribe, ["a", "b"]);
    let held: Vec<(String, String)> = again.initial_resource_versions.into_iter().collect();
    let expected = [("a", "2"), ("b", "1")].map(|(name, version)| (name.to_owned(), version.to_owned()));
    assert_eq!(held, expected, "of what was rejected the version before is in force");

    let remove = Command { type_url: "t".into(), remove: vec!["a".into()], ..Default::default() };
    assert_eq!(delta(state.command(remove, true)).resource_names_unsubscribe, ["a"]);
    assert_eq!(delta(state.open().pop()).initial_resource_versions.len(), 1);
}

#[test]
fn what_an_earlier_run_left_is_told_to_the_server() {
    let hold = |type_url: &str| Command {
        type_url: type_url.into(),
        hold: Some((
            "7".to_owned(),
            vec![("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())],
        )),
        ..Default::default()
    };
    let names = |names: &[&str]| Command {
        type_url: "t".into(),
        add: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    };
    let mut state = State::new(Protocol::Delta);
    state.command(names(&["a"]), false);
    state.command(hold("t"), false);
    let first = delta(state.open().pop());
    // Nobody asks for b any more.
    assert_eq!(
        first.initial_resource_versions.into_iter().collect::<Vec<_>>(),
        [("a".to_owned(), "1".to_owned())]
    );
    let mut state = State::new(Protocol::Sotw);
    state.command(names(&["a"]), false);
    state.command(hold("t"), false);
    let Some(Request::Sotw(first)) = state.open().pop() else { panic!("a request of the other protocol") };
    assert_eq!(first.version_info, "7");
}

#[test]
fn state_of_the_world_repeats_all_names_and_the_accepted_version() {
    let mut state = State::new(Protocol::Sotw);
    state.command(all(), false);
    let opened = sotw(state.open().pop());
    assert_eq!((opened.resource_names, opened.version_info), (vec!["*".to_owned()], String::new()));
    let accepted = sotw(Some(state.answer(&received("1", &[("a", "1"), ("b", "1")]), &[])));
    assert_eq!((accepted.version_info.as_str(), accepted.response_nonce.as_str()), ("v1", "1"));
    let bad = RejectedResource { name: "a".into(), reason: "bad".into() };
    let rejected = sotw(Some(state.answer(&received("2", &[("a", "2")]), &[bad])));
    assert_eq!((rejected.version_info.as_str(), rejected.response_nonce.as_str()), ("v1", "2"));
    assert_eq!(rejected.error_detail.unwrap().code, 3);
    let again = sotw(state.open().pop());
    assert_eq!(
        (again.version_info.as_str(), again.response_nonce.as_str()),
        ("v1", ""),
        "nonces end with a stream"
    );
}

#[test]
fn what_a_full_response_leaves_out_is_removed() {
    let mut state = State::new(Protocol::Sotw);
    state.command(all(), false);
    state.open();
    state.answer(&received("1", &[("a", "1"), ("b", "1")]), &[]);
    let resource = |name: &str| Resource {
        name: name.into(),
        version: String::new(),
        type_url: String::new(),
        body: Default::default(),
    };
    let mut update = Update {
        type_url: "t".into(),
        version: "v2".into(),
        resources: vec![resource("b")],
        removed: Vec::new(),
    };
    state.complete(&mut update);
    assert_eq!(update.removed, ["a"]);
}
