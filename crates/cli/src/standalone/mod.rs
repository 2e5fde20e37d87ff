//! A mesh on this machine: one at a time for a state folder.
//!
//! `lateen up` holds [`lock::Lock`] as long as it lives, binds what must be bound on the host, and keeps
//! `lateend node` running ([`supervisor`]). [`ready`] tells when the mesh can be used.

pub(crate) mod lock;
pub(crate) mod ready;
pub(crate) mod session;
pub(crate) mod supervisor;

use anyhow::Context;
use lateen_base::paths::StateDir;

use crate::arguments::StateArguments;

/// The state folder that `arguments` mean.
pub(crate) fn state_dir(arguments: &StateArguments) -> anyhow::Result<StateDir> {
    match &arguments.state_dir {
        Some(folder) => {
            Ok(StateDir::new(std::path::absolute(folder).context("cannot find out the current folder")?))
        }
        None => StateDir::of_user().context(
            "there is no place for the mesh's state: set HOME or XDG_STATE_HOME, or give --state-dir FOLDER",
        ),
    }
}
