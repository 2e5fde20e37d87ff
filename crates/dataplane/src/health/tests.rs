use super::*;
use crate::listener::Address;
use rand::SeedableRng;
use rand::rngs::SmallRng;

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn check(healthy_threshold: u32, unhealthy_threshold: u32) -> HealthCheck {
    HealthCheck {
        kind: CheckKind::Tcp { send: None, receive: Vec::new() },
        timeout: seconds(1),
        timing: Timing {
            interval: seconds(1),
            unhealthy: seconds(2),
            unhealthy_edge: seconds(3),
            healthy_edge: seconds(4),
            no_traffic: seconds(5),
            no_traffic_healthy: seconds(6),
            initial_jitter: Duration::ZERO,
            jitter: Duration::ZERO,
            jitter_percent: 0,
        },
        unhealthy_threshold,
        healthy_threshold,
        reuse_connection: true,
        event_log: None,
        log_failures: false,
        log_successes: false,
    }
}

fn unchecked_host() -> Host {
    let host = Host::new(Address::Socket(([127, 0, 0, 1], 1).into()), "");
    host.set_flags(HealthFlags::FAILED_ACTIVE.and(HealthFlags::PENDING_ACTIVE), true);
    host
}

const GOOD: Verdict = Verdict::Success { degraded: false };

#[test]
fn histories_of_one_host() {
    // Verdict, what changed, whether the host is healthy then, and the seconds to the next check.
    type Step = (Verdict, Change, bool, u64);
    let run = |name: &str, steps: &[Step]| {
        let (check, host) = (check(2, 3), unchecked_host());
        let mut random = SmallRng::seed_from_u64(1);
        let mut session = Session::default();
        for (at, (verdict, change, healthy, next)) in steps.iter().enumerate() {
            let consequence = session.note(&check, &host, *verdict, true, seconds(9), &mut random);
            assert_eq!(consequence.change, *change, "{name}, step {at}");
            assert_eq!(host.health() == crate::cluster::Health::Healthy, *healthy, "{name}, step {at}");
            assert_eq!(consequence.next, seconds(*next), "{name}, step {at}");
            assert_eq!(consequence.first, at == 0, "{name}, step {at}");
        }
    };
    use Change::{Changed, None, Pending};
    use Verdict::{Failure, NetworkFailure, RetriableFailure, Timeout};
    run("one success is enough at first", &[(GOOD, Changed, true, 1), (GOOD, None, true, 1)]);
    run(
        "later it takes the threshold",
        &[(NetworkFailure, Changed, false, 2), (GOOD, Pending, false, 4), (GOOD, Changed, true, 1)],
    );
    run(
        "failures of the network take theirs",
        &[
            (GOOD, Changed, true, 1),
            (NetworkFailure, Pending, true, 3),
            (Timeout, Pending, true, 3),
            (RetriableFailure, Changed, false, 2),
        ],
    );
    run(
        "a success between",
        &[
            (GOOD, Changed, true, 1),
            (Timeout, Pending, true, 3),
            (Timeout, Pending, true, 3),
            (GOOD, None, true, 1),
            (Timeout, Pending, true, 3),
        ],
    );
    run("the host says so itself", &[(GOOD, Changed, true, 1), (Failure, Changed, false, 2)]);
}

#[test]
fn slower_without_traffic_and_with_jitter() {
    let mut check = check(1, 1);
    let mut random = SmallRng::seed_from_u64(1);
    let mut session = Session::default();
    let host = unchecked_host();
    let mut next = |check: &HealthCheck, verdict, traffic| {
        session.note(check, &host, verdict, traffic, seconds(1), &mut random).next
    };
    assert_eq!(next(&check, GOOD, false), seconds(6));
    assert_eq!(next(&check, Verdict::Failure, false), seconds(5));
    check.timing.jitter = seconds(2);
    check.timing.jitter_percent = 100;
    let waits: Vec<Duration> = (0..500).map(|_| next(&check, GOOD, true)).collect();
    assert!(waits.iter().all(|wait| (seconds(1)..seconds(4)).contains(wait)), "{waits:?}");
    assert!(waits.iter().any(|wait| *wait > Duration::from_millis(3300)), "both kinds of jitter add up");
}

#[test]
fn degraded_timed_out_and_back() {
    let (check, host) = (check(1, 1), unchecked_host());
    let mut random = SmallRng::seed_from_u64(1);
    let mut session = Session::default();
    let mut note = |verdict| session.note(&check, &host, verdict, true, seconds(7), &mut random).change;
    assert_eq!(note(Verdict::Success { degraded: true }), Change::Changed);
    assert_eq!(host.flags().text(), "/degraded_active_hc");
    assert_eq!(note(Verdict::Timeout), Change::Changed);
    assert_eq!(host.flags().text(), "/failed_active_hc/degraded_active_hc/active_hc_timeout");
    assert_eq!(note(GOOD), Change::Changed);
    assert_eq!(host.flags().text(), "healthy");
    assert_eq!(host.healthy_for(seconds(10)), seconds(3));
}

/// Whatever the verdicts: the host is healthy exactly when its last run of successes (or the first check) brought it
/// there and no run of failures took it away.
#[test]
fn random_histories_agree_with_counting() {
    for seed in 0..300 {
        let mut random = SmallRng::seed_from_u64(seed);
        let check = check(random.random_range(1..5), random.random_range(1..5));
        let host = unchecked_host();
        let mut session = Session::default();
        let (mut healthy, mut run, mut last) = (false, 0, None);
        for step in 0..100 {
            let good = random.random_bool(0.5);
            let verdict = if good { GOOD } else { Verdict::NetworkFailure };
            run = if last == Some(good) { run + 1 } else { 1 };
            last = Some(good);
            session.note(&check, &host, verdict, true, seconds(1), &mut random);
            if good && (step == 0 || run >= check.healthy_threshold) {
                healthy = true;
            } else if !good && run >= check.unhealthy_threshold {
                healthy = false;
            }
            assert_eq!(!host.flags().any(HealthFlags::FAILED_ACTIVE), healthy, "seed {seed}, step {step}");
        }
    }
}

#[test]
fn bodies_have_their_parts_in_order() {
    let check = |text: &str, parts: &[&str], expect: bool| {
        let parts: Vec<bytes::Bytes> =
            parts.iter().map(|part| bytes::Bytes::copy_from_slice(part.as_bytes())).collect();
        assert_eq!(contains_in_order(text.as_bytes(), &parts), expect, "{text} {parts:?}");
    };
    check("abcdef", &[], true);
    check("abcdef", &["b", "ef"], true);
    check("abcdef", &["ef", "b"], false);
    check("aba", &["ab", "ba"], false);
}
