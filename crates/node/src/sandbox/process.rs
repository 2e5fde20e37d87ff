//! From `fork` to `exec` of a container's process.
#![allow(unsafe_code)] // fork, prctl, capset and signal dispositions have no safe wrapper.

use std::ffi::CString;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::fcntl::OFlag;
use nix::libc;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::unistd::{ForkResult, Gid, Pid, Uid, fork};

use super::protocol::{Process, Root};
use super::root;

/// Starts `spec` in a new root or, where `join` names a process, in that one's. Returns once the program runs; an error
/// says which step failed.
pub(super) fn start(
    spec: &Process,
    root: &Root,
    join: Option<Pid>,
    output: OwnedFd,
    errors: OwnedFd,
) -> io::Result<Pid> {
    let (failed, failing) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    // SAFETY: this process has one thread.
    match unsafe { fork() }? {
        ForkResult::Child => {
            drop(failed);
            let error = become_process(spec, root, join, &output, &errors);
            let _ = std::fs::File::from(failing).write_all(error.to_string().as_bytes());
            // SAFETY: ends the forked child without running the parent's exit handlers.
            unsafe { libc::_exit(127) }
        }
        ForkResult::Parent { child } => {
            drop((failing, output, errors));
            let mut message = String::new();
            std::fs::File::from(failed).read_to_string(&mut message)?;
            if message.is_empty() {
                return Ok(child);
            }
            let _ = nix::sys::wait::waitpid(child, None);
            Err(io::Error::other(message))
        }
    }
}

/// Returns only with an error.
fn become_process(
    spec: &Process,
    root: &Root,
    join: Option<Pid>,
    output: &OwnedFd,
    errors: &OwnedFd,
) -> io::Error {
    let prepared = (|| -> io::Result<(CString, Vec<CString>, Vec<CString>)> {
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
        // SAFETY: the default disposition; the Rust runtime had ignored it.
        unsafe { nix::sys::signal::signal(Signal::SIGPIPE, nix::sys::signal::SigHandler::SigDfl) }?;
        nix::unistd::setsid()?;
        for descriptor in [output, errors] {
            // Programs of another user open /dev/stdout anew.
            let _ = nix::unistd::fchown(descriptor, Some(Uid::from_raw(spec.user)), None);
        }
        let null = std::fs::File::open("/dev/null")?;
        enter_root(root, join)?;
        std::fs::create_dir_all(&spec.working_directory)
            .and_then(|()| std::env::set_current_dir(&spec.working_directory))
            .map_err(|error| context(&format!("workingDir {}", spec.working_directory), &error))?;
        let program = find_program(spec)?;
        let text = |word: String| CString::new(word).map_err(|_| io::Error::other("a null byte in a string"));
        let program = text(program)?;
        let arguments = spec.command.iter().cloned().map(text).collect::<io::Result<Vec<_>>>()?;
        let environment = spec
            .environment
            .iter()
            .map(|(name, value)| text(format!("{name}={value}")))
            .collect::<io::Result<Vec<_>>>()?;
        restrict(spec)?;
        let standard = [(null.as_raw_fd(), 0), (output.as_raw_fd(), 1), (errors.as_raw_fd(), 2)];
        for (descriptor, number) in standard {
            // SAFETY: dup2 onto the standard descriptors of a process that is about to be replaced.
            nix::errno::Errno::result(unsafe { libc::dup2(descriptor, number) })?;
        }
        Ok((program, arguments, environment))
    })();
    match prepared {
        Err(error) => error,
        Ok((program, arguments, environment)) => {
            match nix::unistd::execve(&program, &arguments, &environment) {
                Ok(never) => match never {},
                Err(error) => context(&program.to_string_lossy(), &error.into()),
            }
        }
    }
}

fn enter_root(root: &Root, join: Option<Pid>) -> io::Result<()> {
    match (root, join) {
        (Root::New { folder, steps }, _) => {
            unshare(CloneFlags::CLONE_NEWNS).map_err(|error| context("mount namespace", &error.into()))?;
            root::build(folder, steps)
        }
        (Root::Of { .. }, Some(pid)) => {
            let namespace = std::fs::File::open(format!("/proc/{pid}/ns/mnt"))?;
            setns(namespace, CloneFlags::CLONE_NEWNS)
                .map_err(|error| context("the container's mount namespace", &error.into()))
        }
        (Root::Of { .. }, None) => Err(io::Error::other("it does not run")),
    }
}

/// The program's path: as given where it has a slash, else the first hit in PATH.
fn find_program(spec: &Process) -> io::Result<String> {
    let name = spec.command.first().ok_or_else(|| io::Error::other("no command"))?;
    let runs = |path: &Path| {
        path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    if name.contains('/') {
        return match runs(Path::new(name)) {
            true => Ok(name.clone()),
            false => Err(io::Error::other(format!("{name}: no such program in the container"))),
        };
    }
    let path = spec.environment.iter().rev().find(|(key, _)| key == "PATH").map_or("", |(_, value)| value);
    path.split(':')
        .map(|folder| format!("{folder}/{name}"))
        .find(|candidate| runs(Path::new(candidate)))
        .ok_or_else(|| io::Error::other(format!("{name}: no such program in PATH ({path})")))
}

/// Gives up everything that the container is not to have.
fn restrict(spec: &Process) -> io::Result<()> {
    let last: u32 = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(40);
    let check = |result: libc::c_int, what: &str| match result {
        0 => Ok(()),
        _ => Err(context(what, &io::Error::last_os_error())),
    };
    for capability in (0..=last).filter(|capability| !spec.capabilities.contains(capability)) {
        // SAFETY: prctl with plain numbers, here and below.
        check(
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability as libc::c_ulong, 0, 0, 0) },
            "capability",
        )?;
    }
    if spec.group != 0 || spec.user != 0 {
        // Where groups may not be set (one mapped id) there are none to give up either.
        let _ = nix::unistd::setgroups(&[]);
        nix::unistd::setgid(Gid::from_raw(spec.group))
            .map_err(|error| context("runAsGroup", &error.into()))?;
    }
    if spec.user != 0 {
        check(unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0) }, "keep capabilities")?;
        nix::unistd::setuid(Uid::from_raw(spec.user)).map_err(|error| context("runAsUser", &error.into()))?;
        set_capabilities(&spec.ambient)?;
        for capability in &spec.ambient {
            let raised = unsafe {
                libc::prctl(
                    libc::PR_CAP_AMBIENT,
                    libc::PR_CAP_AMBIENT_RAISE,
                    *capability as libc::c_ulong,
                    0,
                    0,
                )
            };
            check(raised, "ambient capability")?;
        }
    } else {
        set_capabilities(&spec.capabilities)?;
    }
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, "no_new_privs")
}

/// Sets effective, permitted and inheritable capabilities.
fn set_capabilities(numbers: &[u32]) -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    let mut data = [Data { effective: 0, permitted: 0, inheritable: 0 }; 2];
    for number in numbers.iter().filter(|number| **number < 64) {
        let word = &mut data[(number / 32) as usize];
        let bit = 1 << (number % 32);
        word.effective |= bit;
        word.permitted |= bit;
        word.inheritable |= bit;
    }
    let header = Header { version: VERSION_3, pid: 0 };
    // SAFETY: both structures have the layout of capset(2), version 3.
    match unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) } {
        0 => Ok(()),
        _ => Err(context("capset", &io::Error::last_os_error())),
    }
}

pub(super) fn context(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}
