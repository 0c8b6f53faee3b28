//! The lifecycle against a simulated node: tables for single answers, properties for whole lives.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::node::restart;

mod sidecars;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix(1_000_000 + seconds, 0)
}

fn want(init: &[&str], containers: &[&str], restart: RestartPolicy) -> Want {
    Want {
        init: init.iter().map(|s| (*s).into()).collect(),
        sidecars: BTreeSet::new(),
        containers: containers.iter().map(|s| (*s).into()).collect(),
        restart,
        host_network: false,
        active_until: None,
        stop_by: None,
    }
}

fn fresh(want: &Want) -> PodState {
    PodState {
        volumes_ready: false,
        attached: false,
        address_unknown: false,
        shim: Shim::Absent,
        containers: want
            .init
            .iter()
            .chain(&want.containers)
            .map(|name| (name.clone(), Container::default()))
            .collect(),
        stale_init: BTreeMap::new(),
        leaving: Leaving::Not,
        outcome: None,
        concluded_stop_by: None,
        setback: None,
        finalized: false,
    }
}

fn ended(attempt: u32, exit_code: i32, when: Timestamp) -> Run {
    Run::Ended(Ended {
        attempt,
        exit_code,
        signal: None,
        reason: if exit_code == 0 { EndReason::Completed } else { EndReason::Error },
        message: String::new(),
        started_at: Some(when),
        finished_at: when,
    })
}

fn running(attempt: u32) -> Run {
    Run::Running(Running::new(attempt, at(0)))
}

fn up(want: &Want, runs: &[(&str, Run)]) -> PodState {
    let mut state = fresh(want);
    state.volumes_ready = true;
    state.attached = true;
    state.shim = Shim::Alive;
    for (name, run) in runs {
        let c = state.containers.get_mut(*name).unwrap();
        c.run = run.clone();
        c.image = ImageState::Ready;
    }
    state
}

#[test]
fn a_new_pod_gets_volumes_network_shim_image_start_hook_in_this_order() {
    let want = want(&[], &["a"], RestartPolicy::Always);
    let mut sim = Simulation::new(want, vec![]);
    sim.run_for(Duration::from_secs(5));
    assert_eq!(
        sim.steps,
        [
            Step::PrepareVolumes,
            Step::Attach,
            Step::Launch,
            Step::Image("a".into()),
            Step::Start("a".into()),
            Step::PostStart("a".into())
        ]
    );
}

#[test]
fn an_address_that_the_network_could_not_tell_is_asked_for_again() {
    let want = want(&[], &["a"], RestartPolicy::Always);
    let mut state = up(&want, &[("a", running(0))]);
    state.address_unknown = true;
    state.setback = Some(Setback { until: at(5), of_teardown: false });
    assert_eq!(next(&state, &want, at(1)), Next::Wait { until: at(5) });
    assert_eq!(next(&state, &want, at(5)), Next::Do(Step::Attach));
    state.address_unknown = false;
    assert_eq!(next(&state, &want, at(5)), Next::Settled);
}

#[test]
fn a_pod_that_could_not_be_set_up_is_deleted_without_waiting_for_the_next_try() {
    let mut want = want(&[], &["a"], RestartPolicy::Always);
    let mut state = PodState { attached: true, volumes_ready: true, ..PodState::default() };
    state.setback = Some(Setback { until: at(120), of_teardown: false });
    assert_eq!(next(&state, &want, at(1)), Next::Wait { until: at(120) });
    want.stop_by = Some(at(31));
    assert_eq!(next(&state, &want, at(1)), Next::Do(Step::Withdraw));
    state.leaving = Leaving::Withdrawn;
    assert_eq!(next(&state, &want, at(1)), Next::Do(Step::Detach));
    // When giving the address back fails, that is tried again after a pause.
    state.setback = Some(Setback { until: at(3), of_teardown: true });
    assert_eq!(next(&state, &want, at(1)), Next::Wait { until: at(3) });
    assert_eq!(next(&state, &want, at(3)), Next::Do(Step::Detach));
}

#[test]
fn a_container_whose_image_was_changed_starts_again_whatever_its_policy_says() {
    for policy in [RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::Never] {
        let want = want(&[], &["a"], policy);
        let mut state = up(&want, &[("a", ended(0, 0, at(0)))]);
        state.containers.get_mut("a").unwrap().renewed = true;
        assert_eq!(next(&state, &want, at(1)), Next::Do(Step::Start("a".into())), "{policy:?}");
    }
}

#[test]
fn containers_wait_for_init_containers_and_these_for_each_other() {
    let want = want(&["i", "j"], &["a"], RestartPolicy::Always);
    let state = up(&want, &[("i", running(0)), ("j", Run::Idle), ("a", Run::Idle)]);
    assert_eq!(next(&state, &want, at(1)), Next::Settled);
    let state = up(&want, &[("i", ended(0, 0, at(0))), ("j", Run::Idle), ("a", Run::Idle)]);
    assert_eq!(next(&state, &want, at(1)), Next::Do(Step::Start("j".into())));
    let state =
        up(&want, &[("i", ended(0, 0, at(0))), ("j", ended(0, 0, at(0))), ("a", Run::Idle)]);
    assert_eq!(next(&state, &want, at(1)), Next::Do(Step::Start("a".into())));
}

#[test]
fn init_containers_do_not_run_again_once_a_container_was_started() {
    let want = want(&["i"], &["a"], RestartPolicy::Always);
    let state = up(&want, &[("i", ended(0, 1, at(0))), ("a", ended(0, 1, at(0)))]);
    assert_eq!(next(&state, &want, at(1)), Next::Do(Step::Start("a".into())));
}

#[test]
fn init_containers_run_again_after_a_reboot_before_anything_else() {
    let want = want(&["i"], &["a"], RestartPolicy::Always);
    let mut state = up(&want, &[("i", ended(0, 0, at(0))), ("a", ended(0, 137, at(0)))]);
    let Run::Ended(stale) = ended(0, 0, at(0)) else { unreachable!() };
    state.stale_init = [("i".to_owned(), stale)].into();
    assert_eq!(next(&state, &want, at(1)), Next::Do(Step::Start("i".into())));
    state.containers.get_mut("i").unwrap().run = running(1);
    assert_eq!(next(&state, &want, at(1)), Next::Settled);
    state.containers.get_mut("i").unwrap().run = ended(1, 0, at(1));
    assert_eq!(next(&state, &want, at(1)), Next::Do(Step::Start("a".into())));
}

#[test]
fn a_failed_init_container_fails_a_pod_that_never_restarts() {
    let want = want(&["i"], &["a"], RestartPolicy::Never);
    let state = up(&want, &[("i", ended(0, 3, at(0))), ("a", Run::Idle)]);
    let Next::Do(Step::Conclude(Outcome::Failed { .. })) = next(&state, &want, at(1)) else {
        panic!("{:?}", next(&state, &want, at(1)));
    };
}

#[test]
fn restart_policies_decide_by_exit_code() {
    use RestartPolicy::*;
    let failed = || Outcome::Failed { reason: String::new(), message: String::new() };
    for (policy, code, expected) in [
        (Always, 0, Next::Do(Step::Start("a".into()))),
        (Always, 1, Next::Do(Step::Start("a".into()))),
        (OnFailure, 0, Next::Do(Step::Conclude(Outcome::Succeeded))),
        (OnFailure, 1, Next::Do(Step::Start("a".into()))),
        (Never, 0, Next::Do(Step::Conclude(Outcome::Succeeded))),
        (Never, 1, Next::Do(Step::Conclude(failed()))),
    ] {
        let want = want(&[], &["a"], policy);
        let state = up(&want, &[("a", ended(0, code, at(0)))]);
        assert_eq!(next(&state, &want, at(1)), expected, "{policy:?} {code}");
    }
}

#[test]
fn a_pod_with_one_container_left_running_is_not_concluded() {
    let want = want(&[], &["a", "b"], RestartPolicy::Never);
    let state = up(&want, &[("a", ended(0, 1, at(0))), ("b", running(0))]);
    assert_eq!(next(&state, &want, at(1)), Next::Settled);
}

#[test]
fn deletion_asks_then_waits_the_grace_then_kills() {
    let mut want = want(&[], &["a"], RestartPolicy::Always);
    want.stop_by = Some(at(30));
    let mut state = up(&want, &[("a", running(0))]);
    state.leaving = Leaving::Drained;
    assert_eq!(next(&state, &want, at(0)), Next::Do(Step::Stop("a".into())));
    let run = |stopped_at, killed_at| {
        Run::Running(Running { stopped_at, killed_at, ..Running::new(0, at(0)) })
    };
    state.containers.get_mut("a").unwrap().run = run(Some(at(0)), None);
    assert_eq!(next(&state, &want, at(1)), Next::Wait { until: at(30) });
    assert_eq!(next(&state, &want, at(30)), Next::Do(Step::Kill("a".into())));
    state.containers.get_mut("a").unwrap().run = run(Some(at(0)), Some(at(30)));
    assert_eq!(next(&state, &want, at(31)), Next::Wait { until: at(35) });
    assert_eq!(next(&state, &want, at(35)), Next::Do(Step::Kill("a".into())));
}

/// What follows while the pod leaves, at `now`, with 30 s of grace from 0.
fn leaving(leaving: Leaving, pre_stop: HookState, now: i64) -> Next {
    let mut want = want(&[], &["a"], RestartPolicy::Always);
    want.stop_by = Some(at(30));
    let run = Run::Running(Running { pre_stop, ..Running::new(0, at(0)) });
    let mut state = up(&want, &[("a", run)]);
    state.leaving = leaving;
    next(&state, &want, at(now))
}

#[test]
fn a_pod_leaves_every_data_plane_before_it_is_told_to_stop() {
    use {HookState::*, Leaving::*};
    let step = |step: fn(String) -> Step| Next::Do(step("a".into()));
    let wait = Next::Wait { until: at(30) };
    for (where_, hook, now, expected) in [
        (Not, Absent, 0, Next::Do(Step::Withdraw)),
        (Not, Due, 0, Next::Do(Step::Withdraw)),
        // The hook runs meanwhile, the signal waits.
        (Asked, Due, 0, step(Step::PreStop)),
        (Asked, Absent, 1, wait.clone()),
        (Asked, Done, 1, wait.clone()),
        (Withdrawn, Absent, 1, Next::Do(Step::Drain)),
        (Draining, Done, 1, wait.clone()),
        (Drained, UnderWay, 1, wait.clone()),
        (Drained, Absent, 2, step(Step::Stop)),
        (Drained, Done, 2, step(Step::Stop)),
        // When the grace is over nothing is waited for any more.
        (Asked, Absent, 30, step(Step::Stop)),
        (Withdrawn, Absent, 30, step(Step::Stop)),
        (Draining, UnderWay, 30, step(Step::Stop)),
        (Asked, Due, 30, step(Step::Stop)),
    ] {
        assert_eq!(leaving(where_, hook, now), expected, "{where_:?} {hook:?} at {now}");
    }
}

#[test]
fn a_hook_that_takes_all_the_grace_leaves_two_seconds_to_end() {
    let mut want = want(&[], &["a"], RestartPolicy::Always);
    want.stop_by = Some(at(30));
    for (pre_stop, stopped, killed) in [
        (HookState::UnderWay, 30, 32),
        (HookState::Done, 29, 31),
        (HookState::Done, 10, 30),
        (HookState::Absent, 30, 30),
    ] {
        let stopped_at = Some(at(stopped));
        let run = Run::Running(Running { pre_stop, stopped_at, ..Running::new(0, at(0)) });
        let mut state = up(&want, &[("a", run)]);
        state.leaving = Leaving::Drained;
        if killed > stopped {
            assert_eq!(next(&state, &want, at(killed - 1)), Next::Wait { until: at(killed) });
        }
        assert_eq!(next(&state, &want, at(killed)), Next::Do(Step::Kill("a".into())));
    }
}

#[test]
fn an_address_is_given_back_only_when_nothing_leads_to_it() {
    let want = Want { stop_by: Some(at(30)), ..want(&[], &["a"], RestartPolicy::Never) };
    let mut state = up(&want, &[("a", ended(0, 0, at(0)))]);
    assert_eq!(next(&state, &want, at(1)), Next::Do(Step::Withdraw));
    state.shim = Shim::Absent;
    state.leaving = Leaving::Asked;
    assert_eq!(next(&state, &want, at(1)), Next::Settled);
    state.leaving = Leaving::Withdrawn;
    assert_eq!(next(&state, &want, at(1)), Next::Do(Step::Detach));
}

#[test]
fn a_container_whose_probe_failed_ends_in_order_while_its_pod_stays() {
    let want = want(&[], &["a", "b"], RestartPolicy::Always);
    let doom = Some(Doom { message: "m".into(), kill_at: at(40) });
    let dying = Running { doom, pre_stop: HookState::Due, ..Running::new(0, at(0)) };
    let now = |a: Running| {
        let state = up(&want, &[("a", Run::Running(a)), ("b", running(0))]);
        next(&state, &want, at(11))
    };
    assert_eq!(now(dying.clone()), Next::Do(Step::PreStop("a".into())));
    let hooked = Running { pre_stop: HookState::Done, ..dying };
    assert_eq!(now(hooked.clone()), Next::Do(Step::Stop("a".into())));
    let stopped = Running { stopped_at: Some(at(11)), ..hooked };
    assert_eq!(now(stopped.clone()), Next::Wait { until: at(40) });
}

#[test]
fn a_post_start_hook_runs_first_and_holds_those_behind_it_back() {
    let want = want(&[], &["a", "b"], RestartPolicy::Always);
    let after = |post_start| {
        let run = Run::Running(Running { post_start, ..Running::new(0, at(0)) });
        next(&up(&want, &[("a", run), ("b", Run::Idle)]), &want, at(1))
    };
    assert_eq!(after(HookState::Due), Next::Do(Step::PostStart("a".into())));
    assert_eq!(after(HookState::UnderWay), Next::Settled);
    assert_eq!(after(HookState::Done), Next::Do(Step::Start("b".into())));
    assert_eq!(after(HookState::Absent), Next::Do(Step::Start("b".into())));
}

#[test]
fn the_active_deadline_fails_a_running_pod_by_name() {
    let mut want = want(&[], &["a"], RestartPolicy::Always);
    want.active_until = Some(at(60));
    let state = up(&want, &[("a", running(0))]);
    assert_eq!(next(&state, &want, at(1)), Next::Wait { until: at(60) });
    let Next::Do(Step::Conclude(Outcome::Failed { reason, .. })) = next(&state, &want, at(60))
    else {
        panic!("not concluded");
    };
    assert_eq!(reason, "DeadlineExceeded");
}

#[test]
fn a_lost_shim_is_cleared_away_and_launched_anew() {
    let want = want(&[], &["a"], RestartPolicy::Always);
    let mut state = up(&want, &[("a", ended(0, 137, at(0)))]);
    state.shim = Shim::Lost;
    assert_eq!(next(&state, &want, at(1)), Next::Do(Step::RemoveShim));
    state.shim = Shim::Absent;
    assert_eq!(next(&state, &want, at(1)), Next::Do(Step::Launch));
}

/// What the simulated node does with a step.
#[derive(Debug, Clone)]
enum Fate {
    /// The step works; a container started lives that many seconds and ends with that code.
    Lives(u16, u8),
    /// The step fails.
    Fails,
    /// The container ignores its stop signal.
    Stubborn,
    /// The shim dies after that step.
    ShimDies,
}

/// A node in virtual time that does what `next` says.
struct Simulation {
    want: Want,
    state: PodState,
    now: Timestamp,
    fates: std::vec::IntoIter<Fate>,
    failures: u32,
    /// When each running container ends by itself, with which code; and whether it heeds signals.
    ends: BTreeMap<String, (Timestamp, u8, bool)>,
    /// When hooks and the data planes are done.
    errands: BTreeMap<Errand, Timestamp>,
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Errand {
    PostStart(String),
    PreStop(String),
    Withdraw,
    Drain,
}

impl Simulation {
    fn new(want: Want, fates: Vec<Fate>) -> Simulation {
        Simulation {
            state: fresh(&want),
            want,
            now: at(0),
            fates: fates.into_iter(),
            failures: 0,
            ends: BTreeMap::new(),
            errands: BTreeMap::new(),
            steps: Vec::new(),
        }
    }

    fn end(&mut self, name: &str, code: i32) {
        self.ends.remove(name);
        self.errands.remove(&Errand::PostStart(name.to_owned()));
        self.errands.remove(&Errand::PreStop(name.to_owned()));
        let now = self.now;
        let c = self.state.containers.get_mut(name).unwrap();
        let Run::Running(running) = c.run.clone() else {
            panic!("{name} ended without running");
        };
        c.run = ended(running.attempt, code, now);
        c.image = ImageState::Unchecked;
        c.backoff_told = false;
    }

    fn done(&mut self, errand: Errand) {
        match &errand {
            Errand::PostStart(name) => {
                if matches!(self.state.containers[name].run, Run::Running(_)) {
                    self.running(name).post_start = HookState::Done;
                }
            }
            Errand::PreStop(name) => {
                if matches!(self.state.containers[name].run, Run::Running(_)) {
                    self.running(name).pre_stop = HookState::Done;
                }
            }
            Errand::Withdraw => self.state.leaving = Leaving::Withdrawn,
            Errand::Drain => self.state.leaving = Leaving::Drained,
        }
        self.errands.remove(&errand);
    }

    fn running(&mut self, name: &str) -> &mut Running {
        match &mut self.state.containers.get_mut(name).unwrap().run {
            Run::Running(running) => running,
            Run::Idle | Run::Ended(_) => panic!("{name} does not run"),
        }
    }

    fn perform(&mut self, step: Step) {
        let fate = self.fates.next().unwrap_or(Fate::Lives(u16::MAX, 0));
        let now = self.now;
        self.steps.push(step.clone());
        let fails = matches!(fate, Fate::Fails);
        // Of an errand.
        let span = match fate {
            Fate::Lives(seconds, _) => Duration::from_secs(u64::from(seconds % 40)),
            Fate::Fails | Fate::Stubborn | Fate::ShimDies => Duration::from_secs(1),
        };
        match &step {
            Step::Stop(_)
            | Step::Kill(_)
            | Step::Conclude(_)
            | Step::PostStart(_)
            | Step::PreStop(_)
            | Step::Withdraw
            | Step::Drain
            | Step::Finalize
            | Step::TellBackoff(_) => {}
            Step::Image(_) | Step::Start(_) => {}
            Step::PrepareVolumes
            | Step::Attach
            | Step::Launch
            | Step::RemoveShim
            | Step::Detach
            | Step::RemoveVolumes
                if fails =>
            {
                let until = now.plus(restart::setback(self.failures));
                let of_teardown = comes_down(&self.state, &self.want);
                self.state.setback = Some(Setback { until, of_teardown });
                self.failures += 1;
                return;
            }
            _ => self.failures = 0,
        }
        match step {
            Step::PrepareVolumes => self.state.volumes_ready = true,
            Step::Attach => self.state.attached = true,
            Step::Launch => {
                assert_eq!(self.state.shim, Shim::Absent, "two shims");
                self.state.shim = Shim::Alive;
            }
            Step::Image(name) => {
                let c = self.state.containers.get_mut(&name).unwrap();
                if fails {
                    c.image_backoff.raise(now, now);
                    c.image = ImageState::Missing(MissingImage {
                        reason: MissingReason::ErrImagePull,
                        message: String::new(),
                        failed_at: now,
                        retry_at: c.image_backoff.ready_at(now),
                    });
                    c.backoff_told = false;
                } else {
                    c.image = ImageState::Ready;
                }
            }
            Step::TellBackoff(name) => {
                self.state.containers.get_mut(&name).unwrap().backoff_told = true;
            }
            Step::Start(name) => {
                assert_eq!(self.state.shim, Shim::Alive, "started without a shim");
                if let Some(index) = self.want.containers.iter().position(|n| *n == name) {
                    assert!(initialized(&self.state, &self.want), "container {index} before init");
                }
                let c = self.state.containers.get_mut(&name).unwrap();
                let attempt = c.next_attempt();
                if let Run::Ended(before) = &c.run {
                    assert!(
                        c.backoff.ready_at(before.finished_at) <= now,
                        "restarted before its back-off"
                    );
                    c.backoff.raise(before.finished_at, now);
                    c.previous = Some(before.clone());
                }
                assert!(!matches!(c.run, Run::Running(_)), "two running attempts of {name}");
                if fails {
                    c.run = ended(attempt, 128, now);
                    c.image = ImageState::Unchecked;
                    c.backoff_told = false;
                    return;
                }
                let hook = |has_one| if has_one { HookState::Due } else { HookState::Absent };
                c.run = Run::Running(Running {
                    post_start: hook(name == "a"),
                    pre_stop: hook(name == "b"),
                    ..Running::new(attempt, now)
                });
                let (seconds, code) = match fate {
                    Fate::Lives(seconds, code) => (seconds, code),
                    Fate::Fails | Fate::Stubborn | Fate::ShimDies => (u16::MAX, 0),
                };
                let until = now.plus(Duration::from_secs(u64::from(seconds)));
                self.ends.insert(name, (until, code, !matches!(fate, Fate::Stubborn)));
            }
            Step::PostStart(name) => {
                let hook = &mut self.running(&name).post_start;
                assert_eq!(*hook, HookState::Due);
                *hook = HookState::UnderWay;
                self.errands.insert(Errand::PostStart(name), now.plus(span));
            }
            Step::PreStop(name) => {
                let hook = &mut self.running(&name).pre_stop;
                assert_eq!(*hook, HookState::Due);
                *hook = HookState::UnderWay;
                self.errands.insert(Errand::PreStop(name), now.plus(span));
            }
            Step::Withdraw => {
                assert_eq!(self.state.leaving, Leaving::Not);
                self.state.leaving = Leaving::Asked;
                self.errands.insert(Errand::Withdraw, now.plus(span));
            }
            Step::Drain => {
                assert_eq!(self.state.leaving, Leaving::Withdrawn);
                self.state.leaving = Leaving::Draining;
                self.errands.insert(Errand::Drain, now.plus(span));
            }
            Step::Stop(name) => {
                let stop_by = self.want.stop_by.or(self.state.concluded_stop_by).unwrap();
                let (is_over, leaving) = (stop_by <= now, self.state.leaving);
                assert!(is_over || leaving == Leaving::Drained, "stopped while {leaving:?}");
                let running = self.running(&name);
                assert!(running.stopped_at.is_none(), "stopped twice");
                let hook = running.pre_stop;
                let is_done = matches!(hook, HookState::Absent | HookState::Done);
                assert!(is_over || is_done, "stopped while its hook is {hook:?}");
                running.stopped_at = Some(now);
                if self.ends[&name].2 {
                    self.end(&name, 143);
                }
            }
            Step::Kill(name) => {
                let c = self.state.containers.get_mut(&name).unwrap();
                if let Run::Running(running) = &mut c.run {
                    running.killed_at = Some(now);
                }
                if !fails {
                    self.end(&name, 137);
                }
            }
            Step::Conclude(outcome) => {
                assert!(self.state.outcome.is_none(), "a final phase changed");
                self.state.outcome = Some(outcome);
                self.state.concluded_stop_by = Some(now.plus(Duration::from_secs(30)));
            }
            Step::RemoveShim => {
                assert!(self.ends.is_empty(), "shim removed under running containers");
                self.state.shim = Shim::Absent;
            }
            Step::Detach => {
                assert_eq!(self.state.shim, Shim::Absent);
                assert!(!matches!(self.state.leaving, Leaving::Not | Leaving::Asked));
                self.state.attached = false;
            }
            Step::RemoveVolumes => {
                assert!(!self.state.attached);
                self.state.volumes_ready = false;
            }
            Step::Finalize => {
                assert!(self.ends.is_empty() && self.state.shim == Shim::Absent);
                assert!(!self.state.attached && !self.state.volumes_ready);
                self.state.finalized = true;
            }
        }
        if matches!(fate, Fate::ShimDies) && self.state.shim == Shim::Alive {
            for name in self.ends.clone().into_keys() {
                self.end(&name, 137);
            }
            self.state.shim = Shim::Lost;
        }
    }

    /// Runs until `span` has passed or nothing will ever happen again.
    fn run_for(&mut self, span: Duration) {
        let end = self.now.plus(span);
        for _ in 0..20_000 {
            let due: Vec<(String, u8)> = self
                .ends
                .iter()
                .filter(|(_, (when, ..))| *when <= self.now)
                .map(|(name, (_, code, _))| (name.clone(), *code))
                .collect();
            for (name, code) in due {
                self.end(&name, i32::from(code));
            }
            let over: Vec<Errand> = self
                .errands
                .iter()
                .filter(|(_, when)| **when <= self.now)
                .map(|(errand, _)| errand.clone())
                .collect();
            over.into_iter().for_each(|errand| self.done(errand));
            let timer = match next(&self.state, &self.want, self.now) {
                Next::Do(step) => {
                    self.perform(step);
                    continue;
                }
                Next::Wait { until } => {
                    assert!(until > self.now, "waits for the past");
                    Some(until)
                }
                Next::Settled => None,
            };
            let wake = self.ends.values().map(|(when, ..)| *when);
            let wake = wake.chain(self.errands.values().copied()).chain(timer).min();
            match wake {
                Some(wake) if wake <= end => self.now = wake,
                Some(_) | None => {
                    self.now = end;
                    return;
                }
            }
        }
        panic!("no end after 20,000 steps: {:?}", self.steps.last());
    }
}

fn fates() -> impl Strategy<Value = Vec<Fate>> {
    let fate = prop_oneof![
        6 => (0u16..2000, prop_oneof![Just(0u8), Just(1), Just(137)]).prop_map(|(s, c)| Fate::Lives(s, c)),
        2 => Just(Fate::Fails),
        1 => Just(Fate::Stubborn),
        1 => Just(Fate::ShimDies),
    ];
    proptest::collection::vec(fate, 0..40)
}

fn policy() -> impl Strategy<Value = RestartPolicy> {
    prop_oneof![
        Just(RestartPolicy::Always),
        Just(RestartPolicy::OnFailure),
        Just(RestartPolicy::Never)
    ]
}

proptest! {
    /// The simulation asserts on its way: one running attempt at most, order of init, back-off respected,
    /// nothing removed under a running container, final phases final. Whatever failed before, a deleted
    /// pod is gone within bounded time.
    #[test]
    fn a_deleted_pod_is_always_finalized_and_never_runs_one_container_twice(
        fates in fates(),
        policy in policy(),
        inits in 0usize..3,
        lives in 0u64..4000,
        grace in 0u64..60,
        deadline in proptest::option::of(1i64..3000),
    ) {
        let init: Vec<String> = (0..inits).map(|i| format!("i{i}")).collect();
        let init: Vec<&str> = init.iter().map(String::as_str).collect();
        let mut wanted = want(&init, &["a", "b"], policy);
        wanted.active_until = deadline.map(at);
        let mut sim = Simulation::new(wanted, fates);
        sim.run_for(Duration::from_secs(lives));
        sim.want.stop_by = Some(sim.now.plus(Duration::from_secs(grace)));
        sim.run_for(Duration::from_secs(36_000));
        prop_assert!(sim.state.finalized, "left: {:?}", sim.state);
    }

    /// Without deletion a pod that may not restart comes to a final phase and gives everything back.
    #[test]
    fn a_pod_that_never_restarts_concludes_and_cleans_up(fates in fates(), inits in 0usize..3) {
        let init: Vec<String> = (0..inits).map(|i| format!("i{i}")).collect();
        let init: Vec<&str> = init.iter().map(String::as_str).collect();
        let mut sim = Simulation::new(want(&init, &["a", "b"], RestartPolicy::Never), fates);
        sim.run_for(Duration::from_secs(400_000));
        prop_assert!(sim.state.outcome.is_some(), "undecided: {:?}", sim.state);
        prop_assert!(sim.state.shim == Shim::Absent && !sim.state.attached && !sim.state.volumes_ready);
    }
}
