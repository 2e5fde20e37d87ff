//! Structured merge and diff: what server-side apply and `managedFields` are made of.
//!
//! [`FieldSet`] is a set of fields in the form `FieldsV1`; [`Shape`] says how a value is taken apart (which lists have
//! keys, what is replaced as a whole); the functions of `walk` compare, merge and remove along a shape; [`managers`]
//! keeps account of who manages what. The rules are those of Kubernetes' documentation "Server-Side Apply" and of the
//! enhancement proposal 555.

pub(crate) mod managers;
mod set;
mod shape;
mod walk;

pub(crate) use shape::View;
pub(crate) use walk::faults;

#[cfg(test)]
mod tests;
