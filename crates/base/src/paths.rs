//! Where processes find their files.

use std::path::{Path, PathBuf};

/// The files of a standalone mesh, below one folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDir(PathBuf);

impl StateDir {
    /// Uses `folder`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self(folder.into())
    }

    /// `$XDG_STATE_HOME/lateen`, or `~/.local/state/lateen` (XDG Base Directory Specification); `None` without a home.
    pub fn of_user() -> Option<Self> {
        let absolute =
            |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        absolute("XDG_STATE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
            .map(|state| Self(state.join("lateen")))
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.0
    }

    /// For people and `kubectl`: the API at the host's address.
    pub fn kubeconfig(&self) -> PathBuf {
        self.0.join("kubeconfig")
    }

    /// For our own processes inside the namespaces.
    pub fn internal_kubeconfig(&self) -> PathBuf {
        self.0.join("kubeconfig.internal")
    }

    /// Keys and certificates.
    pub fn pki(&self) -> PathBuf {
        self.0.join("pki")
    }

    /// The API server's store.
    pub fn api(&self) -> PathBuf {
        self.0.join("api")
    }

    /// Logs of `up`, `node` and `lateend`.
    pub fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }

    /// A folder for each Pod.
    pub fn pods(&self) -> PathBuf {
        self.0.join("pods")
    }

    /// Sockets.
    pub fn run(&self) -> PathBuf {
        self.0.join("run")
    }

    /// Where the API server asks the node for logs.
    pub fn node_socket(&self) -> PathBuf {
        self.run().join("node.sock")
    }

    /// The user's image map.
    pub fn images(&self) -> PathBuf {
        self.0.join("images.yaml")
    }

    /// Makes the folder and those below it, private to the user.
    pub fn create(&self) -> std::io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        for folder in [self.0.clone(), self.pki(), self.api(), self.logs(), self.pods(), self.run()] {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        Ok(())
    }
}

/// The path of another of our binaries: beside the running one, which is how they are built and shipped.
pub fn sibling_binary(name: &str) -> std::io::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.parent().ok_or_else(|| std::io::Error::other("the running program has no folder"))?;
    // Test binaries lie one folder deeper, in `deps`.
    for folder in [Some(folder), folder.parent()].into_iter().flatten() {
        let path = folder.join(name);
        if path.is_file() {
            return Ok(path);
        }
    }
    Err(std::io::Error::new(
        std::io::ErrorKind::NotFound,
        format!("{name} is not beside {}: build all binaries together (`make build`)", own.display()),
    ))
}

/// Writes `contents` to `path` so that readers see the old file or the new one, with permission bits `mode`.
pub fn write_atomically(path: &Path, contents: &[u8], mode: u32) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let temporary = path.with_extension(format!("tmp{}", std::process::id()));
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
    file.write_all(contents)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)
}
