//! Builds a container's root from the steps that the node planned, and moves into it.

use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::{FsFlags, statvfs};

use super::process::context;
use super::protocol::Step;

const NONE: Option<&str> = None;

/// Builds the root on the empty `folder` and makes it this process's root. The process must have a mount namespace of
/// its own.
pub(super) fn build(folder: &Path, steps: &[Step]) -> io::Result<()> {
    mount(Some("root"), folder, Some("tmpfs"), MsFlags::empty(), Some("mode=755,size=64m"))
        .map_err(|error| context("the container's root", &error.into()))?;
    for step in steps {
        perform(folder, step)?;
    }
    std::env::set_current_dir(folder)?;
    // The old root ends up stacked on the new one and is taken off (pivot_root(2), "pivot_root(".", ".")").
    nix::unistd::pivot_root(".", ".").map_err(|error| context("pivot_root", &error.into()))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(|error| context("unmount of the host", &error.into()))?;
    std::env::set_current_dir("/")
}

fn perform(root: &Path, step: &Step) -> io::Result<()> {
    match step {
        Step::Folder { path, mode } => {
            let place = inside(root, path);
            std::fs::create_dir_all(&place)
                .and_then(|()| std::fs::set_permissions(&place, std::fs::Permissions::from_mode(*mode)))
                .map_err(|error| context(&path.to_string_lossy(), &error))
        }
        Step::Link { path, to } => {
            symlink(to, inside(root, path)).map_err(|error| context(&path.to_string_lossy(), &error))
        }
        Step::File { path, contents } => std::fs::write(inside(root, path), contents)
            .map_err(|error| context(&path.to_string_lossy(), &error)),
        Step::Bind { source, target, folder, read_only } => {
            bind(source, &inside(root, target), *folder, *read_only).map_err(|error| {
                context(&format!("mount of {} at {}", source.display(), target.display()), &error)
            })
        }
        Step::Memory { path } => {
            let place = inside(root, path);
            std::fs::create_dir_all(&place)?;
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
            mount(Some("tmpfs"), &place, Some("tmpfs"), flags, Some("mode=1777"))
                .map_err(|error| context(&path.to_string_lossy(), &error.into()))
        }
        Step::Processes { path } => {
            let place = inside(root, path);
            std::fs::create_dir_all(&place)?;
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            mount(Some("proc"), &place, Some("proc"), flags, NONE)
                .map_err(|error| context("mount of /proc", &error.into()))
        }
    }
}

fn bind(source: &Path, place: &Path, folder: bool, read_only: bool) -> io::Result<()> {
    if folder {
        std::fs::create_dir_all(place)?;
    } else {
        if let Some(parent) = place.parent() {
            std::fs::create_dir_all(parent)?;
        }
        // Made where absent; an existing file of that name is only a mount point.
        std::fs::OpenOptions::new().append(true).create(true).open(place)?;
    }
    mount(Some(source), place, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)?;
    if read_only {
        // In a user namespace the flags of the host's mount must be repeated.
        let mut flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        let present = statvfs(place)?.flags();
        let kept = [
            (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
            (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
            (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
            (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
            (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
            (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
        ];
        for (has, keep) in kept {
            if present.contains(has) {
                flags |= keep;
            }
        }
        mount(NONE, place, NONE, flags, NONE).map_err(|error| context("read-only", &error.into()))?;
    }
    Ok(())
}

fn inside(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}
