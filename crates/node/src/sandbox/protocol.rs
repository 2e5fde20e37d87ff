//! What the node and a sandbox say to each other over a `SOCK_SEQPACKET` pair.
//!
//! A request is one packet: a descriptor of a memory file with the request as JSON (an environment may be larger than a
//! packet), then the descriptors that go with the request. A report is one packet of JSON without descriptors.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// From the node to the sandbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// The first: names the Pod's host.
    Prepare {
        /// The UTS host name.
        hostname: String,
    },
    /// Starts a process; two descriptors come along, its standard output and standard error.
    Start {
        /// Names the process in later messages.
        token: u64,
        /// What to run.
        process: Process,
        /// Where its root comes from.
        root: Root,
    },
    /// Sends a signal.
    Signal {
        /// The process.
        token: u64,
        /// The signal's number.
        signal: i32,
        /// To every process of the container, not only the first.
        everything: bool,
    },
}

/// From the sandbox to the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// The sandbox exists.
    Born {
        /// Its process id in the node's namespace.
        pid: i32,
    },
    /// Its namespaces are ready for containers.
    Prepared,
    /// The sandbox cannot work.
    Broken {
        /// Why.
        error: String,
    },
    /// A process runs.
    Started {
        /// Which.
        token: u64,
        /// Its id in the Pod's namespace.
        pid: i32,
    },
    /// A process could not be started.
    Failed {
        /// Which.
        token: u64,
        /// Why.
        error: String,
    },
    /// A process that ran has ended, and all its descendants with it.
    Exited {
        /// Which.
        token: u64,
        /// How.
        exit: Exit,
    },
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// It returned a status.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
}

impl Exit {
    /// As shells and Kubernetes count: a signal is 128 and its number.
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// A program, resolved and ready to be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Program (a path, or a name looked up in the environment's PATH) and arguments.
    pub command: Vec<String>,
    /// The whole environment.
    pub environment: Vec<(String, String)>,
    /// The working directory; made where it is absent.
    pub working_directory: String,
    /// User and group; 0 where nothing else is asked for.
    pub user: u32,
    /// See `user`.
    pub group: u32,
    /// Capabilities that remain, by number.
    pub capabilities: Vec<u32>,
    /// Those of them that a user other than 0 keeps too.
    pub ambient: Vec<u32>,
}

/// Where a process's root comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Root {
    /// A new one, built on this empty folder.
    New {
        /// The folder on the host.
        folder: PathBuf,
        /// How it is built.
        steps: Vec<Step>,
    },
    /// That of a running process (for probes and hooks that run a command).
    Of {
        /// The process.
        token: u64,
    },
}

/// One step in the making of a container's root. Targets are absolute paths inside the new root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Makes a folder (with those above it).
    Folder {
        /// Where.
        path: PathBuf,
        /// Permission bits.
        mode: u32,
    },
    /// Makes a symbolic link.
    Link {
        /// Where.
        path: PathBuf,
        /// What it points to.
        to: PathBuf,
    },
    /// Writes a file.
    File {
        /// Where.
        path: PathBuf,
        /// Its text.
        contents: String,
    },
    /// Binds a host's file or folder; the mount point is made.
    Bind {
        /// On the host.
        source: PathBuf,
        /// In the root.
        target: PathBuf,
        /// Whether it is a folder.
        folder: bool,
        /// Whether writing is refused.
        read_only: bool,
    },
    /// Mounts an empty memory file system.
    Memory {
        /// Where.
        path: PathBuf,
    },
    /// Mounts the Pod's process table.
    Processes {
        /// Where.
        path: PathBuf,
    },
}
