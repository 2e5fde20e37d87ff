//! The three faces of the test program, and the mesh that the cases use.

mod cases;

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use lateen_apiserver::{ApiServer, Config};
use lateen_base::descriptors;
use lateen_base::paths::{StateDir, write_atomically};

#[derive(clap::Parser)]
struct NodeCommand {
    #[command(flatten)]
    node: lateen_node::NodeArgs,
}

/// `lateend node`.
pub fn node() -> ExitCode {
    lateen_node::main(NodeCommand::parse_from(std::env::args_os().skip(1)).node)
}

#[derive(clap::Parser)]
struct RunCommand {
    #[arg(long)]
    state_dir: PathBuf,
    #[arg(long)]
    api_listener_fd: i32,
}

/// `lateend run`, with nothing but the API server.
pub fn run() -> ExitCode {
    let arguments = RunCommand::parse_from(std::env::args_os().skip(1));
    lateen_base::logging::init("info");
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let state = StateDir::new(&arguments.state_dir);
        let outside = descriptors::inherited_listener(arguments.api_listener_fd).unwrap();
        let inside = TcpListener::bind("10.96.0.1:443").unwrap();
        let root = lateen_citadel::RootAuthority::load_or_create(&state.pki()).unwrap();
        let addresses: [IpAddr; 2] = ["127.0.0.1".parse().unwrap(), "10.96.0.1".parse().unwrap()];
        let server = root.issue_server(&["kubernetes.default.svc"], &addresses).unwrap();
        let client = root.issue_client("admin", &["system:masters"]).unwrap();
        let files = [
            (state.kubeconfig(), format!("https://{}", outside.local_addr().unwrap())),
            (state.internal_kubeconfig(), "https://10.96.0.1:443".to_owned()),
        ];
        let listeners = vec![outside, inside];
        let mut config =
            Config::new(listeners, state.api().join("store"), server.certificate.clone(), server.key.clone());
        config.client_ca = Some(root.certificate().to_owned());
        config.root_certificates = root.certificate().to_owned();
        config.node_socket = Some(state.node_socket());
        let (trigger, drain) = lateen_base::drain::channel();
        let _server = ApiServer::start(config, drain).await.unwrap();
        for (file, address) in files {
            let text = lateen_apiserver::kubeconfig::render(
                &address,
                root.certificate(),
                &client.certificate,
                &client.key,
            );
            write_atomically(&file, text.as_bytes(), 0o600).unwrap();
        }
        lateen_base::drain::termination_signal().await.unwrap();
        trigger.drain(Duration::from_secs(1)).await;
    });
    ExitCode::SUCCESS
}

/// Runs the cases whose name contains `filter`.
pub fn cases(filter: Option<&str>) -> ExitCode {
    let mut failed = 0;
    for (name, case) in cases::ALL {
        if filter.is_some_and(|filter| !name.contains(filter)) {
            continue;
        }
        for user in [None, Some(4242)] {
            let shown = if user.is_some() { format!("{name} (unprivileged)") } else { (*name).to_owned() };
            if user.is_some() && !nix::unistd::geteuid().is_root() {
                continue;
            }
            let begun = Instant::now();
            let result = std::panic::catch_unwind(|| {
                let mesh = Mesh::start(user);
                case(&mesh);
            });
            let word = if result.is_ok() { "ok" } else { "FAILED" };
            println!("test {shown} ... {word} ({:.1} s)", begun.elapsed().as_secs_f64());
            failed += usize::from(result.is_err());
        }
    }
    println!("{failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A node with an API server, and `kubectl` for it.
pub struct Mesh {
    folder: tempfile::TempDir,
    node: std::cell::RefCell<Option<Child>>,
    api: TcpListener,
    user: Option<u32>,
    program: PathBuf,
}

impl Mesh {
    /// Starts it, as `user` where one is given.
    pub fn start(user: Option<u32>) -> Self {
        let folder = tempfile::Builder::new().prefix("lateen-node").tempdir().unwrap();
        let program = folder.path().join("lateend");
        std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        if let Some(user) = user {
            use std::os::unix::fs::{PermissionsExt, chown};
            std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
            let state = folder.path().join("state");
            std::fs::create_dir(&state).unwrap();
            chown(&state, Some(user), Some(user)).unwrap();
        }
        let api = TcpListener::bind("127.0.0.1:0").unwrap();
        let mesh = Self { folder, node: None.into(), api, user, program };
        mesh.start_node();
        mesh.wait("the API answers", || mesh.state().kubeconfig().exists() && mesh.try_kubectl(&["get", "ns"]).is_some());
        mesh
    }

    pub fn state(&self) -> StateDir {
        StateDir::new(self.folder.path().join("state"))
    }

    pub fn start_node(&self) {
        let descriptor = self.api.as_raw_fd();
        let mut command = Command::new(&self.program);
        command
            .args(["node", "--state-dir"])
            .arg(self.state().root())
            .arg(format!("--api-listener-fd={descriptor}"))
            .stdin(Stdio::null());
        std::fs::create_dir_all(self.state().root()).unwrap();
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log()).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        if let Some(user) = self.user {
            command.uid(user).gid(user).groups(&[]);
        }
        #[allow(unsafe_code)]
        // SAFETY: fcntl is async-signal-safe.
        unsafe {
            command.pre_exec(move || descriptors::keep_open(descriptor));
        }
        *self.node.borrow_mut() = Some(command.spawn().unwrap());
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("node.log")
    }

    /// Ends the node with a signal and waits for it.
    pub fn stop_node(&self, signal: nix::sys::signal::Signal) {
        if let Some(mut node) = self.node.borrow_mut().take() {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(node.id() as i32), signal).unwrap();
            let deadline = Instant::now() + Duration::from_secs(15);
            while node.try_wait().unwrap().is_none() {
                assert!(Instant::now() < deadline, "the node does not end");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    /// Every process that runs this mesh's program (the node's own ones).
    pub fn processes(&self) -> Vec<i32> {
        let is_ours = |pid: &i32| {
            std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == self.program)
        };
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_ours).collect()
    }

    pub fn try_kubectl(&self, arguments: &[&str]) -> Option<String> {
        let output = self.command(arguments).output().unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    pub fn kubectl(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(
            output.status.success(),
            "kubectl {arguments:?}: {}\n{}",
            String::from_utf8_lossy(&output.stderr),
            self.logs()
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(self.state().kubeconfig()).args(["--request-timeout=10s"]).args(arguments);
        command.env("HOME", self.folder.path()).stdin(Stdio::null());
        command
    }

    pub fn apply(&self, manifest: &str) {
        let mut command = self.command(&["apply", "-f", "-"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(manifest.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "kubectl apply\n{}", self.logs());
    }

    /// One value of an object, by JSONPath.
    pub fn value(&self, object: &str, path: &str) -> String {
        self.try_kubectl(&["get", object, "-o", &format!("jsonpath={path}")]).unwrap_or_default()
    }

    /// Waits until something is so.
    pub fn wait(&self, what: &str, mut so: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !so() {
            assert!(Instant::now() < deadline, "waited in vain: {what}\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn logs(&self) -> String {
        let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
        let pods = self.try_kubectl(&["get", "pods,events,rs,deploy", "-A", "-o", "wide"]).unwrap_or_default();
        let control = read(&self.state().logs().join("lateend.log"));
        format!("--- node\n{}\n--- lateend\n{control}\n--- objects\n{pods}", read(&self.log()))
    }

    #[allow(dead_code)]
    pub fn address(&self) -> SocketAddr {
        self.api.local_addr().unwrap()
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if let Some(mut node) = self.node.borrow_mut().take() {
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}
