//! The ports of the control plane, Istio's own (<https://istio.io/latest/docs/ops/deployment/application-requirements/>).

/// xDS without TLS; off unless asked for.
pub(crate) const PLAINTEXT_XDS: u16 = 15010;
/// xDS over TLS.
pub(crate) const XDS: u16 = 15012;
/// Metrics and version.
pub(crate) const MONITORING: u16 = 15014;
/// Webhooks.
pub(crate) const WEBHOOKS: u16 = 15017;
/// Debug pages.
pub(crate) const DEBUG: u16 = 8080;
