//! The flags of Istio's `istio-iptables`, and what they mean.

use std::str::FromStr;

use anyhow::{Context, bail};
use lateen_netfilter::redirect::{Redirect, Selection};

/// Redirects a Pod's traffic to its sidecar.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Arguments {
    /// Port of the proxy that outbound traffic goes to.
    #[arg(short = 'p', long = "envoy-port", default_value_t = 15001, value_name = "PORT")]
    pub outbound_port: u16,
    /// Port of the proxy that inbound traffic goes to.
    #[arg(short = 'z', long = "inbound-capture-port", default_value_t = 15006, value_name = "PORT")]
    pub inbound_port: u16,
    /// Port of inbound tunnels (HBONE), which are never redirected.
    #[arg(short = 'e', long = "inbound-tunnel-port", default_value_t = 15008, value_name = "PORT")]
    pub tunnel_port: u16,
    /// Users of the proxy, whose traffic is left alone; comma separated.
    #[arg(short = 'u', long = "proxy-uid", default_value = "1337", value_name = "UIDS")]
    pub proxy_users: String,
    /// Groups of the proxy [default: the same numbers as the users]
    #[arg(short = 'g', long = "proxy-gid", value_name = "GIDS")]
    pub proxy_groups: Option<String>,
    /// Mark of sockets whose traffic is left alone; how the proxy is known where its user does not exist.
    #[arg(long = "proxy-mark", default_value_t = 1337, value_name = "MARK")]
    pub proxy_mark: u32,
    /// How inbound traffic is intercepted: REDIRECT, or NONE for not at all.
    #[arg(
        short = 'm',
        long = "istio-inbound-interception-mode",
        default_value = "REDIRECT",
        value_name = "MODE"
    )]
    pub mode: String,
    /// Inbound ports to redirect, comma separated; `*` for all, empty for none.
    #[arg(short = 'b', long = "istio-inbound-ports", default_value = "*", value_name = "PORTS")]
    pub inbound_ports: String,
    /// Inbound ports to leave alone where all are redirected.
    #[arg(
        short = 'd',
        long = "istio-local-exclude-ports",
        default_value = "15090,15021,15020",
        value_name = "PORTS"
    )]
    pub excluded_inbound_ports: String,
    /// Outbound destinations (CIDR) to redirect, comma separated; `*` for all, empty for none.
    #[arg(short = 'i', long = "istio-service-cidr", default_value = "*", value_name = "CIDRS")]
    pub outbound_networks: String,
    /// Outbound destinations (CIDR) to leave alone.
    #[arg(short = 'x', long = "istio-service-exclude-cidr", default_value = "", value_name = "CIDRS")]
    pub excluded_outbound_networks: String,
    /// Outbound ports to redirect whatever the destination.
    #[arg(short = 'q', long = "istio-outbound-ports", default_value = "", value_name = "PORTS")]
    pub outbound_ports: String,
    /// Outbound ports to leave alone.
    #[arg(
        short = 'o',
        long = "istio-local-outbound-ports-exclude",
        default_value = "",
        value_name = "PORTS"
    )]
    pub excluded_outbound_ports: String,
    /// Interfaces whose inbound traffic is redirected as outbound (virtual machines inside the Pod).
    #[arg(short = 'k', long = "kube-virt-interfaces", default_value = "", value_name = "NAMES")]
    pub virtual_interfaces: String,
    /// Interfaces to leave alone.
    #[arg(short = 'c', long = "istio-exclude-interfaces", default_value = "", value_name = "NAMES")]
    pub excluded_interfaces: String,
    /// Redirect DNS queries too.
    #[arg(
        long = "redirect-dns",
        env = "ISTIO_META_DNS_CAPTURE",
        value_parser = clap::builder::BoolishValueParser::new(),
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        default_value_t = false,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    pub redirect_dns: bool,
    /// Print the rules in the syntax of nft and change nothing.
    #[arg(short = 'n', long = "dry-run")]
    pub dry_run: bool,
    /// Remove the rules and make none.
    #[arg(long = "cleanup-only")]
    pub cleanup_only: bool,
    /// Taken for compatibility: rules are always read back.
    #[arg(long = "run-validation", hide = true)]
    pub run_validation: bool,
    /// Taken for compatibility: rules are always replaced.
    #[arg(long = "force-apply", hide = true)]
    pub force_apply: bool,
    /// Taken for compatibility; `LATEEN_LOG` sets log levels.
    #[arg(long = "log_output_level", hide = true)]
    pub log_output_level: Option<String>,
}

impl Arguments {
    /// The redirection that the flags describe.
    pub fn redirect(&self) -> anyhow::Result<Redirect> {
        let mut inbound_ports = selection(&self.inbound_ports, "-b")?;
        match self.mode.to_ascii_uppercase().as_str() {
            "REDIRECT" => {}
            "NONE" => inbound_ports = Selection::Only(Vec::new()),
            "TPROXY" => bail!(
                "-m TPROXY is not supported yet; use -m REDIRECT (annotation \
                 sidecar.istio.io/interceptionMode: REDIRECT)"
            ),
            other => bail!("-m {other}: the modes are REDIRECT and NONE"),
        }
        if self.redirect_dns {
            bail!(
                "--redirect-dns (ISTIO_META_DNS_CAPTURE) is not supported yet; leave it out, names are resolved by \
                 the cluster's DNS"
            );
        }
        let proxy_users = list(&self.proxy_users, "-u")?;
        let proxy_groups = match &self.proxy_groups {
            Some(groups) => list(groups, "-g")?,
            None => proxy_users.clone(),
        };
        Ok(Redirect {
            outbound_port: self.outbound_port,
            inbound_port: self.inbound_port,
            tunnel_port: self.tunnel_port,
            proxy_users,
            proxy_groups,
            proxy_mark: self.proxy_mark,
            inbound_ports,
            excluded_inbound_ports: list(&self.excluded_inbound_ports, "-d")?,
            outbound_networks: selection(&self.outbound_networks, "-i")?,
            excluded_outbound_networks: list(&self.excluded_outbound_networks, "-x")?,
            outbound_ports: list(&self.outbound_ports, "-q")?,
            excluded_outbound_ports: list(&self.excluded_outbound_ports, "-o")?,
            virtual_interfaces: list(&self.virtual_interfaces, "-k")?,
            excluded_interfaces: list(&self.excluded_interfaces, "-c")?,
        })
    }
}

/// The parts of a comma separated list.
fn list<T>(text: &str, flag: &str) -> anyhow::Result<Vec<T>>
where
    T: FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| part.parse().with_context(|| format!("{flag} {text}: {part:?} is not valid")))
        .collect()
}

fn selection<T>(text: &str, flag: &str) -> anyhow::Result<Selection<T>>
where
    T: FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    if text.trim() == "*" {
        return Ok(Selection::All);
    }
    Ok(Selection::Only(list(text, flag)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parse(words: &str) -> anyhow::Result<Redirect> {
        let words = words.split_whitespace().map(|word| if word == "''" { "" } else { word });
        Command::try_parse_from(["istio-iptables"].into_iter().chain(words))?.arguments.redirect()
    }

    #[test]
    fn flags() {
        let check = |name: &str, words: &str, expected: Redirect| {
            assert_eq!(parse(words).unwrap(), expected, "{name}");
        };
        check("none", "", Redirect::default());
        check(
            "as injected",
            "-p 15001 -z 15006 -u 1337 -m REDIRECT -i * -x '' -b * -d 15090,15021,15020 \
             --log_output_level=default:info",
            Redirect::default(),
        );
        check(
            "lists",
            "-u 1337,1338 -b 80,443 -i 10.0.0.0/8 -x 10.9.0.0/16,fd00::/8 -q 8443 -o 25,26 -c eth1 -k net0",
            Redirect {
                proxy_users: vec![1337, 1338],
                proxy_groups: vec![1337, 1338],
                inbound_ports: Selection::Only(vec![80, 443]),
                outbound_networks: Selection::Only(vec!["10.0.0.0/8".parse().unwrap()]),
                excluded_outbound_networks: vec!["10.9.0.0/16".parse().unwrap(), "fd00::/8".parse().unwrap()],
                outbound_ports: vec![8443],
                excluded_outbound_ports: vec![25, 26],
                excluded_interfaces: vec!["eth1".into()],
                virtual_interfaces: vec!["net0".into()],
                ..Redirect::default()
            },
        );
        check(
            "nothing in, nothing out",
            "-m NONE -i ''",
            Redirect {
                inbound_ports: Selection::Only(vec![]),
                outbound_networks: Selection::Only(vec![]),
                ..Redirect::default()
            },
        );
    }

    #[test]
    fn what_cannot_be_done_is_said() {
        let check = |words: &str, expected: &str| {
            let error = format!("{:#}", parse(words).unwrap_err());
            assert!(error.contains(expected), "{words}: {error}");
        };
        check("-m TPROXY", "not supported yet");
        check("-m OTHER", "REDIRECT");
        check("--redirect-dns", "not supported yet");
        check("-b 80,x", "\"x\" is not valid");
        check("-x 10.0.0.0/40", "-x");
    }
}
