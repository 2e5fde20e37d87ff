//! Messages against the rules of their definitions: what Envoy refuses before it looks at a message is refused here.

use lateen_envoy::prost::Message;
use lateen_envoy::{Any, TypeUrl, from_any};

use crate::error::{Context, Result};

/// Refuses a message that breaks a rule of its definition (`validate.rules`).
pub(crate) fn check<M: Message + TypeUrl>(context: &Context<'_>, message: &M) -> Result<()> {
    within(context, lateen_rules::check(message))
}

/// The message in an `Any`, where it breaks no rule.
pub(crate) fn unpack<M: Message + TypeUrl + Default>(context: &Context<'_>, any: &Any) -> Result<M> {
    let message = from_any(any).map_err(|error| context.error(error))?;
    within(context, lateen_rules::check_bytes(M::TYPE_URL, &any.value))?;
    Ok(message)
}

fn within(context: &Context<'_>, checked: std::result::Result<(), lateen_rules::Violation>) -> Result<()> {
    checked.map_err(|broken| match broken.path.is_empty() {
        true => context.error(broken.message),
        false => context.field(&broken.path).error(broken.message),
    })
}
