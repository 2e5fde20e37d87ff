//! Who writes what must be written once: the replica that holds a Lease.
//!
//! The rules are those of Kubernetes' own components
//! (<https://kubernetes.io/docs/concepts/architecture/leases/#leader-election>): the holder renews; another takes the
//! Lease over when it has seen no renewal for as long as the Lease says, measured on its own clock, so that clocks need
//! not agree; a holder that cannot renew in time counts itself out before others may count it out.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, PostParams};
use lateen_base::drain;
use tokio::sync::watch;
use tokio::time::Instant;

/// How patient the candidates are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    /// Without a renewal for so long the Lease is free.
    pub(crate) lease: Duration,
    /// Without success for so long the holder steps back; less than `lease`.
    pub(crate) renew_deadline: Duration,
    /// Between two attempts.
    pub(crate) retry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// Whether this replica leads. Clones share.
#[derive(Debug, Clone)]
pub(crate) struct Leadership {
    leads: watch::Receiver<bool>,
}

impl Leadership {
    /// Whether it leads now.
    pub(crate) fn leads(&self) -> bool {
        *self.leads.borrow()
    }

    /// Waits until it leads; for ever if it never will.
    pub(crate) async fn gained(&mut self) {
        if self.leads.wait_for(|leads| *leads).await.is_err() {
            std::future::pending().await
        }
    }

    /// Waits until it leads no longer.
    pub(crate) async fn lost(&mut self) {
        // An error means that the candidate has gone, and with it the leadership.
        let _ = self.leads.wait_for(|leads| !*leads).await;
    }
}

/// One replica that would lead.
pub(crate) struct Candidate {
    leases: Api<Lease>,
    name: String,
    identity: String,
    timing: Timing,
    /// The record seen last, and since when it has been so.
    seen: Option<(LeaseSpec, Instant)>,
}

/// What to do with a Lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    /// There is none: make it.
    Create,
    /// It is ours: say that we live.
    Renew,
    /// It is nobody's, or its holder has gone.
    Take,
    /// Somebody else holds it.
    Wait,
}

/// The rule of the election: `quiet` is how long the record has been the same.
fn decide(record: Option<&LeaseSpec>, identity: &str, quiet: Duration) -> Decision {
    let Some(record) = record else { return Decision::Create };
    let holder = record.holder_identity.as_deref().unwrap_or_default();
    let patience =
        Duration::from_secs(record.lease_duration_seconds.unwrap_or(0).max(0).unsigned_abs().into());
    match holder {
        holder if holder == identity => Decision::Renew,
        "" => Decision::Take,
        _ if quiet >= patience => Decision::Take,
        _ => Decision::Wait,
    }
}

/// Stands for election until the drain begins; then the Lease is given back, so that another need not wait.
pub(crate) fn elect(
    client: &Client,
    namespace: &str,
    name: &str,
    identity: &str,
    timing: Timing,
    drain: drain::Watch,
) -> Leadership {
    let candidate = Candidate {
        leases: Api::namespaced(client.clone(), namespace),
        name: name.to_owned(),
        identity: identity.to_owned(),
        timing,
        seen: None,
    };
    let (leads, receiver) = watch::channel(false);
    tokio::spawn(candidate.run(leads, drain));
    Leadership { leads: receiver }
}

impl Candidate {
    async fn run(mut self, leads: watch::Sender<bool>, drain: drain::Watch) {
        let mut renewed = Instant::now();
        let mut failing = false;
        loop {
            let attempt = tokio::time::timeout(self.timing.renew_deadline, self.attempt());
            let outcome = tokio::select! {
                outcome = attempt => outcome,
                () = drain.signaled() => break,
            };
            let held = match outcome {
                Ok(Ok(held)) => {
                    failing = false;
                    held
                }
                failure => {
                    // Said once for each outage: the attempts go on for as long as it takes.
                    if !std::mem::replace(&mut failing, true) {
                        let reason = failure.map_or("no answer in time".to_owned(), |result| {
                            result.err().map(|error| error.to_string()).unwrap_or_default()
                        });
                        tracing::warn!(lease = self.name, "the Lease cannot be read or written: {reason}");
                    }
                    *leads.borrow() && renewed.elapsed() < self.timing.renew_deadline
                }
            };
            if held && !failing {
                renewed = Instant::now();
            }
            self.tell(&leads, held);
            tokio::select! {
                () = tokio::time::sleep(self.timing.retry) => {}
                () = drain.signaled() => break,
            }
        }
        if *leads.borrow() {
            self.tell(&leads, false);
            // Standalone, the API server ends at the same time: the Lease runs out by itself then.
            if let Err(error) = self.release().await {
                tracing::debug!(lease = self.name, "the Lease was not given back: {error}");
            }
        }
    }

    fn tell(&self, leads: &watch::Sender<bool>, held: bool) {
        leads.send_if_modified(|leads| {
            if *leads == held {
                return false;
            }
            tracing::info!(lease = self.name, identity = self.identity, leads = held, "leadership changed");
            *leads = held;
            true
        });
    }

    /// One round: whether the Lease is ours after it.
    async fn attempt(&mut self) -> kube::Result<bool> {
        let present = self.leases.get_opt(&self.name).await?;
        let record = present.as_ref().and_then(|lease| lease.spec.as_ref());
        let quiet = self.quiet(record);
        let decision = decide(record, &self.identity, quiet);
        let now = MicroTime(Timestamp::now());
        let mut spec = record.cloned().unwrap_or_default();
        if decision != Decision::Renew {
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(-1) + 1);
        }
        spec.holder_identity = Some(self.identity.clone());
        // The API knows whole seconds only, and zero would mean that nobody ever holds it.
        spec.lease_duration_seconds = Some(self.timing.lease.as_secs().max(1).try_into().unwrap_or(i32::MAX));
        spec.renew_time = Some(now);
        let written = match (decision, present) {
            (Decision::Wait, _) => return Ok(false),
            (_, None) => {
                let mut lease = Lease { spec: Some(spec), ..Lease::default() };
                lease.metadata.name = Some(self.name.clone());
                self.leases.create(&PostParams::default(), &lease).await
            }
            (_, Some(lease)) => {
                // Carries the version that was read: of two who take it at once, one fails.
                let lease = Lease { spec: Some(spec), ..lease };
                self.leases.replace(&self.name, &PostParams::default(), &lease).await
            }
        };
        match written {
            Ok(lease) => {
                self.quiet(lease.spec.as_ref());
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// How long the record has been as it is, by this replica's clock.
    fn quiet(&mut self, record: Option<&LeaseSpec>) -> Duration {
        let Some(record) = record else {
            self.seen = None;
            return Duration::ZERO;
        };
        match &self.seen {
            Some((seen, since)) if seen == record => since.elapsed(),
            _ => {
                self.seen = Some((record.clone(), Instant::now()));
                Duration::ZERO
            }
        }
    }

    async fn release(&self) -> kube::Result<()> {
        let Some(mut lease) = self.leases.get_opt(&self.name).await? else { return Ok(()) };
        let Some(spec) = lease.spec.as_mut() else { return Ok(()) };
        if spec.holder_identity.as_deref() != Some(&self.identity) {
            return Ok(());
        }
        spec.holder_identity = Some(String::new());
        self.leases.replace(&self.name, &PostParams::default(), &lease).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(holder: &str, seconds: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(seconds),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn decisions() {
        for (name, record, quiet, expected) in [
            ("no lease", None, 0, Decision::Create),
            ("ours", Some(record("me", 15)), 100, Decision::Renew),
            ("given back", Some(record("", 15)), 0, Decision::Take),
            ("somebody's", Some(record("you", 15)), 14, Decision::Wait),
            ("somebody's who has gone", Some(record("you", 15)), 15, Decision::Take),
            (
                "without a duration",
                Some(LeaseSpec { lease_duration_seconds: None, ..record("you", 0) }),
                0,
                Decision::Take,
            ),
        ] {
            assert_eq!(decide(record.as_ref(), "me", Duration::from_secs(quiet)), expected, "{name}");
        }
    }

    /// Quick, and still patient enough for a busy machine.
    const TIMING: Timing = Timing {
        lease: Duration::from_secs(3),
        renew_deadline: Duration::from_secs(2),
        retry: Duration::from_millis(100),
    };

    async fn soon<T>(what: &str, wait: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(60), wait)
            .await
            .unwrap_or_else(|_| panic!("in vain: {what}"))
    }

    #[tokio::test]
    async fn one_leads_and_another_follows_when_it_goes() {
        let api = crate::testing::api().await;
        let stand = |identity: &str, drain| elect(&api.client, "default", "leader", identity, TIMING, drain);
        let (first_trigger, drain) = drain::channel();
        let mut first = stand("first", drain);
        soon("the first leads", first.gained()).await;
        let (_second_trigger, drain) = drain::channel();
        let mut second = stand("second", drain);
        // The second has looked at the Lease by the time that the first has renewed it.
        let leases: Api<Lease> = Api::namespaced(api.client.clone(), "default");
        let renewed = || async { leases.get("leader").await.unwrap().spec.unwrap().renew_time };
        let before = renewed().await;
        soon("a renewal", async {
            while renewed().await == before {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        assert!(!*second.leads.borrow() && *first.leads.borrow());

        soon("the first ends", first_trigger.drain(Duration::from_secs(30))).await;
        soon("the first knows", first.lost()).await;
        soon("the second leads", second.gained()).await;
        let spec = leases.get("leader").await.unwrap().spec.unwrap();
        assert_eq!((spec.holder_identity.as_deref(), spec.lease_transitions), (Some("second"), Some(1)));
    }

    #[tokio::test]
    async fn a_holder_that_vanished_is_replaced() {
        let api = crate::testing::api().await;
        let leases: Api<Lease> = Api::namespaced(api.client.clone(), "default");
        let mut lease = Lease { spec: Some(record("gone", 1)), ..Lease::default() };
        lease.metadata.name = Some("leader".to_owned());
        leases.create(&PostParams::default(), &lease).await.unwrap();
        let (_trigger, drain) = drain::channel();
        let mut next = elect(&api.client, "default", "leader", "next", TIMING, drain);
        soon("the next leads", next.gained()).await;
    }
}
