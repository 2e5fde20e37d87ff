//! Localities: their weights, and routing to our own zone first.
//!
//! Source: Envoy's pages "Locality weighted load balancing" and "Zone aware routing".

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;

use super::config::BalancePolicy;
use super::group::Group;
use super::schedule::Schedule;
use super::{Loads, Notes, Surroundings};
use crate::cluster::{Health, HostSet, Locality, Member};

/// The members of a level by locality, in the order of their first mention, our own first.
pub(super) fn by_locality<'a>(
    members: &[&'a Member],
    own: Option<&Locality>,
) -> Vec<(Arc<Locality>, Vec<&'a Member>)> {
    let mut out: Vec<(Arc<Locality>, Vec<&Member>)> = Vec::new();
    for member in members {
        match out.iter_mut().find(|(locality, _)| *locality == member.locality) {
            Some((_, members)) => members.push(member),
            None => out.push((Arc::clone(&member.locality), vec![member])),
        }
    }
    if let Some(own) = own
        && let Some(at) = out.iter().position(|(locality, _)| **locality == *own)
    {
        out[..=at].rotate_right(1);
    }
    out
}

/// Hosts of one kind by locality, which take turns by the localities' weights.
#[derive(Debug)]
pub(super) struct WeightedLocalities {
    groups: Vec<Group>,
    weights: Vec<f64>,
    schedule: Schedule,
}

impl WeightedLocalities {
    /// None where no locality has a weight and such a host.
    pub(super) fn new(
        policy: &BalancePolicy,
        members: &[&Member],
        overprovisioning: u32,
        wanted: impl Fn(&Member) -> bool,
        now: Duration,
        random: &mut impl Rng,
    ) -> Option<Self> {
        let mut groups = Vec::new();
        let mut weights = Vec::new();
        for (_, members) in by_locality(members, None) {
            weights.push(effective_weight(&members, overprovisioning, &wanted));
            groups.push(Group::new(policy, members.into_iter().filter(|member| wanted(member)), now, random));
        }
        if weights.iter().all(|weight| *weight <= 0.0) {
            return None;
        }
        let schedule = Schedule::new(weights.iter().copied(), random);
        Some(Self { groups, weights, schedule })
    }

    pub(super) fn next(&mut self) -> Option<&mut Group> {
        let weights = &self.weights;
        let index = self.schedule.next(|index| weights[index])?;
        self.groups.get_mut(index)
    }
}

/// A locality's weight, less what its health takes off.
fn effective_weight(members: &[&Member], overprovisioning: u32, wanted: impl Fn(&Member) -> bool) -> f64 {
    let counted = members.iter().filter(|member| !member.excluded).count();
    let usable = members.iter().filter(|member| wanted(member)).count();
    let weight = members.first().and_then(|member| member.locality_weight).unwrap_or(0);
    if counted == 0 || usable == 0 {
        return 0.0;
    }
    let available = usable as f64 / counted as f64 * f64::from(overprovisioning) / 100.0;
    f64::from(weight) * available.min(1.0)
}

/// How requests of the first level are spread over zones.
#[derive(Debug)]
pub(super) struct ZoneRouting {
    /// Healthy hosts and degraded ones by zone, our own first.
    groups: [Vec<Group>; 2],
    /// The share that stays here, in 1/10000; above that is everything.
    local_share: u64,
    /// What other zones can take beyond what their own clients send, summed up.
    residual: Vec<u64>,
}

/// Why zones do not count, or how they do.
#[derive(Debug)]
pub(super) enum ZoneState {
    /// All hosts alike.
    Off,
    /// Our own cluster is in panic: nothing is known of how many there are in each zone.
    LocalPanic,
    /// By zones.
    On(ZoneRouting),
}

/// Why requests to these hosts cannot go by zones, as far as that does not change from request to request. What is noted
/// is counted when hosts change, not for every request.
pub(super) fn unfit_for_zones(
    members: &[&Member],
    minimum: u64,
    force: bool,
    own: &Locality,
    local: &HostSet,
) -> Option<Notes> {
    if by_locality(members, Some(own)).len() < 2 {
        return Some(Notes::default());
    }
    let local: Vec<&Member> = local.priorities.first().into_iter().flatten().collect();
    let zones = by_locality(&local, Some(own));
    if zones.len() < 2 && !force {
        return Some(Notes::default());
    }
    if zones.first().is_none_or(|(locality, _)| **locality != *own) {
        return Some(Notes::LOCAL_CLUSTER_NOT_OK);
    }
    let healthy = members.iter().filter(|member| member.health == Health::Healthy).count();
    ((healthy as u64) < minimum).then_some(Notes::ZONE_CLUSTER_TOO_SMALL)
}

/// The hosts of a locality of a certain health.
fn only(members: &[&Member], health: Health) -> u64 {
    members.iter().filter(|member| member.health == health).count() as u64
}

impl ZoneRouting {
    /// The routing of a level, if there are enough hosts and zones.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn decide(
        policy: &BalancePolicy,
        members: &[&Member],
        (minimum, force): (u64, bool),
        panic_threshold: u32,
        around: &Surroundings<'_>,
        now: Duration,
        random: &mut impl Rng,
    ) -> ZoneState {
        let (Some(own), Some(local)) = (around.locality, around.local_cluster) else {
            return ZoneState::Off;
        };
        if unfit_for_zones(members, minimum, force, own, local).is_some() {
            return ZoneState::Off;
        }
        let zones = by_locality(members, Some(own));
        let local: Vec<&Member> = local.priorities.first().into_iter().flatten().collect();
        if Loads::is_in_panic(&local, panic_threshold) {
            return ZoneState::LocalPanic;
        }
        let local_counts: Vec<u64> = zones
            .iter()
            .map(|(locality, _)| {
                let here = local.iter().filter(|member| *member.locality == **locality);
                here.filter(|member| member.health == Health::Healthy).count() as u64
            })
            .collect();
        let healthy: Vec<u64> = zones.iter().map(|(_, members)| only(members, Health::Healthy)).collect();
        let total: u64 = healthy.iter().sum();
        let local_total = only(&local, Health::Healthy);
        let shares: Vec<(u64, u64)> = healthy
            .iter()
            .zip(&local_counts)
            .map(|(hosts, clients)| match hosts {
                0 => (0, 0),
                hosts => (10_000 * clients / local_total.max(1), 10_000 * hosts / total.max(1)),
            })
            .collect();
        let ours = *zones[0].0 == *own;
        let local_share = match shares[0] {
            (clients, hosts) if ours && hosts > 0 && (hosts >= clients || force) => 10_000,
            (clients, hosts) if ours && clients > 0 => hosts * 10_000 / clients,
            _ => 0,
        };
        let mut sum = 0;
        let first_other = usize::from(ours);
        let residual = shares
            .iter()
            .enumerate()
            .map(|(zone, (clients, hosts))| {
                if zone >= first_other {
                    sum += hosts.saturating_sub(*clients);
                }
                sum
            })
            .collect();
        let of = |health: Health| {
            let groups = zones.iter().map(|(_, members)| {
                let members = members.iter().copied().filter(|member| member.health == health);
                Group::new(policy, members, now, random)
            });
            groups.collect::<Vec<Group>>()
        };
        let groups = [Health::Healthy, Health::Degraded].map(of);
        ZoneState::On(Self { groups, local_share, residual })
    }

    pub(super) fn next(
        &mut self,
        degraded: bool,
        random: &mut impl Rng,
        notes: &mut Notes,
    ) -> Option<&mut Group> {
        let zone = if self.local_share >= 10_000 {
            notes.add(Notes::ZONE_ALL_DIRECTLY);
            0
        } else if random.random_range(0..10_000) < self.local_share {
            notes.add(Notes::ZONE_SAMPLED);
            0
        } else {
            notes.add(Notes::ZONE_CROSS);
            match self.residual.last() {
                Some(0) | None => {
                    notes.add(Notes::ZONE_NO_CAPACITY);
                    random.random_range(0..self.residual.len())
                }
                Some(total) => {
                    let number = random.random_range(0..*total);
                    self.residual.iter().position(|sum| number < *sum)?
                }
            }
        };
        self.groups[usize::from(degraded)].get_mut(zone)
    }
}
