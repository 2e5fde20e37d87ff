//! SPIFFE names, trust bundles, certificate verification and rustls configurations: what both halves of the mesh need.
//!
//! [`tls`] makes server and client configurations from PEM, for xDS and webhooks. [`verify`] is the verification that
//! Envoy's `CertificateValidationContext` describes, for both ends of a connection; [`keys`] holds certificates with
//! their keys and chooses among them; [`ticket`] makes session tickets; [`certificate`] says what is in a certificate.

pub mod certificate;
pub mod keys;
pub mod ticket;
pub mod tls;
pub mod verify;

pub use rustls;
