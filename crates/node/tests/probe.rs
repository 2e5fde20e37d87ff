//! What `lateen up` asks first: may this user have namespaces? Without a harness, since the question is for a process
//! with one thread.

use std::process::ExitCode;

fn main() -> ExitCode {
    use std::io::Write;
    // Test runners ask for a list.
    if std::env::args().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    let result = lateen_node::network::probe_namespaces();
    let _ = writeln!(std::io::stdout(), "namespaces: {result:?}");
    if result.is_err() || std::env::args().any(|argument| argument == "once") {
        return ExitCode::from(u8::from(result.is_err()));
    }
    if nix::unistd::geteuid().is_root() && !without_privileges() {
        return ExitCode::FAILURE;
    }
    // With no namespaces left to make, the explanation says which setting it is.
    let limit = "/proc/sys/user/max_net_namespaces";
    let Ok(status) = std::process::Command::new("unshare")
        .args(["-Urpmf", "--mount-proc", "sh", "-c"])
        .arg(format!("echo 0 > {limit} && exec \"$0\" once"))
        .arg(std::env::current_exe().unwrap_or_default())
        .output()
    else {
        return ExitCode::FAILURE;
    };
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    let expected = ["user.max_net_namespaces is 0", "sudo"];
    if expected.iter().all(|part| text.contains(part)) {
        return ExitCode::SUCCESS;
    }
    let _ = writeln!(std::io::stdout(), "the explanation should contain {expected:?}: {text}");
    ExitCode::FAILURE
}

/// The same for a user without privileges.
fn without_privileges() -> bool {
    use std::os::unix::fs::PermissionsExt;
    let attempt = || -> std::io::Result<bool> {
        // The build folder need not be readable by another user.
        let program = std::env::temp_dir().join(format!("lateen-node-probe-{}", std::process::id()));
        std::fs::copy(std::env::current_exe()?, &program)?;
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
        let status = std::process::Command::new("setpriv")
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--bounding-set=-all"])
            .arg("--inh-caps=-all")
            .arg(&program)
            .arg("once")
            .current_dir("/")
            .status()?;
        std::fs::remove_file(program)?;
        Ok(status.success())
    };
    attempt().unwrap_or(false)
}
