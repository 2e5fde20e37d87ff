//! The command in a real kernel, in a network namespace of its own: as root, and as a user without privileges.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use clap::Parser;
use lateen_netfilter::Connection;
use lateen_netfilter::redirect::TABLE;

use super::{Arguments, run};

#[derive(Parser)]
struct Words {
    #[command(flatten)]
    arguments: Arguments,
}

fn command(words: &[&str]) -> anyhow::Result<()> {
    run(Words::try_parse_from(["istio-iptables"].iter().chain(words))?.arguments)
}

#[test]
fn the_command_redirects_and_cleans_up() {
    if std::env::var_os("LATEEN_TEST_INSIDE").is_none() {
        return in_namespaces("interception::kernel_tests::the_command_redirects_and_cleans_up");
    }
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
    let proxy = TcpListener::bind("127.0.0.1:15001").unwrap();
    // Through `lo` it would be the Pod talking to itself.
    for words in ["link add out type veth peer name far", "addr add 192.0.2.1/24 dev out", "link set out up"]
    {
        assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success(), "{words}");
    }
    let elsewhere: SocketAddr = "192.0.2.77:80".parse().unwrap();
    let connect = || TcpStream::connect_timeout(&elsewhere, Duration::from_millis(300));

    command(&["--dry-run"]).unwrap();
    assert!(connect().is_err(), "a dry run changes nothing");
    command(&["-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-x", "", "-b", "*"])
        .unwrap();
    let _client = connect().expect("redirected to the proxy");
    let (caught, _) = proxy.accept().unwrap();
    let original = socket2::SockRef::from(&caught).original_dst_v4().unwrap();
    assert_eq!(original.as_socket(), Some(elsewhere));
    command(&["-x", "192.0.2.0/24"]).unwrap();
    assert!(connect().is_err(), "excluded");
    command(&["--cleanup-only"]).unwrap();
    assert!(!Connection::open().unwrap().tables().unwrap().contains(&TABLE.to_owned()));
    command(&["--cleanup-only"]).expect("nothing to do");
}

#[test]
fn without_the_capability_the_error_says_so() {
    if std::env::var_os("LATEEN_TEST_NO_CAPABILITY").is_none() {
        let test = "interception::kernel_tests::without_the_capability_the_error_says_so";
        let run: &[&str] = match nix::unistd::geteuid().is_root() {
            true => {
                &["setpriv", "--reuid", "65534", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"]
            }
            false => &["env"],
        };
        return again(test, run, "LATEEN_TEST_NO_CAPABILITY");
    }
    let error = format!("{:#}", command(&[]).unwrap_err());
    assert!(error.contains("redirect the Pod's traffic") && error.contains("NET_ADMIN"), "{error}");
}

fn in_namespaces(test: &str) {
    let without = [
        "setpriv",
        "--reuid",
        "65534",
        "--regid",
        "65534",
        "--clear-groups",
        "--bounding-set=-all",
        "--inh-caps=-all",
        "unshare",
        "-Urn",
    ];
    if nix::unistd::geteuid().is_root() {
        again(test, &["unshare", "-n"], "LATEEN_TEST_INSIDE");
        again(test, &without, "LATEEN_TEST_INSIDE");
    } else {
        again(test, &["unshare", "-Urn"], "LATEEN_TEST_INSIDE");
    }
}

/// Runs `test` once more under the command `run`, with `variable` set.
fn again(test: &str, run: &[&str], variable: &str) {
    use std::os::unix::fs::PermissionsExt;
    // The build folder need not be readable by another user.
    let name = format!("lateen-agent-test-{}-{variable}-{}", std::process::id(), run.len());
    let program = std::env::temp_dir().join(name);
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = Command::new(run[0])
        .args(&run[1..])
        .arg(&program)
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(variable, "1")
        .current_dir("/")
        .output()
        .unwrap();
    std::fs::remove_file(program).unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"), "{test} under {run:?}:\n{text}");
}
