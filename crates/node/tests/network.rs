//! The node's network in a real kernel: namespaces, Pods, cluster IPs, DNS, and a Pod's redirection; as root, and again
//! as a user without privileges and with one mapped id.
#![allow(clippy::unwrap_used)] // Helpers of tests.
#![cfg(target_os = "linux")]

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use lateen_netfilter::redirect::Redirect;
use lateen_netfilter::{Connection, Protocol};
use lateen_node::dns::{self, Dns, Records};
use lateen_node::forward::{Forwarder, Port, Service};
use lateen_node::network::{Network, NetworkConfiguration};
use nix::sched::{CloneFlags, setns, unshare};

/// Runs the named test again in namespaces of its own, as root of them with and without privileges outside. Returns true
/// in those runs.
fn inside(test: &str) -> bool {
    use std::os::unix::fs::PermissionsExt;
    if std::env::var_os("LATEEN_TEST_INSIDE").is_some() {
        return true;
    }
    // The build folder need not be readable by another user.
    let program = std::env::temp_dir().join(format!("lateen-node-{test}-{}", std::process::id()));
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let unprivileged: &[&str] = &[
        "setpriv",
        "--reuid",
        "65534",
        "--regid",
        "65534",
        "--clear-groups",
        "--bounding-set=-all",
        "--inh-caps=-all",
        "unshare",
        "-Urnpmf",
        "--mount-proc",
    ];
    let runs: &[&[&str]] = match nix::unistd::geteuid().is_root() {
        true => &[&["unshare", "-npmf", "--mount-proc"], unprivileged],
        false => &[&["unshare", "-Urnpmf", "--mount-proc"]],
    };
    for run in runs {
        let output = Command::new(run[0])
            .args(&run[1..])
            .arg(&program)
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env("LATEEN_TEST_INSIDE", "1")
            .current_dir("/")
            .output()
            .unwrap();
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && text.contains("1 passed"), "{test} under {run:?}:\n{text}");
    }
    std::fs::remove_file(program).unwrap();
    false
}

/// The network namespace of a Pod; it lives as long as the descriptor.
struct Pod(OwnedFd);

impl Pod {
    fn new() -> Self {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            OwnedFd::from(std::fs::File::open("/proc/thread-self/ns/net").unwrap())
        };
        Self(std::thread::spawn(make).join().unwrap())
    }

    fn namespace(&self) -> OwnedFd {
        self.0.try_clone().unwrap()
    }

    /// Runs `work` in the Pod's namespace.
    fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = self.namespace();
        let enter = move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        };
        std::thread::spawn(enter).join().unwrap()
    }

    /// A server that tells each client who it is and whom it sees.
    fn serve(&self, name: &'static str, port: u16) {
        let listener = self.run(move || TcpListener::bind(("0.0.0.0", port)).unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let peer = stream.peer_addr().unwrap().ip();
                let _ = stream.write_all(format!("{name} sees {peer}").as_bytes());
            }
        });
    }

    fn ask(&self, address: &'static str) -> Result<String, std::io::Error> {
        self.run(move || ask(address))
    }
}

fn ask(address: &str) -> Result<String, std::io::Error> {
    let mut stream = TcpStream::connect_timeout(&address.parse().unwrap(), Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

const ONE: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 2);
const TWO: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 3);

fn service(cluster: [u8; 4], endpoints: &[(Ipv4Addr, u16)]) -> Service {
    Service {
        name: "test".into(),
        cluster_addresses: vec![cluster.into()],
        ports: vec![Port {
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
            endpoints: endpoints.iter().map(|(address, port)| SocketAddr::from((*address, *port))).collect(),
        }],
    }
}

#[test]
fn pods_reach_each_other_the_node_and_services() {
    if !inside("pods_reach_each_other_the_node_and_services") {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (one, two) = (Pod::new(), Pod::new());
    let network = runtime.block_on(async {
        let network = Network::set_up(NetworkConfiguration::default()).await.unwrap();
        Network::set_up(NetworkConfiguration::default()).await.expect("again, as after a restart");
        network.attach(ONE, one.namespace()).await.unwrap();
        network.attach(TWO, two.namespace()).await.unwrap();
        network
    });
    one.serve("one", 9080);
    two.serve("two", 9080);

    // Direct.
    assert_eq!(two.ask("10.244.0.2:9080").unwrap(), "one sees 10.244.0.3");
    assert_eq!(ask("10.244.0.3:9080").unwrap(), "two sees 10.244.0.1", "from the node");
    let _node = TcpListener::bind("10.244.0.1:15012").unwrap();
    assert!(one.run(|| TcpStream::connect("10.244.0.1:15012").is_ok()), "to the node");

    // Cluster IPs.
    let mut forwarder = runtime.block_on(async {
        Forwarder::start(network.configuration().netfilter(), None, Ipv4Addr::LOCALHOST.into())
    });
    forwarder.update(vec![
        service([10, 96, 0, 50], &[(ONE, 9080)]),
        service([10, 96, 0, 51], &[(Ipv4Addr::new(10, 244, 0, 1), 15012)]),
        service([10, 96, 0, 52], &[]),
    ]);
    runtime.block_on(forwarder.settled());
    assert_eq!(two.ask("10.96.0.50:80").unwrap(), "one sees 10.244.0.3", "the client's address is kept");
    assert_eq!(ask("10.96.0.50:80").unwrap(), "one sees 10.244.0.1");
    assert_eq!(one.ask("10.96.0.50:80").unwrap(), "one sees 10.244.0.1", "a Pod reaches itself");
    assert!(one.run(|| TcpStream::connect("10.96.0.51:80").is_ok()), "to the node through a Service");
    for nobody in ["10.96.0.52:80", "10.96.0.50:81", "10.96.0.99:80"] {
        let start = Instant::now();
        let from_pod = two.ask(nobody).unwrap_err();
        let from_node = ask(nobody).unwrap_err();
        assert_eq!(from_pod.kind(), std::io::ErrorKind::ConnectionRefused, "{nobody}");
        assert_eq!(from_node.kind(), std::io::ErrorKind::ConnectionRefused, "{nobody}");
        assert!(start.elapsed() < Duration::from_secs(1), "{nobody}");
    }
    forwarder.update(vec![service([10, 96, 0, 50], &[(TWO, 9080)])]);
    runtime.block_on(forwarder.settled());
    assert_eq!(one.ask("10.96.0.50:80").unwrap(), "two sees 10.244.0.2", "the endpoints changed");

    // DNS.
    let records = Records::new(&[dns::Service {
        namespace: "books".into(),
        name: "reviews".into(),
        kind: dns::ServiceKind::ClusterIp(vec![IpAddr::from([10, 96, 0, 50])]),
        ports: vec![],
    }]);
    let server = SocketAddr::from(([10, 96, 0, 10], 53));
    let dns = runtime.block_on(Dns::start(server, vec![])).unwrap();
    dns.update(records);
    let answer = one.run(move || {
        let mut query = Message::new(1, MessageType::Query, OpCode::Query);
        query.add_query(Query::query(
            Name::from_ascii("reviews.books.svc.cluster.local.").unwrap(),
            RecordType::A,
        ));
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        socket.send_to(&query.to_vec().unwrap(), server).unwrap();
        let mut buffer = [0; 512];
        let (length, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!(from, server);
        Message::from_vec(&buffer[..length]).unwrap().answers[0].data.to_string()
    });
    assert_eq!(answer, "10.96.0.50");

    // A Pod goes, another gets its address.
    runtime.block_on(network.detach(ONE)).unwrap();
    assert!(two.ask("10.244.0.2:9080").is_err());
    runtime.block_on(network.detach(ONE)).expect("nothing to do");
    let three = Pod::new();
    three.serve("three", 9080);
    runtime.block_on(network.attach(ONE, three.namespace())).unwrap();
    assert_eq!(two.ask("10.244.0.2:9080").unwrap(), "three sees 10.244.0.3");
    // The namespace ends by itself.
    drop(two);
    runtime.block_on(network.attach(TWO, Pod::new().namespace())).unwrap();
}

#[test]
fn a_pods_inbound_and_outbound_go_through_its_sidecar() {
    if !inside("a_pods_inbound_and_outbound_go_through_its_sidecar") {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (one, two) = (Pod::new(), Pod::new());
    let network = runtime.block_on(async {
        let network = Network::set_up(NetworkConfiguration::default()).await.unwrap();
        network.attach(ONE, one.namespace()).await.unwrap();
        network.attach(TWO, two.namespace()).await.unwrap();
        network
    });
    let mut forwarder = runtime.block_on(async {
        Forwarder::start(network.configuration().netfilter(), None, Ipv4Addr::LOCALHOST.into())
    });
    forwarder.update(vec![service([10, 96, 0, 50], &[(TWO, 9080)])]);
    runtime.block_on(forwarder.settled());
    two.serve("two", 9080);
    two.serve("ready", 15021);
    let (inbound, outbound) = two.run(|| {
        let mut connection = Connection::open().unwrap();
        let ruleset = Redirect::default().ruleset();
        ruleset.apply(&mut connection).unwrap();
        ruleset.verify(&mut connection).unwrap();
        (TcpListener::bind("0.0.0.0:15006").unwrap(), TcpListener::bind("0.0.0.0:15001").unwrap())
    });
    let original = |listener: &TcpListener| {
        let (stream, peer) = listener.accept().unwrap();
        (socket2::SockRef::from(&stream).original_dst_v4().unwrap().as_socket().unwrap(), peer.ip())
    };
    // Inbound, direct and through a cluster IP: the proxy sees the Pod's own port.
    for address in ["10.244.0.3:9080", "10.96.0.50:80"] {
        let _client = one.run(move || TcpStream::connect(address).unwrap());
        assert_eq!(original(&inbound), ("10.244.0.3:9080".parse().unwrap(), ONE.into()), "{address}");
    }
    assert_eq!(
        one.ask("10.244.0.3:15021").unwrap(),
        "ready sees 10.244.0.2",
        "the proxy's own ports are spared"
    );
    // Outbound: the proxy sees the cluster IP that the application meant.
    let _client = two.run(|| TcpStream::connect("10.96.0.50:80").unwrap());
    assert_eq!(original(&outbound).0, "10.96.0.50:80".parse().unwrap());
    // What the proxy sends (by its mark) leaves.
    one.serve("one", 9080);
    let answer = two.run(|| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_mark(1337).unwrap();
        socket.connect(&"10.244.0.2:9080".parse::<SocketAddr>().unwrap().into()).unwrap();
        let mut text = String::new();
        TcpStream::from(socket).read_to_string(&mut text).unwrap();
        text
    });
    assert_eq!(answer, "one sees 10.244.0.3");
}
