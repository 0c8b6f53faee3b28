//! A whole control plane with a fake node and virtual time: the real controllers, decided and gated as in the daemon,
//! on an API server in memory whose watch events come late, twice, or not at all, and a daemon that dies between any
//! two writes. What has to hold is checked at every step.
//!
//! `JOEY_SEED=N` replays one seed; `JOEY_TEST_LONG=1` takes ten times as many steps.

#![expect(clippy::unwrap_used, reason = "a broken fixture is a failed test")]

mod api;
mod feed;
mod machine;
mod rules;
mod transcripts;
mod user;

use std::panic::{AssertUnwindSafe, catch_unwind};

use joey::reconcile::caches::Kind;

use machine::Machine;
use rules::Rules;
use user::User;

/// Steps of one life, after which everything comes to rest.
const STEPS: usize = 500;

/// xorshift64*, so that a seed means the same everywhere.
pub struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn draw(&mut self) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.draw() % bound
    }
}

/// One life of a cluster with everything that may happen to it.
fn live(seed: u64, machine: &mut Machine) {
    let mut random = Random::new(seed);
    let mut rules = Rules::default();
    let mut user = User::new(&mut random);
    user.begin(&mut machine.server);
    rules.rested(&machine.server);
    for _ in 0..STEPS {
        let before = machine.server.revision;
        step(machine, &mut rules, &mut user, &mut random);
        if machine.server.revision != before {
            rules.check(machine);
        }
    }
    // Left alone, everything becomes as it is declared.
    user.leave_in_order(&mut machine.server);
    rules.wished(&machine.server);
    machine.run_until_quiet();
    machine.stopped.clear();
    rules.check(machine);
    rules.check_rest(machine);
    // And stays so: a daemon that starts anew finds nothing to write.
    let revision = machine.server.revision;
    machine.crash();
    machine.run_until_quiet();
    assert_eq!(machine.server.revision, revision, "a restart wrote something");
}

fn step(machine: &mut Machine, rules: &mut Rules, user: &mut User, random: &mut Random) {
    let choice = random.draw();
    match random.below(100) {
        0..34 => {
            machine.deliver(choice % 3);
        }
        34..36 => machine.disturb_feed(choice % 3, Some(choice / 3 % 4)),
        36..37 => machine.disturb_feed(choice % 3, None),
        37..50 => {
            machine.take_turn(Kind::Deployment);
        }
        50..63 => {
            machine.take_turn(Kind::ReplicaSet);
        }
        63..80 => {
            machine.advance(choice);
        }
        80..82 => {
            machine.collect();
        }
        82..93 => {
            machine.work_on_node(choice);
        }
        93..94 => machine.server.now += (choice % 40) as u64,
        94..95 => machine.crash(),
        95..96 => {
            if let Some(pod) = machine.break_pod(choice) {
                rules.disturbed(&pod.namespace);
            }
        }
        _ => {
            user.act(&mut machine.server, rules, random);
            rules.wished(&machine.server);
        }
    }
}

#[test]
fn whatever_happens_no_rule_is_broken_and_everything_comes_to_rest() {
    let steps = if std::env::var_os("JOEY_TEST_LONG").is_some() { 1_000_000 } else { 100_000 };
    let seeds = match std::env::var("JOEY_SEED") {
        Ok(seed) => {
            let seed: u64 = seed.parse().expect("JOEY_SEED is a number");
            seed..seed + 1
        }
        Err(_) => 0..(steps / STEPS) as u64,
    };
    for seed in seeds {
        let mut machine = Machine::new();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| live(seed, &mut machine))) {
            let told = &machine.told[machine.told.len().saturating_sub(30)..];
            eprintln!("what the controllers did last:\n{}", told.join("\n"));
            eprintln!("replay it with: JOEY_SEED={seed} cargo test --test scenario");
            std::panic::resume_unwind(panic);
        }
    }
}
