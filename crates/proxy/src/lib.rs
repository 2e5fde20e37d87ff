//! The other half of the data plane: listeners, codecs, filters, router, pools, access log, admin.
