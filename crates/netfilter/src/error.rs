//! What may go wrong between us and the kernel, with what to do about it.

use std::io;

/// A failed conversation with the kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No netlink socket for netfilter.
    #[error("cannot open a netfilter netlink socket: {0}; {remedy}", remedy = remedy(.0))]
    Socket(io::Error),
    /// The kernel does not let this process change packet rules.
    #[error(
        "the kernel refuses to change packet rules (operation not permitted): the process needs the capability \
         NET_ADMIN in the user namespace that owns its network namespace"
    )]
    Permission,
    /// The kernel refused one step of a transaction; nothing of it was applied.
    #[error("{step}: {source}{}; {remedy}", kernel_says(.message), remedy = remedy(.source))]
    Refused {
        /// What the step was to do.
        step: String,
        /// The error number.
        source: io::Error,
        /// The kernel's own words (extended acknowledgement), where it had any.
        message: Option<String>,
    },
    /// The kernel's answer did not come, or could not be read.
    #[error("netfilter netlink socket: {0}")]
    Transport(#[from] io::Error),
    /// What was read back is not what was written.
    #[error("{0}")]
    Verification(String),
    /// The caller asked for something that this version cannot do.
    #[error("{0}")]
    Unsupported(String),
}

fn kernel_says(message: &Option<String>) -> String {
    message.as_ref().map(|text| format!(" (the kernel says: {text})")).unwrap_or_default()
}

fn remedy(error: &io::Error) -> &'static str {
    use nix::libc;
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "the capability NET_ADMIN is missing",
        Some(libc::EPROTONOSUPPORT) => {
            "the kernel was built without netfilter's netlink interface (nfnetlink)"
        }
        Some(libc::EOPNOTSUPP) => {
            "the kernel has no nf_tables, or not the feature that this step needs: load the modules nf_tables, \
             nft_chain_nat, nft_redir, nft_nat, nft_masq, nft_numgen and nft_reject_inet (modprobe, as root on the host)"
        }
        Some(libc::ENOENT) => {
            "a table, chain, set or expression is unknown to the kernel: load the modules nf_tables, nft_chain_nat, \
             nft_redir, nft_nat, nft_masq, nft_numgen and nft_reject_inet (modprobe, as root on the host)"
        }
        Some(libc::ENOBUFS | libc::ENOMEM | libc::EMSGSIZE) => "raise the sysctl net.core.wmem_max",
        Some(libc::EBUSY) => "another program uses the same table",
        _ => "see `dmesg` for the kernel's reason",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_step_and_remedy() {
        let check = |number: i32, message: Option<&str>, expected: &[&str]| {
            let error = Error::Refused {
                step: "rule 1 of chain `output`".into(),
                source: io::Error::from_raw_os_error(number),
                message: message.map(str::to_owned),
            };
            let text = error.to_string();
            for part in expected {
                assert!(text.contains(part), "{part:?} not in {text:?}");
            }
        };
        check(nix::libc::ENOENT, None, &["rule 1 of chain `output`", "nft_redir"]);
        check(nix::libc::EOPNOTSUPP, Some("no chain"), &["(the kernel says: no chain)", "modprobe"]);
        check(nix::libc::EMSGSIZE, None, &["net.core.wmem_max"]);
    }
}
