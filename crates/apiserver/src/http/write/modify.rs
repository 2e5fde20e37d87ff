//! The way of a changed object through protection, admission and validation into the store.

use super::protect::{Stage, check_finalizers, check_uid, count_generation, may_go, protect};
use super::{Circumstances, Place, Written};
use crate::api::{Api, refused};
use crate::http::convert::{shown, to_storage};
use crate::merge::managers::{Writer, track};
use crate::object::{finalizers, is_deleting, meta_mut};
use crate::rbac;
use crate::seam::{Operation, WriteRequest};
use crate::status::Status;
use crate::store::{Expect, StoreError, Stored, Write, table_name};
use serde_json::Value;
use std::sync::Arc;

/// Attempts of a write that does not insist on a revision.
const ATTEMPTS: usize = 40;

/// Attempts after which a write waits for its turn.
const PATIENT_AFTER: usize = 3;

/// Replaces an object by what `change` makes of it, through admission and all; when another write was faster and the
/// client insists on no revision, again from the new state.
pub(crate) async fn modify(
    api: &Api,
    place: &Place,
    circumstances: &Circumstances,
    wanted: Option<u64>,
    change: impl Fn(&Value) -> Result<Value, Status>,
) -> Result<Written, Status> {
    let kind = &place.kind;
    let mut turn = None;
    for attempt in 1.. {
        if attempt > PATIENT_AFTER && turn.is_none() {
            turn = api.turn(&place.namespace, &place.name).await;
        }
        let old = place.read(api)?;
        if wanted.is_some_and(|wanted| wanted != old.revision) {
            return Err(refused(StoreError::Changed, kind, &place.name));
        }
        let old_value = shown(api, kind, &old).await?.value_as(&kind.api_version());
        let new = change(&old_value)?;
        match replace(api, place, circumstances, &old, old_value, new).await {
            Err(Refusal::Store(StoreError::Changed)) if wanted.is_none() && attempt < ATTEMPTS => {}
            Err(Refusal::Store(error)) => return Err(refused(error, kind, &place.name)),
            Err(Refusal::Status(status)) => return Err(status),
            Ok(written) => return Ok(written),
        }
    }
    unreachable!("the loop returns")
}

enum Refusal {
    Status(Status),
    Store(StoreError),
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Refusal {
        Refusal::Status(status)
    }
}

async fn replace(
    api: &Api,
    place: &Place,
    circumstances: &Circumstances,
    old: &Arc<Stored>,
    old_value: Arc<Value>,
    mut new: Value,
) -> Result<Written, Refusal> {
    let kind = &place.kind;
    check_uid(kind, &place.name, &old_value, &new)?;
    let request = WriteRequest {
        kind: kind.clone(),
        operation: Operation::Update,
        subresource: place.subresource,
        namespace: place.namespace.clone(),
        name: place.name.clone(),
        user: circumstances.user.clone(),
        dry_run: circumstances.dry_run,
        field_validation: circumstances.field_validation,
        old: Some(old_value.clone()),
        options: circumstances.options.clone(),
    };
    let sent = meta_mut(&mut new).shift_remove("managedFields");
    let new = protect(place, &old_value, new, Stage::Sent);
    let admitted = api.schema.admit(&request, new).await?;
    let mut object = protect(place, &old_value, admitted.object, Stage::Admitted);
    check_finalizers(kind, &place.name, &old_value, &object)?;
    let reservation = api.allocator.allocate(kind, &mut object, Some(&old_value))?;
    count_generation(kind, &old_value, &mut object);
    if let Some(sent) = sent {
        meta_mut(&mut object).insert("managedFields".to_owned(), sent);
    }
    if !circumstances.applied {
        let subresource = place.subresource.unwrap_or_default();
        let writer =
            Writer { manager: &circumstances.manager, api_version: &kind.api_version(), subresource };
        track(api.schema.view(kind).shape(), Some(&old_value), &mut object, &writer);
    }
    let mut warnings = admitted.warnings;
    rbac::check_escalation(api, &request, &object)?;
    warnings.extend(api.schema.validate(&request, &object).await?);
    if object == *old_value {
        return Ok(Written { stored: shown(api, kind, old).await?, warnings });
    }
    let removed = is_deleting(&object) && finalizers(&object).is_empty() && may_go(kind, &object);
    if circumstances.dry_run {
        return Ok(Written { stored: Arc::new(Stored::new(object, old.revision)), warnings });
    }
    let object = to_storage(api, kind, object).await?;
    let write = Write {
        table: table_name(kind.resource()),
        namespace: place.namespace.clone(),
        name: place.name.clone(),
        object: (!removed).then_some(object),
        expect: Expect::Revision(old.revision),
    };
    let stored = api.store.write(write).await.map_err(Refusal::Store)?;
    reservation.keep();
    Ok(Written { stored: shown(api, kind, &stored).await?, warnings })
}
