//! Packet rules by netlink: redirection for a Pod, cluster IPs and masquerade for a node. No external program is run.
