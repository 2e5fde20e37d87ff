//! Clusters whose hosts are names: their addresses, kept up to date.

mod client;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use lateen_dataplane::cluster::{Assignment, Discovery, Dns, Endpoint, LookupFamily};
use lateen_dataplane::listener::Address;

use crate::state::ClusterHandle;

/// What was found of a name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// How long that is true, where the server says so.
    pub lifetime: Option<Duration>,
}

/// The addresses of a name, of the families that are wanted. An error is a failure to ask; a name that does not exist
/// has no address.
async fn lookup(dns: &Dns, name: &str) -> Result<Found, std::io::Error> {
    let ask = |v6: bool| client::lookup(dns, name, v6);
    match dns.family {
        LookupFamily::V4 => ask(false).await,
        LookupFamily::V6 => ask(true).await,
        LookupFamily::Automatic => prefer(ask(true).await, ask(false)).await,
        LookupFamily::V4Preferred => prefer(ask(false).await, ask(true)).await,
        LookupFamily::All => {
            let (v4, v6) = tokio::join!(ask(false), ask(true));
            let (mut v4, v6) = match (v4, v6) {
                (Ok(v4), Ok(v6)) => (v4, v6),
                (Ok(one), Err(_)) | (Err(_), Ok(one)) => return Ok(one),
                (Err(error), Err(_)) => return Err(error),
            };
            v4.addresses.extend(v6.addresses);
            v4.lifetime = [v4.lifetime, v6.lifetime].into_iter().flatten().min();
            Ok(v4)
        }
    }
}

async fn prefer(
    first: Result<Found, std::io::Error>,
    second: impl Future<Output = Result<Found, std::io::Error>>,
) -> Result<Found, std::io::Error> {
    match first {
        Ok(found) if !found.addresses.is_empty() => Ok(found),
        first => match second.await {
            Err(error) => first.map_err(|_| error),
            found => found,
        },
    }
}

/// The hosts of one endpoint of the configuration, as they are now.
async fn resolve(
    handle: &ClusterHandle,
    endpoint: &Endpoint,
    before: &[Endpoint],
) -> Result<(Vec<Endpoint>, Option<Duration>), ()> {
    let logical = handle.config.discovery == Discovery::LogicalDns;
    let name: Box<str> = match &endpoint.address {
        Address::Name(name, _) => (**name).into(),
        // An address is a name that has itself for an address.
        Address::Socket(address) => address.ip().to_string().into(),
        _ => return Ok((vec![endpoint.clone()], None)),
    };
    let hostname = if endpoint.hostname.is_empty() { name.clone() } else { endpoint.hostname.clone() };
    let Address::Name(_, port) = &endpoint.address else {
        return Ok((vec![Endpoint { hostname, ..endpoint.clone() }], None));
    };
    let mut found = match lookup(&handle.config.dns, &name).await {
        // A host has to have an address, even if that is the one of yesterday.
        Ok(found) if logical && found.addresses.is_empty() => Err(std::io::Error::other("no address")),
        found => found,
    }
    .map_err(|error| {
        tracing::debug!(cluster = %handle.config.name, %name, %error, "a name was not resolved");
    })?;
    let at = |address: &IpAddr| Address::Socket(SocketAddr::new(*address, *port));
    let endpoint = Endpoint { hostname, ..endpoint.clone() };
    if logical {
        // One host: its other addresses are tried where the first does not answer. Servers like to give addresses in
        // another order each time; the one in use stays the first, so that connections stay.
        let before = before.first().map(|host| &host.address);
        if let Some(place) = found.addresses.iter().position(|address| Some(&at(address)) == before) {
            found.addresses.swap(0, place);
        }
        let Some((first, others)) = found.addresses.split_first() else { return Err(()) };
        let mut others = others.to_vec();
        others.sort();
        let additional = (!others.is_empty()).then(|| others.iter().map(at).collect());
        return Ok((vec![Endpoint { address: at(first), additional, ..endpoint }], found.lifetime));
    }
    found.addresses.sort();
    found.addresses.dedup();
    let hosts = found.addresses.iter().map(|address| Endpoint { address: at(address), ..endpoint.clone() });
    Ok((hosts.collect(), found.lifetime))
}

/// Keeps the addresses of a cluster's names up to date, for as long as the cluster lives. `known` is called when the
/// hosts were asked for once.
pub async fn keep(cluster: Weak<ClusterHandle>, template: Assignment, known: impl Fn(&Arc<ClusterHandle>)) {
    let mut current: Vec<Vec<Endpoint>> = vec![Vec::new(); template.endpoints.len()];
    let mut first = true;
    let mut failures = 0;
    loop {
        let Some(handle) = cluster.upgrade() else { return };
        let (stats, members, control) = (&handle.balance_stats, &handle.membership, &handle.control);
        let (mut shortest, mut failed) = (None, false);
        for (at, endpoint) in template.endpoints.iter().enumerate() {
            control.increment(members.update_attempt);
            // A server that does not answer is no reason to forget the hosts.
            let Ok((hosts, lifetime)) = resolve(&handle, endpoint, &current[at]).await else {
                control.increment(stats.update_failure);
                failed = true;
                continue;
            };
            control.increment(members.update_success);
            shortest = [shortest, lifetime].into_iter().flatten().min();
            if hosts == current[at] {
                control.increment(stats.update_no_rebuild);
                continue;
            }
            current[at] = hosts;
            handle.set_hosts(&Assignment { endpoints: current.concat(), ..template.clone() });
        }
        if std::mem::take(&mut first) {
            known(&handle);
        }
        failures = if failed { failures + 1 } else { 0 };
        let pause = pause(&handle.config.dns, shortest, failures);
        drop(handle);
        tokio::time::sleep(pause).await;
    }
}

/// How long until the next round.
fn pause(dns: &Dns, lifetime: Option<Duration>, failures: u32) -> Duration {
    let pause = match (failures, dns.failure_refresh) {
        (1.., Some((base, longest))) => {
            // The time doubles with each failure, and is random so that not all come back at once.
            let bound = base.saturating_mul(1 << (failures - 1).min(16)).min(longest);
            return bound.mul_f64(rand::random_range(0.5..=1.0));
        }
        _ if dns.respect_ttl => lifetime.filter(|time| !time.is_zero()).unwrap_or(dns.refresh),
        _ => dns.refresh,
    };
    (pause + dns.jitter.mul_f64(rand::random())).max(Duration::from_millis(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses() {
        let seconds = Duration::from_secs;
        let plain = Dns { refresh: seconds(5), ..Dns::default() };
        let lifetime = Dns { respect_ttl: true, ..plain.clone() };
        let failing = Dns { failure_refresh: Some((seconds(1), seconds(6))), ..plain.clone() };
        let check = |name: &str, dns: &Dns, time: Option<u64>, failures: u32, from: u64, to: u64| {
            let pause = pause(dns, time.map(seconds), failures);
            assert!((seconds(from)..=seconds(to)).contains(&pause), "{name}: {pause:?}");
        };
        check("as configured", &plain, Some(60), 0, 5, 5);
        check("as the server says", &lifetime, Some(60), 0, 60, 60);
        check("the server does not say", &lifetime, None, 0, 5, 5);
        check("zero is no time", &lifetime, Some(0), 0, 5, 5);
        check("after a failure, without a rate of its own", &plain, None, 3, 5, 5);
        check("after a failure", &failing, None, 1, 0, 1);
        check("after three", &failing, None, 3, 2, 4);
        check("after many", &failing, None, 60, 3, 6);
        check("with jitter", &Dns { jitter: seconds(2), ..plain }, None, 0, 5, 7);
    }
}
