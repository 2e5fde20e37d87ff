//! `lateen-agent istio-iptables`: sends the Pod's traffic through the sidecar.
//!
//! It takes the flags of Istio's command of that name, makes the rules by netlink in the network namespace it runs in,
//! and reads them back. It needs the capability NET_ADMIN there and nothing else; no external program is run.

mod arguments;
#[cfg(test)]
#[allow(clippy::unwrap_used)] // Helpers of tests.
mod kernel_tests;

use std::io::Write;

use anyhow::{Context, bail};
use lateen_netfilter::Connection;
use lateen_netfilter::redirect::TABLE;

pub use arguments::Arguments;

/// Does what the flags say.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    if arguments.cleanup_only {
        return clean_up();
    }
    let redirect = arguments.redirect()?;
    let ruleset = redirect.ruleset();
    if arguments.dry_run {
        write!(std::io::stdout(), "{ruleset}").context("writing the rules to standard output")?;
        return Ok(());
    }
    let mut connection = Connection::open()?;
    ruleset.apply(&mut connection).context("cannot redirect the Pod's traffic")?;
    ruleset
        .verify(&mut connection)
        .context("the redirection was made but does not read back as it should")?;
    tracing::info!(
        outbound_port = redirect.outbound_port,
        inbound_port = redirect.inbound_port,
        "the Pod's traffic goes through the sidecar (nf_tables, table inet {TABLE})"
    );
    Ok(())
}

fn clean_up() -> anyhow::Result<()> {
    let mut connection = Connection::open()?;
    match connection.delete_table(TABLE).context("cannot remove the redirection")? {
        true => tracing::info!("removed table inet {TABLE}"),
        false => tracing::info!("there was no table inet {TABLE}"),
    }
    if connection.tables()?.iter().any(|table| table == TABLE) {
        bail!("table inet {TABLE} is still there after its removal: another program keeps making it");
    }
    Ok(())
}
