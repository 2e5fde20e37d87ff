//! Patching lists and what lies in an `Any`.

use lateen_api::networking::PatchOperation;
use lateen_envoy::merge::{Lists, merge, merge_any};
use lateen_envoy::{TypeUrl, prost};

use crate::proto::{core, protobuf::Any};

/// What an operation does with lists inside of what it merges; `None` where it merges nothing.
pub(super) fn merging(operation: PatchOperation) -> Option<Lists> {
    match operation {
        PatchOperation::Merge => Some(Lists::Append),
        PatchOperation::MergeAndReplaceList => Some(Lists::Replace),
        _ => None,
    }
}

/// Merges; what cannot be merged stays as it was.
pub(super) fn merge_into<M: prost::Message + TypeUrl + Default>(base: &mut M, patch: &M, lists: Lists) {
    // Both sides are messages of one type that this program has made or read: there is nothing to go wrong.
    let _ = merge(base, patch, lists);
}

/// Adds to a list, replaces or removes in it. `picked` says which item is meant, if the patch says so.
pub(super) fn list<T: Clone>(
    list: &mut Vec<T>,
    operation: PatchOperation,
    value: Option<&T>,
    picked: Option<&dyn Fn(&T) -> bool>,
) {
    let position = || picked.and_then(|picked| list.iter().position(picked));
    match (operation, value) {
        (PatchOperation::Add, Some(value)) => list.push(value.clone()),
        (PatchOperation::InsertFirst, Some(value)) => list.insert(0, value.clone()),
        (PatchOperation::InsertAfter, Some(value)) => match (picked.is_some(), position()) {
            (false, _) => list.push(value.clone()),
            (true, Some(index)) => list.insert(index + 1, value.clone()),
            (true, None) => {}
        },
        (PatchOperation::InsertBefore, Some(value)) => match (picked.is_some(), position()) {
            (false, _) => list.insert(0, value.clone()),
            (true, Some(index)) => list.insert(index, value.clone()),
            (true, None) => {}
        },
        (PatchOperation::Replace, Some(value)) => {
            if let Some(index) = position() {
                list[index] = value.clone();
            }
        }
        (PatchOperation::Remove, _) => {
            if let Some(picked) = picked {
                list.retain(|item| !picked(item));
            }
        }
        _ => {}
    }
}

/// Merges the configuration of a filter: only what is of the same type can be.
pub(super) fn merge_config(base: &mut Any, patch: &Any, lists: Lists) {
    let name = |url: &str| url.rsplit('/').next().map(str::to_owned);
    if name(&base.type_url) == name(&patch.type_url)
        && let Ok(merged) = merge_any(base, patch, lists)
    {
        *base = merged;
    }
}

/// Merges a transport socket into the one of the same name; says whether it did.
pub(super) fn merge_socket(
    base: &mut core::TransportSocket,
    patch: &core::TransportSocket,
    lists: Lists,
) -> bool {
    use core::transport_socket::ConfigType::TypedConfig;
    if base.name != patch.name {
        return false;
    }
    if let (Some(TypedConfig(base)), Some(TypedConfig(patch))) = (&mut base.config_type, &patch.config_type) {
        merge_config(base, patch, lists);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use PatchOperation::{Add, InsertAfter, InsertBefore, InsertFirst, Merge, Remove, Replace};

    #[test]
    fn lists() {
        for (name, operation, picked, expected) in [
            ("add", Add, None, "abcX"),
            ("add beside", Add, Some('b'), "abcX"),
            ("first", InsertFirst, None, "Xabc"),
            ("after", InsertAfter, Some('b'), "abXc"),
            ("after the last", InsertAfter, Some('c'), "abcX"),
            ("after nothing", InsertAfter, None, "abcX"),
            ("after what is not there", InsertAfter, Some('z'), "abc"),
            ("before", InsertBefore, Some('b'), "aXbc"),
            ("before nothing", InsertBefore, None, "Xabc"),
            ("before what is not there", InsertBefore, Some('z'), "abc"),
            ("replace", Replace, Some('b'), "aXc"),
            ("replace what is not there", Replace, Some('z'), "abc"),
            ("replace nothing", Replace, None, "abc"),
            ("remove", Remove, Some('b'), "ac"),
            ("remove nothing", Remove, None, "abc"),
            ("merging is done elsewhere", Merge, Some('b'), "abc"),
        ] {
            let mut made: Vec<char> = "abc".chars().collect();
            let is_it = |item: &char| Some(*item) == picked;
            let picked: Option<&dyn Fn(&char) -> bool> = picked.is_some().then_some(&is_it);
            list(&mut made, operation, Some(&'X'), picked);
            assert_eq!(made.into_iter().collect::<String>(), expected, "{name}");
        }
    }
}
