//! Sidecars (KEP-753): when they start, what waits for them, when they end.

use super::*;

/// `i`, the sidecar `s`, `j`, the sidecar `t`, then `a`.
fn pod(restart: RestartPolicy) -> Want {
    Want {
        sidecars: ["s", "t"].map(str::to_owned).into(),
        ..want(&["i", "s", "j", "t"], &["a"], restart)
    }
}

fn starting(attempt: u32) -> Run {
    Run::Running(Running { started: false, ready: false, ..Running::new(attempt, at(0)) })
}

fn done() -> Run {
    ended(0, 0, at(0))
}

fn starts(name: &str) -> Next {
    Next::Do(Step::Start(name.into()))
}

#[test]
fn those_behind_a_sidecar_wait_until_it_has_started_and_not_until_it_has_ended() {
    let want = pod(RestartPolicy::Always);
    let check = |runs: &[(&str, Run)], expected: Next| {
        assert_eq!(next(&up(&want, runs), &want, at(1)), expected, "{runs:?}");
    };
    let mut all =
        [("i", Run::Idle), ("s", Run::Idle), ("j", Run::Idle), ("t", Run::Idle), ("a", Run::Idle)];
    check(&all, starts("i"));
    all[0].1 = done();
    check(&all, starts("s"));
    all[1].1 = starting(0);
    check(&all, Next::Settled);
    all[1].1 = running(0);
    check(&all, starts("j"));
    all[2].1 = running(0);
    check(&all, Next::Settled);
    all[2].1 = done();
    check(&all, starts("t"));
    all[3].1 = running(0);
    check(&all, starts("a"));
    all[4].1 = running(0);
    check(&all, Next::Settled);
}

#[test]
fn a_sidecar_starts_again_whatever_its_end_and_the_policy_of_its_pod() {
    for policy in [RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::Never] {
        for code in [0, 1] {
            let want = pod(policy);
            let gone = ended(0, code, at(0));
            // Before the others have started …
            let early = up(&want, &[("i", done()), ("s", gone.clone()), ("j", running(0))]);
            assert_eq!(next(&early, &want, at(1)), starts("s"), "{policy:?} {code}");
            // … and beside them.
            let late = up(
                &want,
                &[("i", done()), ("s", gone), ("j", done()), ("t", running(0)), ("a", running(0))],
            );
            assert_eq!(next(&late, &want, at(1)), starts("s"), "{policy:?} {code}");
        }
    }
}

#[test]
fn a_sidecar_that_is_down_holds_what_has_not_started_back_and_nothing_else() {
    let want = pod(RestartPolicy::Always);
    let mut state = up(
        &want,
        &[("i", done()), ("s", running(0)), ("j", done()), ("t", starting(1)), ("a", Run::Idle)],
    );
    assert_eq!(next(&state, &want, at(1)), Next::Settled);
    assert!(!initialized(&state, &want));
    state.containers.get_mut("a").unwrap().run = ended(0, 1, at(0));
    assert_eq!(next(&state, &want, at(1)), starts("a"), "it has started once");
    assert!(initialized(&state, &want));
}

#[test]
fn a_pod_is_over_when_its_containers_are_and_then_its_sidecars_end() {
    let want = pod(RestartPolicy::Never);
    let mut state = up(
        &want,
        &[
            ("i", done()),
            ("s", running(0)),
            ("j", done()),
            ("t", ended(3, 1, at(0))),
            ("a", done()),
        ],
    );
    let over = Next::Do(Step::Conclude(Outcome::Succeeded));
    assert_eq!(next(&state, &want, at(1)), over);
    state.outcome = Some(Outcome::Succeeded);
    state.concluded_stop_by = Some(at(30));
    state.leaving = Leaving::Drained;
    assert_eq!(next(&state, &want, at(1)), Next::Do(Step::Stop("s".into())));
    state.containers.get_mut("s").unwrap().run = ended(0, 0, at(2));
    assert_eq!(next(&state, &want, at(2)), Next::Do(Step::RemoveShim));
}

#[test]
fn sidecars_end_after_the_containers_the_last_one_first() {
    let mut want = pod(RestartPolicy::Always);
    want.stop_by = Some(at(30));
    let mut state = up(
        &want,
        &[("i", done()), ("s", running(0)), ("j", done()), ("t", running(0)), ("a", running(0))],
    );
    state.leaving = Leaving::Drained;
    for name in ["a", "t", "s"] {
        assert_eq!(next(&state, &want, at(1)), Next::Do(Step::Stop(name.into())));
        if let Run::Running(running) = &mut state.containers.get_mut(name).unwrap().run {
            running.stopped_at = Some(at(1));
        }
        assert_eq!(next(&state, &want, at(1)), Next::Wait { until: at(30) }, "{name} has time");
        state.containers.get_mut(name).unwrap().run = ended(0, 0, at(2));
    }
    assert_eq!(next(&state, &want, at(2)), Next::Do(Step::RemoveShim));
}

#[test]
fn a_sidecar_whose_turn_never_came_hears_the_signal_and_has_two_seconds() {
    let mut want = pod(RestartPolicy::Always);
    want.stop_by = Some(at(30));
    let mut stubborn = Running::new(0, at(0));
    stubborn.stopped_at = Some(at(1));
    stubborn.killed_at = Some(at(30));
    let mut state = up(
        &want,
        &[
            ("i", done()),
            ("s", running(0)),
            ("j", done()),
            ("t", done()),
            ("a", Run::Running(stubborn)),
        ],
    );
    state.leaving = Leaving::Drained;
    assert_eq!(next(&state, &want, at(30)), Next::Do(Step::Stop("s".into())));
    if let Run::Running(running) = &mut state.containers.get_mut("s").unwrap().run {
        running.stopped_at = Some(at(30));
    }
    assert_eq!(next(&state, &want, at(31)), Next::Wait { until: at(32) });
    assert_eq!(next(&state, &want, at(32)), Next::Do(Step::Kill("s".into())));
}

#[test]
fn after_a_reboot_everything_starts_in_order_again() {
    let want = pod(RestartPolicy::Always);
    let mut state = up(
        &want,
        &[("i", done()), ("s", ended(4, 137, at(0))), ("j", done()), ("t", done()), ("a", done())],
    );
    for name in ["i", "s", "j", "t"] {
        let Run::Ended(ended) = &state.containers[name].run else { panic!("it has ended") };
        state.stale_init.insert(name.into(), ended.clone());
    }
    for name in ["i", "s", "j", "t"] {
        assert_eq!(next(&state, &want, at(60)), starts(name));
        let run = match want.sidecars.contains(name) {
            true => running(5),
            false => ended(1, 0, at(60)),
        };
        state.containers.get_mut(name).unwrap().run = run;
    }
    assert_eq!(next(&state, &want, at(60)), starts("a"));
}
