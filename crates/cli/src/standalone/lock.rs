//! At most one mesh for a state folder, and a way to find the one that runs.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};

use anyhow::{Context, bail};
use lateen_base::paths::StateDir;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Pid;

/// Held by the process that runs the mesh; the kernel lets go of it when that process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Takes the lock and writes the own process id into it.
    pub(crate) fn take(state: &StateDir) -> anyhow::Result<Self> {
        match Flock::lock(open(state)?, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                file.set_len(0)?;
                write!(file, "{}", std::process::id())?;
                file.flush()?;
                Ok(Self { _file: file })
            }
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                let holder = read(&mut file).map_or_else(String::new, |pid| format!(" (process {pid})"));
                bail!(
                    "a mesh already runs in {}{holder}; stop it with `lateen down`, or start another one with \
                     --state-dir FOLDER",
                    state.root().display()
                )
            }
            Err((_, error)) => Err(error).context("cannot lock the state folder"),
        }
    }

    /// The process that holds the lock, if one does.
    pub(crate) fn holder(state: &StateDir) -> anyhow::Result<Option<Pid>> {
        if !state.run().exists() {
            return Ok(None);
        }
        match Flock::lock(open(state)?, FlockArg::LockSharedNonblock) {
            Ok(_) => Ok(None),
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => Ok(read(&mut file).map(Pid::from_raw)),
            Err((_, error)) => Err(error).context("cannot look at the lock of the state folder"),
        }
    }

    /// Blocks until nobody holds the lock.
    pub(crate) fn wait_until_free(state: &StateDir) -> anyhow::Result<()> {
        match Flock::lock(open(state)?, FlockArg::LockShared) {
            Ok(_) => Ok(()),
            Err((_, error)) => Err(error).context("cannot wait for the lock of the state folder"),
        }
    }
}

fn open(state: &StateDir) -> anyhow::Result<File> {
    let path = state.run().join("up.lock");
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))
}

fn read(file: &mut File) -> Option<i32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time_who_can_be_found() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::new(folder.path());
        assert_eq!(Lock::holder(&state).unwrap(), None, "a folder that was never used");
        state.create().unwrap();
        let lock = Lock::take(&state).unwrap();
        assert_eq!(Lock::holder(&state).unwrap(), Some(Pid::this()));
        let error = Lock::take(&state).unwrap_err().to_string();
        assert!(error.contains("lateen down") && error.contains(&std::process::id().to_string()), "{error}");
        drop(lock);
        assert_eq!(Lock::holder(&state).unwrap(), None);
        Lock::wait_until_free(&state).unwrap();
    }
}
