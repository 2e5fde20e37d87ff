//! A workload's companion: bootstrap, interception, the xDS relay, health and life cycle, the proxy in its own process or supervised.
