//! Who owns whom, by uid.

use crate::object::{FOREGROUND, ORPHAN, finalizers, is_deleting, meta};
use crate::schema::crd::CLEANUP;
use crate::store::{Event, EventType, Key, names};
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// An object's place in the store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Node {
    pub(super) table: Arc<str>,
    pub(super) key: Key,
}

impl Node {
    pub(super) fn new(table: Arc<str>, key: Key) -> Node {
        Node { table, key }
    }
}

/// The graph of all objects.
#[derive(Debug, Default)]
pub(super) struct Graph {
    /// Live objects by uid, with those among them that wait for the collector.
    live: HashMap<String, Node>,
    /// Owned objects by the uid of an owner.
    dependents: HashMap<String, HashSet<Node>>,
}

impl Graph {
    /// Adds an object.
    pub(super) fn put(&mut self, node: Node, object: &Value) {
        for owner in owners(object) {
            self.dependents.entry(owner.to_owned()).or_default().insert(node.clone());
        }
        self.live.insert(meta(object, "uid").to_owned(), node);
    }

    fn forget_owners(&mut self, node: &Node, object: &Value) {
        for owner in owners(object) {
            if let Some(set) = self.dependents.get_mut(owner) {
                set.remove(node);
                if set.is_empty() {
                    self.dependents.remove(owner);
                }
            }
        }
    }

    /// Follows a change, and returns what must be looked at because of it.
    pub(super) fn follow(&mut self, event: &Event) -> Vec<Node> {
        let object = &event.object.value;
        let (namespace, name) = names(object);
        let node = Node::new(event.table.clone(), Key::new(namespace, name));
        if let Some(previous) = &event.previous {
            self.forget_owners(&node, &previous.value);
        }
        if event.event_type == EventType::Deleted {
            let uid = meta(object, "uid");
            self.live.remove(uid);
            let mut work: Vec<Node> = self.dependents(uid).cloned().collect();
            work.extend(owners(object).into_iter().filter_map(|owner| self.live.get(owner).cloned()));
            return work;
        }
        self.put(node.clone(), object);
        let waits = is_deleting(object)
            && finalizers(object).iter().any(|name| matches!(*name, ORPHAN | FOREGROUND | CLEANUP));
        let orphaned = owners(object).iter().any(|owner| !self.is_live(owner));
        if waits || orphaned { vec![node] } else { Vec::new() }
    }

    /// Whether an object exists.
    pub(super) fn is_live(&self, uid: &str) -> bool {
        self.live.contains_key(uid)
    }

    /// The objects that name an owner.
    pub(super) fn dependents<'a>(&'a self, uid: &str) -> impl Iterator<Item = &'a Node> + use<'a> {
        self.dependents.get(uid).into_iter().flatten()
    }

    /// All objects.
    pub(super) fn all(&self) -> HashSet<Node> {
        self.live.values().cloned().collect()
    }
}

/// The uids of an object's owners.
pub(super) fn owners(object: &Value) -> Vec<&str> {
    let list = object["metadata"]["ownerReferences"].as_array();
    list.into_iter().flatten().filter_map(|owner| owner["uid"].as_str()).collect()
}

/// Whether an object holds up the foreground deletion of an owner.
pub(super) fn blocks(object: &Value, owner: &str) -> bool {
    let list = object["metadata"]["ownerReferences"].as_array();
    list.into_iter().flatten().any(|one| one["uid"] == owner && one["blockOwnerDeletion"] == true)
}
