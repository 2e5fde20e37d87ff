//! gRPC's own clients of xDS under our control plane: a call to `xds:///HOST:PORT` arrives, and follows a rule. Needs
//! what `tools/install` brings (`GRPC_PYTHON`, `GRPC_NODE`, `GRPC_NODE_PATH`); says so without.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use lateen_peers::{Mesh, Seen};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

const RULES: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: echo}
spec: {host: echo.example.com, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
";

fn service(first: u16, second: u16) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: echo}}
spec:
  hosts: [echo.example.com]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{{number: 80, name: grpc, protocol: GRPC}}]
  endpoints:
  - {{address: 127.0.0.1, ports: {{grpc: {first}}}, labels: {{version: v1}}}}
  - {{address: 127.0.0.1, ports: {{grpc: {second}}}, labels: {{version: v2}}}}
"
    )
}

/// A share of the calls to each version.
fn rule(first: u32, second: u32) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: echo}}
spec:
  hosts: [echo.example.com]
  http:
  - timeout: 5s
    route:
    - {{destination: {{host: echo.example.com, subset: v1}}, weight: {first}}}
    - {{destination: {{host: echo.example.com, subset: v2}}, weight: {second}}}
"
    )
}

/// Bounds every wait of a test.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future)
        .await
        .unwrap_or_else(|_| panic!("timed out: {what}"))
}

fn named(variable: &str) -> Option<PathBuf> {
    let found = std::env::var_os(variable).filter(|value| !value.is_empty());
    if found.is_none() {
        eprintln!("skipped: {variable} is not set; tools/install brings what is needed");
    }
    found.map(PathBuf::from)
}

fn client_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name)
}

/// A process whose lines are read.
struct Talking {
    _process: Child,
    _input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Talking {
    fn start(command: &mut Command) -> Self {
        for variable in ["http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY"] {
            command.env_remove(variable);
        }
        let mut process =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { _input: process.stdin.take().unwrap(), _process: process, lines }
    }

    async fn line(&mut self) -> String {
        soon("a line", self.lines.next_line()).await.unwrap().expect("it still runs")
    }

    /// Reads on until a line is this.
    async fn until(&mut self, wanted: &str) {
        let mut seen = Vec::new();
        let reading = async {
            loop {
                let line = self.lines.next_line().await.unwrap().expect("it still runs");
                if line == wanted {
                    return;
                }
                seen.push(line);
            }
        };
        if tokio::time::timeout(Duration::from_secs(60), reading).await.is_err() {
            panic!("never {wanted:?}: {seen:?}");
        }
    }
}

async fn servers(python: &Path) -> (Talking, u16, u16) {
    let mut servers = Talking::start(Command::new(python).arg(client_file("server.py")).args(["v1", "v2"]));
    let mut ports = Vec::new();
    for name in ["v1", "v2"] {
        let line = servers.line().await;
        ports.push(line.strip_prefix(name).unwrap().trim().parse().unwrap());
    }
    (servers, ports[0], ports[1])
}

/// A client's calls arrive, and go where the rules say as soon as they say so.
async fn follows_rules(client: &mut Command, python: &Path) {
    let mesh = Mesh::default();
    let (_servers, first, second) = servers(python).await;
    for yaml in [&service(first, second), RULES, &rule(100, 0)] {
        mesh.apply(yaml).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let bootstrap = folder.path().join("bootstrap.json");
    let server = mesh.serve().await.unwrap();
    let content = serde_json::json!({
        "xds_servers": [{
            "server_uri": server.to_string(),
            "channel_creds": [{"type": "insecure"}],
            "server_features": ["xds_v3"],
        }],
        "node": {
            "id": "sidecar~127.0.0.1~client.default~default.svc.cluster.local",
            "metadata": {"GENERATOR": "grpc", "NAMESPACE": "default"},
            // @grpc/grpc-js-xds does not start without.
            "locality": {"region": "r", "zone": "z", "sub_zone": "s"},
        },
    });
    std::fs::write(&bootstrap, content.to_string()).unwrap();
    client.arg("xds:///echo.example.com:80").env("GRPC_XDS_BOOTSTRAP", &bootstrap);
    let mut client = Talking::start(client);
    client.until("v1").await;
    mesh.apply(&rule(0, 100)).unwrap();
    client.until("v2").await;
    // Both answer once both have a share.
    mesh.apply(&rule(50, 50)).unwrap();
    client.until("v1").await;
    client.until("v2").await;
    let refused: Vec<Seen> =
        mesh.seen().into_iter().filter(|seen| matches!(seen, Seen::Rejected(..))).collect();
    assert_eq!(refused, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn grpcio() {
    let Some(python) = named("GRPC_PYTHON") else { return };
    follows_rules(Command::new(&python).arg(client_file("client.py")), &python).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn grpc_js() {
    let (Some(python), Some(node)) = (named("GRPC_PYTHON"), named("GRPC_NODE")) else { return };
    let Some(modules) = named("GRPC_NODE_PATH") else { return };
    follows_rules(Command::new(node).arg(client_file("client.js")).env("NODE_PATH", modules), &python).await;
}
