//! The rules in a real kernel, in network namespaces that each test makes: as root, and again as a user without
//! privileges and with one mapped id.
#![allow(unsafe_code)] // Threads enter namespaces of their own (unshare, setns).
#![allow(clippy::unwrap_used)] // Helpers of tests.
#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use lateen_netfilter::redirect::{Redirect, TABLE};
use lateen_netfilter::services::{ClusterServices, NodeNetwork, ServicePort};
use lateen_netfilter::{Connection, Error, Protocol, Transaction};
use socket2::{Domain, Socket, Type};

/// Runs the named test again in a fresh network namespace: as root of it, and (where this process may become another
/// user) as an unprivileged user in a user namespace. Returns true in those runs.
fn inside(test: &str) -> bool {
    if std::env::var_os("LATEEN_TEST_INSIDE").is_some() {
        return true;
    }
    let program = copy_of_this_program();
    let root = nix::unistd::geteuid().is_root();
    let mut runs: Vec<Vec<&str>> = Vec::new();
    if root {
        runs.push(vec!["unshare", "-n"]);
        runs.push(vec![
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
        ]);
    } else {
        runs.push(vec!["unshare", "-Urnpmf"]);
    }
    for run in runs {
        let output = Command::new(run[0])
            .args(&run[1..])
            .arg(&program)
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env("LATEEN_TEST_INSIDE", "1")
            .current_dir("/")
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{test} under {run:?}:\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("1 passed"), "{test} under {run:?} did not run: {text}");
    }
    std::fs::remove_file(program).unwrap();
    false
}

/// The build folder need not be readable by another user.
fn copy_of_this_program() -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt;
    static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("lateen-netfilter-test-{}-{number}", std::process::id()));
    std::fs::copy(std::env::current_exe().unwrap(), &path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split_whitespace()).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

/// `lo` with further addresses, and an interface to addresses where nobody is.
fn loopback() {
    ip("link set lo up");
    for address in ["10.1.0.1/32", "10.1.0.2/32"] {
        ip(&format!("addr add {address} dev lo"));
    }
    ip("-6 addr add fd00::1/128 dev lo nodad");
    ip("link add out type veth peer name far");
    ip("link set far up");
    ip("link set out up");
    ip("addr add 192.0.2.1/24 dev out");
    ip("-6 addr add fd01::1/64 dev out nodad");
    // The kernel makes an IPv6 address local in a work queue of its own, after the command has returned; until then the
    // answers to it leave by `out` and are lost.
    for address in ["fd00::1", "fd01::1"] {
        eventually_local(address);
    }
}

fn eventually_local(address: &str) {
    let end = Instant::now() + CONNECTS;
    loop {
        let output = Command::new("ip").args(["-6", "route", "get", address]).output().unwrap();
        let route = String::from_utf8_lossy(&output.stdout).into_owned();
        if route.starts_with("local") {
            return;
        }
        assert!(Instant::now() < end, "{address} has not become local: {route}");
        std::thread::yield_now();
    }
}

fn listen(address: &str) -> TcpListener {
    TcpListener::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"))
}

/// How long what must come about may take on a busy machine.
const CONNECTS: Duration = Duration::from_secs(10);
/// After this, nobody is there.
const NOBODY: Duration = Duration::from_millis(300);

/// Connects with an optional mark; panics where that fails.
fn connect(address: &str, mark: Option<u32>) -> TcpStream {
    connect_within(address, mark, CONNECTS)
        .unwrap_or_else(|error| panic!("{address} with mark {mark:?}: {error}"))
}

/// Nobody answers there.
fn nobody(address: &str, mark: Option<u32>) -> bool {
    connect_within(address, mark, NOBODY).is_err()
}

fn connect_within(address: &str, mark: Option<u32>, timeout: Duration) -> std::io::Result<TcpStream> {
    let address: SocketAddr = address.parse().unwrap();
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if let Some(mark) = mark {
        socket.set_mark(mark)?;
    }
    socket.connect_timeout(&address.into(), timeout)?;
    Ok(socket.into())
}

fn accept(listener: &TcpListener) -> Option<TcpStream> {
    listener.set_nonblocking(true).unwrap();
    listener.accept().ok().map(|(stream, _)| stream)
}

fn original(stream: &TcpStream, v6: bool) -> SocketAddr {
    let socket = socket2::SockRef::from(stream);
    let address = if v6 { socket.original_dst_v6() } else { socket.original_dst_v4() };
    address.unwrap().as_socket().unwrap()
}

#[test]
fn a_redirect_catches_the_application_and_spares_the_proxy() {
    if !inside("a_redirect_catches_the_application_and_spares_the_proxy") {
        return;
    }
    loopback();
    let outbound4 = listen("0.0.0.0:15001");
    let outbound6 = listen("[fd01::1]:15001");
    let inbound = listen("0.0.0.0:15006");
    let application = listen("10.1.0.1:9080");
    let mut connection = Connection::open().unwrap();
    let ruleset = Redirect::default().ruleset();
    ruleset.apply(&mut connection).unwrap();
    ruleset.apply(&mut connection).unwrap(); // again: replaced, not doubled
    ruleset.verify(&mut connection).unwrap();

    // Any other host: to the proxy, which learns where it was meant to go. Redirected output goes to 127.0.0.1.
    let _client = connect("192.0.2.77:80", None);
    let caught = accept(&outbound4).expect("caught by 15001");
    assert_eq!(original(&caught, false), "192.0.2.77:80".parse().unwrap());
    drop(outbound6);
    let outbound6 = listen("[::1]:15001");
    let _client = connect("[fd01::77]:80", None);
    let caught = accept(&outbound6).expect("caught by 15001");
    assert_eq!(original(&caught, true), "[fd01::77]:80".parse().unwrap());

    // The proxy's own connections, known by their mark, leave.
    assert!(nobody("192.0.2.77:80", Some(1337)));
    assert!(accept(&outbound4).is_none(), "the mark keeps a connection out");
    let _another = connect("192.0.2.77:80", Some(1336));
    assert!(accept(&outbound4).is_some());

    // Loopback: the application reaches itself directly, the proxy reaches it through inbound.
    let _direct = connect("10.1.0.1:9080", None);
    assert!(accept(&application).is_some());
    let _through = connect("10.1.0.1:9080", Some(1337));
    let caught = accept(&inbound).expect("caught by 15006");
    assert_eq!(original(&caught, false), "10.1.0.1:9080".parse().unwrap());
    // ... and from 127.0.0.6 directly.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_mark(1337).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, 6), 0)).into()).unwrap();
    socket.connect(&"10.1.0.1:9080".parse::<SocketAddr>().unwrap().into()).unwrap();
    assert!(accept(&application).is_some() && accept(&inbound).is_none());

    assert!(connection.delete_table(TABLE).unwrap());
    assert!(!connection.delete_table(TABLE).unwrap(), "nothing is left to delete");
    assert!(nobody("192.0.2.77:80", None));
}

#[test]
fn what_the_proxy_user_sends_is_not_redirected() {
    if !inside("what_the_proxy_user_sends_is_not_redirected") {
        return;
    }
    // The user that is mapped here stands in for 1337, which need not exist in a user namespace.
    let own = nix::unistd::geteuid().as_raw();
    loopback();
    let outbound = listen("0.0.0.0:15001");
    let mut connection = Connection::open().unwrap();
    let spared = Redirect { proxy_users: vec![own], proxy_groups: vec![], ..Redirect::default() };
    spared.ruleset().apply(&mut connection).unwrap();
    assert!(nobody("192.0.2.77:80", None), "the proxy's user is spared");
    assert!(accept(&outbound).is_none());
    let group = Redirect { proxy_users: vec![], proxy_groups: vec![own], ..Redirect::default() };
    group.ruleset().apply(&mut connection).unwrap();
    assert!(nobody("192.0.2.77:80", None), "the proxy's group is spared");
    Redirect::default().ruleset().apply(&mut connection).unwrap();
    let _another = connect("192.0.2.77:80", None); // any other user is caught
}

fn node() -> NodeNetwork {
    NodeNetwork {
        table: "lateen-node".into(),
        cluster_networks: vec!["10.96.0.0/16".parse().unwrap()],
        node_addresses: vec!["10.244.0.1".parse().unwrap(), "10.96.0.1".parse().unwrap()],
        pod_networks: vec!["10.244.0.0/16".parse().unwrap()],
        uplinks: vec!["out".into()],
    }
}

fn service(address: &str) -> ServicePort {
    let address: SocketAddr = address.parse().unwrap();
    ServicePort { address: address.ip(), protocol: Protocol::Tcp, port: address.port() }
}

/// A server that answers each connection with its own name.
fn serve(address: &str) {
    let listener = listen(address);
    let name = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.unwrap().write_all(name.as_bytes());
        }
    });
}

fn ask(address: &str) -> Result<String, std::io::Error> {
    let mut text = String::new();
    connect_within(address, None, CONNECTS)?.read_to_string(&mut text)?;
    Ok(text)
}

#[test]
fn cluster_addresses_lead_to_endpoints() {
    if !inside("cluster_addresses_lead_to_endpoints") {
        return;
    }
    loopback();
    ip("addr add 10.244.0.1/32 dev lo");
    ip("addr add 10.96.0.1/32 dev lo");
    ip("route add 10.96.0.0/16 dev lo src 10.244.0.1");
    ip("-6 route add fd96::/64 dev lo src fd00::1");
    for address in ["10.1.0.1:8080", "10.1.0.2:8080", "[fd00::1]:8080", "10.96.0.1:443"] {
        serve(address);
    }
    let targets = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>();
    let mut connection = Connection::open().unwrap();
    let mut services = ClusterServices::new(node());
    let mut wanted = BTreeMap::from([
        (service("10.96.0.20:80"), targets(&["10.1.0.1:8080", "10.1.0.2:8080"])),
        (service("10.96.0.21:80"), targets(&["10.1.0.2:8080"])),
        (service("10.96.0.22:80"), vec![]),
        (service("[fd96::1]:80"), targets(&["[fd00::1]:8080"])),
    ]);
    services.apply(&mut connection, wanted.clone()).unwrap();

    let answers: std::collections::BTreeSet<String> =
        (0..64).map(|_| ask("10.96.0.20:80").unwrap()).collect();
    assert_eq!(
        answers.into_iter().collect::<Vec<_>>(),
        ["10.1.0.1:8080", "10.1.0.2:8080"],
        "both are chosen"
    );
    assert_eq!(ask("10.96.0.21:80").unwrap(), "10.1.0.2:8080");
    assert_eq!(ask("[fd96::1]:80").unwrap(), "[fd00::1]:8080");
    assert_eq!(ask("10.96.0.1:443").unwrap(), "10.96.0.1:443", "the node's own sockets answer");
    for unserved in ["10.96.0.22:80", "10.96.0.20:81", "10.96.7.7:80"] {
        let error = ask(unserved).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{unserved}");
    }

    // An established connection outlives its endpoint's leaving; new ones go elsewhere.
    let keep = listen("10.1.0.1:9000");
    wanted.insert(service("10.96.0.23:80"), targets(&["10.1.0.1:9000"]));
    services.apply(&mut connection, wanted.clone()).unwrap();
    let mut client = connect("10.96.0.23:80", None);
    let (mut server, _) = keep.accept().unwrap();
    wanted.insert(service("10.96.0.23:80"), targets(&["10.1.0.2:8080"]));
    wanted.remove(&service("10.96.0.21:80"));
    services.apply(&mut connection, wanted.clone()).unwrap();
    server.write_all(b"still").unwrap();
    let mut buffer = [0; 5];
    client.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"still");
    assert_eq!(ask("10.96.0.23:80").unwrap(), "10.1.0.2:8080");
    assert_eq!(
        ask("10.96.0.21:80").unwrap_err().kind(),
        std::io::ErrorKind::ConnectionRefused,
        "it is removed"
    );
}

#[test]
fn a_thousand_services_are_quick() {
    if !inside("a_thousand_services_are_quick") {
        return;
    }
    loopback();
    let endpoint =
        |number: u32, port: u16| SocketAddr::from((IpAddr::from((0x0af4_0000 + number).to_be_bytes()), port));
    let mut wanted = BTreeMap::new();
    for number in 0..1000u32 {
        let address = IpAddr::from((0x0a60_0100 + number).to_be_bytes());
        let targets = (0..3).map(|index| endpoint(10 + number * 3 + index, 8080)).collect();
        wanted.insert(ServicePort { address, protocol: Protocol::Tcp, port: 80 }, targets);
    }
    let mut connection = Connection::open().unwrap();
    let mut services = ClusterServices::new(node());
    let start = Instant::now();
    services.apply(&mut connection, wanted.clone()).unwrap();
    let whole = start.elapsed();
    let rules = connection.rules("lateen-node").unwrap();
    assert_eq!(rules.iter().filter(|rule| rule.chain.starts_with("service/")).count(), 1000);
    let first = *wanted.keys().next().unwrap();
    wanted.insert(first, vec![endpoint(1, 80)]);
    let start = Instant::now();
    services.apply(&mut connection, wanted).unwrap();
    let one = start.elapsed();
    println!("1000 services: {whole:?}, then one change: {one:?}");
    assert!(whole < Duration::from_secs(5) && one < Duration::from_secs(1), "{whole:?} {one:?}");
    services.apply(&mut connection, BTreeMap::new()).unwrap();
    let rules = connection.rules("lateen-node").unwrap();
    assert!(!rules.iter().any(|rule| rule.chain.starts_with("service/")));
}

#[test]
fn a_refused_step_is_named_and_nothing_is_applied() {
    if !inside("a_refused_step_is_named_and_nothing_is_applied") {
        return;
    }
    let mut connection = Connection::open().unwrap();
    let mut transaction = Transaction::new("lateen-test");
    transaction.add_table().add_chain("one").flush_chain("missing").add_chain("two");
    let error = connection.commit(&transaction).unwrap_err();
    assert!(matches!(&error, Error::Refused { step, .. } if step.contains("missing")), "{error}");
    assert_eq!(connection.tables().unwrap(), Vec::<String>::new());
    let mut transaction = Transaction::new("lateen-test");
    transaction.add_table();
    connection.commit(&transaction).unwrap();
    assert_eq!(connection.tables().unwrap(), ["lateen-test"]);
}

#[test]
fn without_the_capability_the_error_names_it() {
    let mut transaction = Transaction::new("lateen-test");
    transaction.add_table().delete_table();
    let thread = std::thread::spawn(move || {
        if nix::unistd::geteuid().is_root() {
            // Of this thread alone.
            // SAFETY: setresuid with constant arguments; the raw call changes the calling thread only.
            assert_eq!(unsafe { nix::libc::syscall(nix::libc::SYS_setresuid, 65534, 65534, 65534) }, 0);
        }
        Connection::open().unwrap().commit(&transaction).unwrap_err()
    });
    let error = thread.join().unwrap();
    assert!(matches!(error, Error::Permission), "{error}");
    assert!(error.to_string().contains("NET_ADMIN"));
}
