//! The certificate authority.
//!
//! Today it is the mesh's self-signed root and what that issues for the control plane itself: the serving certificates
//! of API server, webhooks and xDS, and the client certificate in the kubeconfig ([`root`]).

pub mod root;
