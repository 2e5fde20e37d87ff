//! The three faces of the test program, and the mesh that the cases use.

mod cases;
mod fake_api;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use lateen_base::descriptors;
use lateen_base::paths::{StateDir, write_atomically};
use serde_json::{Value, json};

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
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let state = StateDir::new(&arguments.state_dir);
        let outside = descriptors::inherited_listener(arguments.api_listener_fd).unwrap();
        let inside = TcpListener::bind("10.96.0.1:443").unwrap();
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": "http://10.96.0.1:443"}}],
            "users": [{"name": "c", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        });
        let api = fake_api::FakeApi::open(state.api().join("objects.json"));
        tokio::spawn(api.clone().serve(inside));
        tokio::spawn(api.serve(outside));
        write_atomically(&state.internal_kubeconfig(), config.to_string().as_bytes(), 0o600).unwrap();
        lateen_base::drain::termination_signal().await.unwrap();
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
        mesh.wait("the node is registered", || {
            mesh.get("/api/v1/nodes/lateen")["status"]["conditions"].is_array()
        });
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
            command.uid(user).gid(user);
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
        let is_ours =
            |pid: &i32| std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == self.program);
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_ours).collect()
    }

    /// One request to the API, from the host; `Null` where it fails.
    pub fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let text = body.to_string();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: api\r\nconnection: close\r\ncontent-type: \
             application/merge-patch+json\r\ncontent-length: {}\r\n\r\n{text}",
            text.len()
        );
        exchange(TcpStream::connect(self.api.local_addr().unwrap()).unwrap(), &request)
            .and_then(|answer| serde_json::from_str(&answer).ok())
            .unwrap_or(Value::Null)
    }

    pub fn get(&self, path: &str) -> Value {
        self.call("GET", path, &Value::Null)
    }

    /// Creates an object of YAML in the collection.
    pub fn create(&self, collection: &str, yaml: &str) {
        let object: Value = serde_saphyr::from_str(yaml).unwrap();
        let answer = self.call("POST", collection, &object);
        assert!(answer["metadata"]["uid"].is_string(), "{answer}");
    }

    /// What the node's socket answers.
    pub fn ask_node(&self, path: &str) -> String {
        let stream = std::os::unix::net::UnixStream::connect(self.state().node_socket()).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n");
        exchange(stream, &request).unwrap_or_default()
    }

    /// The same in the background: for what is written until the end.
    pub fn follow(&self, path: &str) -> std::thread::JoinHandle<String> {
        let stream = std::os::unix::net::UnixStream::connect(self.state().node_socket()).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n");
        std::thread::spawn(move || exchange(stream, &request).unwrap_or_default())
    }

    /// Sends `text` to a port inside a Pod and ends; returns the head of the node's answer and what came after it.
    pub fn forward(&self, target: &str, text: &str) -> (String, String) {
        let mut stream = std::os::unix::net::UnixStream::connect(self.state().node_socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        let request = format!(
            "POST /portForward/{target} HTTP/1.1\r\nhost: node\r\nconnection: upgrade\r\nupgrade: tcp\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        stream.write_all(text.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        (String::from_utf8(head).unwrap(), rest)
    }

    /// Kills the processes of this mesh whose command line has `words`.
    fn kill_matching(&self, words: &str, of: impl Fn(i32) -> bool) {
        let mut killed = 0;
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(words) && of(pid) {
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
                    .unwrap();
                killed += 1;
            }
        }
        assert!(killed > 0, "nothing of the mesh runs {words}");
    }

    /// Kills a container's process. Only those in namespaces of this mesh count: its ancestors include the node.
    pub fn kill_container(&self, words: &str) {
        let node = self.node.borrow().as_ref().map(|node| node.id() as i32).unwrap();
        self.kill_matching(words, |pid| is_descendant(pid, node));
    }

    /// Kills one of the mesh's own processes.
    pub fn kill_child(&self, words: &str) {
        let own = self.processes();
        self.kill_matching(words, |pid| own.contains(&pid));
    }

    /// The Pods of a label `app`, in order of their names.
    pub fn pods(&self, app: &str) -> Vec<Value> {
        let list = self.get("/api/v1/pods");
        let items = list["items"].as_array().cloned().unwrap_or_default();
        items.into_iter().filter(|pod| pod["metadata"]["labels"]["app"] == app).collect()
    }

    pub fn is_ready(pod: &Value) -> bool {
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    }

    /// Waits until something is so.
    pub fn wait(&self, what: &str, mut so: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(15);
        while !so() {
            assert!(Instant::now() < deadline, "waited in vain: {what}\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn logs(&self) -> String {
        let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
        let control = read(&self.state().logs().join("lateend.log"));
        let pods = read(&self.state().api().join("objects.json"));
        format!("--- node\n{}\n--- lateend\n{control}\n--- objects\n{pods}", read(&self.log()))
    }
}

fn is_descendant(mut pid: i32, ancestor: i32) -> bool {
    while pid > 1 {
        if pid == ancestor {
            return true;
        }
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok());
        pid = parent.unwrap_or(0);
    }
    false
}

/// Sends a request and reads the body of the answer.
fn exchange(mut stream: impl Read + Write, request: &str) -> Option<String> {
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    if !head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return Some(body.to_owned());
    }
    let (mut whole, mut rest) = (String::new(), body);
    while let Some((size, tail)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).ok()?;
        whole.push_str(tail.get(..size)?);
        rest = tail.get(size + 2..)?;
    }
    Some(whole)
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if let Some(mut node) = self.node.borrow_mut().take() {
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}
