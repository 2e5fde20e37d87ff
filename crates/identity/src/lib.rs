//! SPIFFE names, trust bundles, certificate verification and rustls configurations: what both halves of the mesh need.
