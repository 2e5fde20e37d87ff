//! Standalone only: the few controllers a single node needs, DNS, cluster IPs, and the runner that starts Pods as processes in namespaces of their own.
