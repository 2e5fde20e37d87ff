//! Linux capabilities by name (capabilities(7)).

/// Name and number of every capability that a Pod may name.
const NAMES: &[(&str, u32)] = &[
    ("CHOWN", 0),
    ("DAC_OVERRIDE", 1),
    ("DAC_READ_SEARCH", 2),
    ("FOWNER", 3),
    ("FSETID", 4),
    ("KILL", 5),
    ("SETGID", 6),
    ("SETUID", 7),
    ("SETPCAP", 8),
    ("LINUX_IMMUTABLE", 9),
    ("NET_BIND_SERVICE", 10),
    ("NET_BROADCAST", 11),
    ("NET_ADMIN", 12),
    ("NET_RAW", 13),
    ("IPC_LOCK", 14),
    ("IPC_OWNER", 15),
    ("SYS_MODULE", 16),
    ("SYS_RAWIO", 17),
    ("SYS_CHROOT", 18),
    ("SYS_PTRACE", 19),
    ("SYS_PACCT", 20),
    ("SYS_ADMIN", 21),
    ("SYS_BOOT", 22),
    ("SYS_NICE", 23),
    ("SYS_RESOURCE", 24),
    ("SYS_TIME", 25),
    ("SYS_TTY_CONFIG", 26),
    ("MKNOD", 27),
    ("LEASE", 28),
    ("AUDIT_WRITE", 29),
    ("AUDIT_CONTROL", 30),
    ("SETFCAP", 31),
    ("MAC_OVERRIDE", 32),
    ("MAC_ADMIN", 33),
    ("SYSLOG", 34),
    ("WAKE_ALARM", 35),
    ("BLOCK_SUSPEND", 36),
    ("AUDIT_READ", 37),
    ("PERFMON", 38),
    ("BPF", 39),
    ("CHECKPOINT_RESTORE", 40),
];

/// What a container has unless it asks for something else: the usual default without NET_RAW, because a process with
/// NET_RAW could set the mark that keeps the proxy's own connections out of the interception.
const DEFAULT: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// What a container ends up with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Granted {
    /// Capabilities by number, ascending.
    pub all: Vec<u32>,
    /// Those that were asked for by name.
    pub added: Vec<u32>,
    /// Names that are not capabilities.
    pub unknown: Vec<String>,
}

/// Applies `securityContext.capabilities` to the default set; `ALL` is understood in both lists.
pub fn grant(add: &[String], drop: &[String]) -> Granted {
    let number = |name: &str| {
        let upper = name.to_ascii_uppercase();
        let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
        NAMES.iter().find(|(known, _)| *known == short).map(|(_, number)| *number)
    };
    let mut granted = Granted::default();
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
    if !drop.iter().any(is_all) {
        granted.all.extend(DEFAULT.iter().filter_map(|name| number(name)));
        let dropped: Vec<u32> = drop.iter().filter_map(|name| number(name)).collect();
        granted.all.retain(|number| !dropped.contains(number));
    }
    if add.iter().any(is_all) {
        granted.added.extend(NAMES.iter().map(|(_, number)| *number));
    }
    for name in add.iter().filter(|name| !is_all(name)) {
        match number(name) {
            Some(number) => granted.added.push(number),
            None => granted.unknown.push(name.clone()),
        }
    }
    granted.all.extend_from_slice(&granted.added);
    for list in [&mut granted.all, &mut granted.added] {
        list.sort_unstable();
        list.dedup();
    }
    granted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_of_a_container() {
        let check = |name: &str, add: &[&str], drop: &[&str], expected: &[u32]| {
            let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
            assert_eq!(grant(&owned(add), &owned(drop)).all, expected, "{name}");
        };
        check("default", &[], &[], &[0, 1, 3, 4, 5, 6, 7, 8, 10, 18, 27, 29, 31]);
        check("istio-init", &["NET_ADMIN", "NET_RAW"], &["ALL"], &[12, 13]);
        check("prefix and case", &["cap_net_raw"], &["ALL"], &[13]);
        check("drop one", &[], &["CHOWN"], &[1, 3, 4, 5, 6, 7, 8, 10, 18, 27, 29, 31]);
        check("nothing", &[], &["ALL"], &[]);
    }

    #[test]
    fn an_unknown_name_is_reported() {
        assert_eq!(grant(&["NET_ADMN".to_owned()], &[]).unknown, ["NET_ADMN"]);
    }
}
