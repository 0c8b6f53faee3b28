use super::*;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_unix(1_800_000_000, 0).plus(Duration::from_secs(seconds))
}

fn timing(delay: u64, period: u64, successes: u32, failures: u32) -> Timing {
    Timing {
        initial_delay: Duration::from_secs(delay),
        period: Duration::from_secs(period),
        successes,
        failures,
    }
}

/// Runs `seconds` of virtual time; `answer` is asked for each probe that is made. Returns what happened and when.
fn live(
    health: &mut Health,
    seconds: std::ops::Range<u64>,
    mut answer: impl FnMut(Kind, u64) -> Outcome,
) -> Vec<(u64, Kind, Change)> {
    let mut seen = Vec::new();
    for second in seconds {
        for kind in health.take_due(at(second)) {
            let change = health.note(kind, answer(kind, second), at(second));
            seen.push((second, kind, change));
        }
    }
    seen
}

fn only_changes(seen: Vec<(u64, Kind, Change)>) -> Vec<(u64, Kind, Change)> {
    seen.into_iter().filter(|(_, _, change)| *change != Change::Nothing).collect()
}

#[test]
fn a_container_without_probes_is_started_and_ready_at_once() {
    let mut health = Health::fresh(&Declared::default(), at(0), 0.0);
    assert!(health.is_started() && health.is_ready());
    assert_eq!(health.next_due(), None);
}

#[test]
fn liveness_fails_after_as_many_failures_in_a_row_as_its_threshold() {
    let declared = Declared { liveness: Some(timing(5, 10, 1, 3)), ..Declared::default() };
    let mut health = Health::fresh(&declared, at(0), 0.0);
    assert_eq!(health.next_due(), Some(at(5)));
    // Two failures and a success in between start the count anew.
    let script = |_, second| match second {
        5 | 15 | 35 | 45 | 55 => Outcome::Failure,
        _ => Outcome::Success,
    };
    let seen = live(&mut health, 0..200, script);
    let times: Vec<u64> = seen.iter().map(|(second, ..)| *second).collect();
    assert_eq!(times, [5, 15, 25, 35, 45, 55], "its delay, its period, and nothing after the end");
    assert_eq!(only_changes(seen), [(55, Kind::Liveness, Change::Failed)]);
    assert!(!health.is_ready(), "a container that is about to be killed takes no requests");
}

#[test]
fn startup_holds_the_others_back() {
    let declared = Declared {
        startup: Some(timing(0, 2, 1, 30)),
        liveness: Some(timing(0, 5, 1, 1)),
        readiness: Some(timing(0, 5, 1, 1)),
        ..Declared::default()
    };
    let mut health = Health::fresh(&declared, at(0), 0.0);
    let seen = live(&mut health, 0..9, |kind, second| match (kind, second) {
        (Kind::Startup, 0..8) => Outcome::Failure,
        _ => Outcome::Success,
    });
    assert!(seen.iter().all(|(_, kind, _)| *kind == Kind::Startup), "{seen:?}");
    assert_eq!(seen.last(), Some(&(8, Kind::Startup, Change::Started)));
    assert!(health.is_started() && !health.is_ready());
    let seen = live(&mut health, 8..20, |_, _| Outcome::Success);
    assert!(seen.iter().all(|(_, kind, _)| *kind != Kind::Startup), "startup is over: {seen:?}");
    assert_eq!(only_changes(seen), [(8, Kind::Readiness, Change::Ready)]);
}

#[test]
fn a_startup_probe_that_never_succeeds_restarts_the_container() {
    let declared = Declared { startup: Some(timing(1, 3, 1, 4)), ..Declared::default() };
    let mut health = Health::fresh(&declared, at(0), 0.0);
    let seen = live(&mut health, 0..60, |_, _| Outcome::Failure);
    assert_eq!(only_changes(seen), [(10, Kind::Startup, Change::Failed)]);
}

#[test]
fn readiness_needs_its_successes_and_only_then_its_failures() {
    let declared = Declared { readiness: Some(timing(0, 10, 2, 3)), ..Declared::default() };
    let mut health = Health::fresh(&declared, at(0), 0.0);
    assert!(!health.is_ready());
    let seen = live(&mut health, 0..200, |_, second| match second {
        0..3 | 50..90 => Outcome::Failure,
        _ => Outcome::Success,
    });
    // Eagerly every second at first, then in its period.
    let times: Vec<u64> = seen.iter().map(|(second, ..)| *second).take(7).collect();
    assert_eq!(times, [0, 1, 2, 3, 13, 23, 33]);
    assert_eq!(
        only_changes(seen),
        [
            (13, Kind::Readiness, Change::Ready),
            (73, Kind::Readiness, Change::Unready),
            (103, Kind::Readiness, Change::Ready)
        ]
    );
}

#[test]
fn an_error_of_the_prober_counts_for_nothing() {
    let declared = Declared { liveness: Some(timing(0, 1, 1, 2)), ..Declared::default() };
    let mut health = Health::fresh(&declared, at(0), 0.0);
    let seen = live(&mut health, 0..20, |_, second| match second % 2 {
        0 => Outcome::Unknown,
        _ if second < 9 => Outcome::Success,
        _ => Outcome::Failure,
    });
    assert_eq!(only_changes(seen), [(11, Kind::Liveness, Change::Failed)]);
}

#[test]
fn after_an_outage_nothing_is_counted_that_happened_before_and_nobody_is_asked_at_once() {
    let declared = Declared {
        startup: Some(timing(0, 10, 1, 1)),
        liveness: Some(timing(0, 10, 1, 3)),
        readiness: Some(timing(0, 10, 1, 3)),
        ..Declared::default()
    };
    let mut health = Health::revived(&declared, at(0), true, true, at(3600), 0.5);
    assert!(health.is_started() && health.is_ready(), "what it was it still is");
    assert_eq!(health.take_due(at(3600)), []);
    assert_eq!(health.next_due(), Some(at(3605)));
    let seen = live(&mut health, 3600..3620, |_, _| Outcome::Failure);
    assert_eq!(only_changes(seen), [], "two failures are not three");
}

#[test]
fn a_pod_that_leaves_is_asked_for_readiness_only_and_restarts_nothing() {
    let declared = Declared {
        liveness: Some(timing(0, 1, 1, 1)),
        readiness: Some(timing(0, 1, 1, 1)),
        ..Declared::default()
    };
    let mut health = Health::revived(&declared, at(0), true, true, at(0), 0.0);
    assert_eq!(health.take_due(at(0)), [Kind::Liveness, Kind::Readiness]);
    health.leave();
    // The one that was under way comes back.
    assert_eq!(health.note(Kind::Liveness, Outcome::Failure, at(0)), Change::Nothing);
    assert_eq!(health.note(Kind::Readiness, Outcome::Failure, at(0)), Change::Unready);
    let seen = live(&mut health, 1..5, |_, _| Outcome::Failure);
    assert!(seen.iter().all(|(_, kind, _)| *kind == Kind::Readiness), "{seen:?}");
}

#[test]
fn a_probe_is_never_made_twice_at_a_time_and_what_was_missed_is_not_made_up_for() {
    let declared = Declared { liveness: Some(timing(0, 1, 1, 3)), ..Declared::default() };
    let mut health = Health::fresh(&declared, at(0), 0.0);
    assert_eq!(health.take_due(at(0)), [Kind::Liveness]);
    assert_eq!(health.take_due(at(30)), [], "it is under way");
    assert_eq!(health.next_due(), None);
    health.note(Kind::Liveness, Outcome::Success, at(30));
    assert_eq!(health.take_due(at(30)), []);
    assert_eq!(health.next_due(), Some(at(31)));
}

#[test]
fn a_clock_that_is_set_back_silences_no_probe() {
    let declared = Declared { liveness: Some(timing(0, 10, 1, 3)), ..Declared::default() };
    let mut health = Health::fresh(&declared, at(100_000), 0.0);
    assert_eq!(health.take_due(at(100_000)), [Kind::Liveness]);
    health.note(Kind::Liveness, Outcome::Success, at(100_000));
    assert_eq!(health.take_due(at(50)), [Kind::Liveness]);
    health.note(Kind::Liveness, Outcome::Success, at(50));
    assert_eq!(health.next_due(), Some(at(60)));
}

#[test]
fn ports_are_awaited_only_without_a_readiness_probe_and_after_startup() {
    let declared =
        Declared { startup: Some(timing(0, 1, 1, 9)), awaits_ports: true, ..Declared::default() };
    let mut health = Health::fresh(&declared, at(0), 0.0);
    assert!(!health.take_awaited() && !health.is_ready());
    live(&mut health, 0..1, |_, _| Outcome::Success);
    assert!(health.take_awaited() && !health.is_ready());
    assert!(!health.take_awaited(), "one look-out is enough");
    health.ports_open();
    assert!(health.is_ready());

    let probed = Declared { readiness: Some(timing(0, 1, 1, 1)), ..declared };
    let mut health = Health::revived(&probed, at(0), true, false, at(0), 0.0);
    assert!(!health.take_awaited());
    health.ports_open();
    assert!(!health.is_ready());
}

#[test]
fn periods_of_many_containers_drift_apart_by_a_tenth_at_most() {
    let declared = Declared { liveness: Some(timing(0, 10, 1, 3)), ..Declared::default() };
    for phase in [0.0, 0.3, 0.99] {
        let mut health = Health::fresh(&declared, at(0), phase);
        assert_eq!(health.take_due(at(0)), [Kind::Liveness], "the first is made when it is due");
        health.note(Kind::Liveness, Outcome::Success, at(0));
        let next = health.next_due().unwrap().since(at(0)).as_secs_f64();
        assert!((9.0..=10.0).contains(&next), "{next}");
    }
}

#[test]
fn the_initial_delay_of_a_container_outlives_the_daemon() {
    let declared = Declared { liveness: Some(timing(60, 10, 1, 3)), ..Declared::default() };
    let mut health = Health::revived(&declared, at(0), true, true, at(20), 0.5);
    assert_eq!(health.next_due(), Some(at(60)));
    assert!(health.take_due(at(59)).is_empty());
    assert_eq!(health.take_due(at(60)), [Kind::Liveness]);
}
