//! Settings of the network namespace that this thread is in.

use std::io;

/// Settings of the node's namespace: it forwards between Pods, whose routes need not be symmetric.
pub(super) const NODE: &[(&str, &str)] = &[
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    // A host behind a routed pair needs no advice about better routes.
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    ("net/ipv4/ip_unprivileged_port_start", "0"),
];

/// Writes one setting; the error names it.
pub(super) fn set(name: &str, value: &str) -> io::Result<()> {
    let path = format!("/proc/sys/{name}");
    if std::fs::read_to_string(&path).is_ok_and(|current| current.trim() == value) {
        return Ok(());
    }
    std::fs::write(&path, value).map_err(|error| {
        io::Error::new(error.kind(), format!("sysctl {}={value}: {error}", name.replace('/', ".")))
    })
}
