//! Objects in another version than the stored one, for definitions whose conversion is a webhook's.
//!
//! For all other kinds versions differ in `apiVersion` alone, which [`Stored`] itself takes care of; nothing is asked.

use crate::api::Api;
use crate::seam::{KindInfo, api_version};
use crate::status::Status;
use crate::store::Stored;
use serde_json::Value;
use std::sync::Arc;

/// A stored object as a version of its kind shows it.
pub(crate) async fn shown(api: &Api, kind: &KindInfo, stored: &Arc<Stored>) -> Result<Arc<Stored>, Status> {
    let mut all = shown_all(api, kind, vec![stored.clone()]).await?;
    Ok(all.pop().unwrap_or_else(|| stored.clone()))
}

/// Stored objects as a version of their kind shows them, with one question for all.
pub(crate) async fn shown_all(
    api: &Api,
    kind: &KindInfo,
    mut stored: Vec<Arc<Stored>>,
) -> Result<Vec<Arc<Stored>>, Status> {
    if !api.schema.converts(kind) {
        return Ok(stored);
    }
    let wanted = kind.api_version();
    let others: Vec<usize> =
        (0..stored.len()).filter(|&index| stored[index].value["apiVersion"] != wanted).collect();
    if others.is_empty() {
        return Ok(stored);
    }
    let objects = others.iter().map(|&index| (*stored[index].value).clone()).collect();
    let converted = api.schema.convert(kind, &wanted, objects).await?;
    for (index, object) in others.into_iter().zip(converted) {
        stored[index] = Arc::new(Stored::new(object, stored[index].revision));
    }
    Ok(stored)
}

/// An object as it is stored.
pub(crate) async fn to_storage(api: &Api, kind: &KindInfo, mut object: Value) -> Result<Value, Status> {
    let wanted = api_version(&kind.group, &kind.storage_version);
    if api.schema.converts(kind) && object["apiVersion"] != wanted {
        let mut converted = api.schema.convert(kind, &wanted, vec![object]).await?;
        return converted.pop().ok_or_else(|| Status::internal("a conversion without result"));
    }
    object["apiVersion"] = wanted.into();
    Ok(object)
}
