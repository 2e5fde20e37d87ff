//! A Pod's namespaces and the processes in them.
//!
//! The sandbox is a process of one thread: stage `sandbox` of our own program. It leaves the node's network, mount,
//! PID, UTS and IPC namespace, forks once (the child is PID 1 of the Pod), and then does what the node asks over
//! [`protocol`]: starts a container's process in a root of its own, signals it, reports its end. One thread is the
//! point: `fork`, `unshare` and `setns` are safe, and nothing has to join the namespaces from outside. When the sandbox
//! ends, the kernel ends every process of the Pod.

pub mod capabilities;
pub mod client;
mod init;
mod process;
pub mod protocol;
mod root;
mod wire;

pub(crate) use init::run;
