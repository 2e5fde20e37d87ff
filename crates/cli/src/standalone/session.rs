//! Letting a child go its own way.
#![allow(unsafe_code)] // `pre_exec` runs between fork and exec, where only the two calls made here are allowed.

use std::os::fd::RawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Puts the child into a session of its own, so that it outlives the terminal, and leaves `report` open in it.
pub(crate) fn detach(command: &mut Command, report: RawFd) {
    // SAFETY: both calls are single system calls, safe between fork and exec.
    unsafe {
        command.pre_exec(move || {
            nix::unistd::setsid()?;
            lateen_base::descriptors::keep_open(report)
        });
    }
}
