//! The system's settings that may keep a user from making namespaces, and what to do about them.

use std::fmt::Write as _;

/// What an operator can change, from what this system says about itself.
pub(crate) fn remedy() -> String {
    remedy_for(&|name| {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
    })
}

/// The settings that may be the cause, worst first.
pub(crate) fn remedy_for(setting: &dyn Fn(&str) -> Option<String>) -> String {
    // The least that a node with some Pods needs of each kind of namespace.
    const LEAST: u64 = 64;
    type IsBad = fn(&str) -> bool;
    let too_few: IsBad = |value| value.parse::<u64>().is_ok_and(|value| value < LEAST);
    let known: [(&str, IsBad, &str); 5] = [
        ("kernel.apparmor_restrict_unprivileged_userns", |value| value == "1", "0"),
        ("kernel.unprivileged_userns_clone", |value| value == "0", "1"),
        ("user.max_user_namespaces", too_few, "15000"),
        ("user.max_net_namespaces", too_few, "15000"),
        ("user.max_mnt_namespaces", too_few, "15000"),
    ];
    let mut text = String::new();
    for (name, is_bad, good) in known {
        if let Some(value) = setting(name).filter(|value| is_bad(value)) {
            let _ = writeln!(text, "  {name} is {value}; allow it with: sudo sysctl -w {name}={good}");
        }
    }
    if text.is_empty() {
        text.push_str(
            "  kernel.apparmor_restrict_unprivileged_userns, kernel.unprivileged_userns_clone and \
             user.max_user_namespaces do not forbid it; a container's seccomp or AppArmor profile may, or a kernel \
             without the modules veth and nf_tables\n",
        );
    }
    text.push_str("  or run the same command with sudo");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_names_the_setting_and_offers_sudo() {
        let check = |set: &[(&str, &str)], expected: &str| {
            let find =
                |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
            let text = remedy_for(&find);
            assert!(text.contains(expected) && text.contains("with sudo"), "{text}");
        };
        check(
            &[("kernel.apparmor_restrict_unprivileged_userns", "1")],
            "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        );
        check(&[("user.max_user_namespaces", "0")], "user.max_user_namespaces is 0");
        check(&[("user.max_mnt_namespaces", "63")], "user.max_mnt_namespaces is 63");
        check(&[("kernel.unprivileged_userns_clone", "0")], "kernel.unprivileged_userns_clone=1");
        check(&[("user.max_user_namespaces", "100")], "seccomp");
    }

    #[test]
    fn the_remedy_of_this_system_offers_sudo() {
        let text = remedy();
        assert!(text.contains("sudo"), "{text}");
    }
}
