//! The lifecycle against a simulated node: tables for single answers, properties for whole lives.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::node::restart;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix(1_000_000 + seconds, 0)
}

fn want(init: &[&str], containers: &[&str], restart: RestartPolicy) -> Want {
    Want {
        init: init.iter().map(|s| (*s).into()).collect(),
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
        shim: Shim::Absent,
        containers: want
            .init
            .iter()
            .chain(&want.containers)
            .map(|name| (name.clone(), Container::default()))
            .collect(),
        stale_init: BTreeMap::new(),
        outcome: None,
        concluded_stop_by: None,
        setback_until: None,
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
    Run::Running(Running { attempt, started_at: at(0), stopped_at: None, killed_at: None })
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
fn a_new_pod_gets_volumes_network_shim_image_start_in_this_order() {
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
            Step::Start("a".into())
        ]
    );
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
    state.stale_init = [("i".to_owned(), 0)].into();
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
    assert_eq!(next(&state, &want, at(0)), Next::Do(Step::Stop("a".into())));
    let run = |stopped, killed| {
        Run::Running(Running {
            attempt: 0,
            started_at: at(0),
            stopped_at: stopped,
            killed_at: killed,
        })
    };
    state.containers.get_mut("a").unwrap().run = run(Some(at(0)), None);
    assert_eq!(next(&state, &want, at(1)), Next::Wait { until: at(30) });
    assert_eq!(next(&state, &want, at(30)), Next::Do(Step::Kill("a".into())));
    state.containers.get_mut("a").unwrap().run = run(Some(at(0)), Some(at(30)));
    assert_eq!(next(&state, &want, at(31)), Next::Wait { until: at(35) });
    assert_eq!(next(&state, &want, at(35)), Next::Do(Step::Kill("a".into())));
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
    steps: Vec<Step>,
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
            steps: Vec::new(),
        }
    }

    fn end(&mut self, name: &str, code: i32) {
        self.ends.remove(name);
        let now = self.now;
        let c = self.state.containers.get_mut(name).unwrap();
        let Run::Running(running) = c.run.clone() else {
            panic!("{name} ended without running");
        };
        c.run = ended(running.attempt, code, now);
        c.image = ImageState::Unchecked;
        c.backoff_told = false;
    }

    fn perform(&mut self, step: Step) {
        let fate = self.fates.next().unwrap_or(Fate::Lives(u16::MAX, 0));
        let now = self.now;
        self.steps.push(step.clone());
        let fails = matches!(fate, Fate::Fails);
        match &step {
            Step::Stop(_)
            | Step::Kill(_)
            | Step::Conclude(_)
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
                self.state.setback_until = Some(now.plus(restart::setback(self.failures)));
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
                c.run = Run::Running(Running {
                    attempt,
                    started_at: now,
                    stopped_at: None,
                    killed_at: None,
                });
                let (seconds, code) = match fate {
                    Fate::Lives(seconds, code) => (seconds, code),
                    Fate::Fails | Fate::Stubborn | Fate::ShimDies => (u16::MAX, 0),
                };
                let until = now.plus(Duration::from_secs(u64::from(seconds)));
                self.ends.insert(name, (until, code, !matches!(fate, Fate::Stubborn)));
            }
            Step::Stop(name) => {
                let c = self.state.containers.get_mut(&name).unwrap();
                let Run::Running(running) = &mut c.run else {
                    panic!("stopped without running");
                };
                assert!(running.stopped_at.is_none(), "stopped twice");
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
            let wake = self.ends.values().map(|(when, ..)| *when).chain(timer).min();
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
