//! Whether this system lets this user have a mesh, found out by doing: some systems let namespaces be made and take the
//! capabilities in them away.
#![allow(unsafe_code)] // fork(2): a process with threads cannot enter a user namespace, its child can.

use std::fs::File;
use std::io::{self, Read, Write};

use lateen_netfilter::Connection;
use lateen_netfilter::redirect::Redirect;
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork, getegid, geteuid};
use rtnetlink::LinkVeth;

use crate::namespace_settings::remedy;

/// Why not, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Explanation(String);

/// Makes a user and a network namespace, a veth pair and a packet rule in them, in a child process that ends at once.
///
/// Call it before the process has other threads: the child of a fork inherits their locks and not the threads.
pub fn probe_namespaces() -> Result<(), Explanation> {
    let (read, write) = nix::unistd::pipe().map_err(|error| Explanation(format!("pipe: {error}")))?;
    // SAFETY: the caller has one thread (see above), so the child may do whatever the parent could.
    match unsafe { fork() }.map_err(|error| Explanation(format!("fork: {error}")))? {
        ForkResult::Child => {
            drop(read);
            let text = attempt().err().unwrap_or_default();
            let _ = File::from(write).write_all(text.as_bytes());
            // SAFETY: ends the child without the parent's exit handlers.
            unsafe { nix::libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            drop(write);
            let mut text = String::new();
            let read = File::from(read).read_to_string(&mut text);
            let _ = waitpid(child, None);
            match read {
                Ok(_) if text.is_empty() => Ok(()),
                Ok(_) => Err(Explanation(format!(
                    "this system does not let you run a mesh as this user: {text}\n{}",
                    remedy()
                ))),
                Err(error) => Err(Explanation(error.to_string())),
            }
        }
    }
}

fn attempt() -> Result<(), String> {
    let (user, group) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)
        .map_err(|error| format!("a namespace cannot be made ({error})"))?;
    let map = |file: &str, text: String| {
        std::fs::write(format!("/proc/self/{file}"), text)
            .map_err(|error| format!("a user namespace can be made, but not its {file} ({error})"))
    };
    map("setgroups", "deny".to_owned())?;
    map("uid_map", format!("0 {user} 1"))?;
    map("gid_map", format!("0 {group} 1"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let veth: Result<(), String> = runtime.map_err(|error: io::Error| error.to_string())?.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        let pair = LinkVeth::new("probe", "probe-peer").build();
        handle.link().add(pair).execute().await.map_err(|error| error.to_string())
    });
    veth.map_err(|error| format!("a network namespace can be made, but no veth pair in it ({error})"))?;
    let rules =
        Connection::open().and_then(|mut connection| Redirect::default().ruleset().apply(&mut connection));
    rules.map_err(|error| format!("a network namespace can be made, but no packet rule in it ({error})"))
}
