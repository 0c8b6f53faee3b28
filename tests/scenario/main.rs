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

use machine::{Fault, Machine};
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

/// One life of a cluster with everything that may happen to it. Returns how often a Deployment came to rest.
fn live(seed: u64, machine: &mut Machine) -> usize {
    let mut random = Random::new(seed);
    let mut rules = Rules::default();
    let user = User::new(&mut random);
    user.begin(&mut machine.server);
    rules.wished(&machine.server);
    for number in 0..STEPS {
        let before = machine.server.revision;
        step(machine, &mut random);
        // A wish upon a wish promises less and less: in between they come to rest.
        match random.below(100) {
            0..10 if number % 125 < 30 => {
                user.act(&mut machine.server, &mut rules, &mut random);
                rules.wished(&machine.server);
            }
            10..13 if number % 125 < 30 => {
                if let Some(pod) = machine.break_pod(random.draw()) {
                    rules.disturbed(&pod.namespace);
                }
            }
            0..4 => machine.server.now += 4,
            _ => {}
        }
        machine.decided.drain(..).for_each(|decided| rules::check_decided(&decided));
        if machine.server.revision != before {
            rules.check(machine);
        }
        rules.rest(machine);
    }
    // Left alone, everything becomes as it is declared.
    user.leave_in_order(&mut machine.server);
    rules.wished(&machine.server);
    machine.run_until_quiet();
    machine.decided.drain(..).for_each(|decided| rules::check_decided(&decided));
    machine.stopped.clear();
    rules.check(machine);
    rules.check_rest(machine);
    // And stays so: a daemon that starts anew finds nothing to write.
    let revision = machine.server.revision;
    machine.crash();
    machine.run_until_quiet();
    assert_eq!(machine.server.revision, revision, "a restart wrote something");
    rules.rests
}

fn step(machine: &mut Machine, random: &mut Random) {
    let choice = random.draw();
    match random.below(96) {
        0..24 => {
            let _ = (0..3).any(|more| machine.deliver((choice + more) % 3));
        }
        24..26 => machine.disturb_feed(choice % 3, Some(choice / 3 % 4)),
        26..27 => machine.disturb_feed(choice % 3, None),
        27..47 => {
            let kinds = [Kind::Deployment, Kind::ReplicaSet];
            let _ = (0..2).any(|more| machine.take_turn(kinds[(choice + more) % 2]));
        }
        47..72 => {
            machine.advance(choice);
        }
        72..76 => {
            let faults = [Fault::Refused, Fault::NotMade, Fault::Unanswered];
            machine.fault = Some(faults[choice / 1_000 % 3]);
            machine.advance(choice);
            machine.fault = None;
            // Time for another attempt, whatever the caches have seen by then.
            machine.server.now += 1;
        }
        76..78 => {
            machine.collect();
        }
        78..94 => {
            machine.work_on_node(choice);
        }
        94..95 => machine.server.now += (choice % 40) as u64,
        _ => machine.crash(),
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
    let (lives, mut rests) = (seeds.clone().count(), 0);
    for seed in seeds {
        let mut machine = Machine::new();
        match catch_unwind(AssertUnwindSafe(|| live(seed, &mut machine))) {
            Ok(count) => rests += count,
            Err(panic) => {
                let told = &machine.told[machine.told.len().saturating_sub(30)..];
                eprintln!("what the controllers did last:\n{}", told.join("\n"));
                eprintln!("replay it with: JOEY_SEED={seed} cargo test --test scenario");
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("{rests} times a Deployment was as wished, in {lives} lives");
    assert!(
        lives == 1 || rests >= lives,
        "what is never renewed promises nothing: {rests} in {lives} lives"
    );
}
