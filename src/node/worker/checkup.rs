//! A pod's health: makes the probes that are due, hands outcomes to `health`, carries its verdicts into the state.
//!
//! It counts nothing itself.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Worker;
use super::errands::Report;
use crate::events;
use crate::model::time::Timestamp;
use crate::net;
use crate::node::compile::check::{self, Hook};
use crate::node::health::{Change, Declared, Health, Kind, Outcome};
use crate::node::lifecycle::{Doom, HookState, Run, Running};
use crate::node::milestones::Milestones;
use crate::node::probe::{self, Answer, Target};
use crate::node::status::container_id;
use crate::placement::is_sidecar;
use crate::sys::clock;

/// A container whose ports nobody listens on is taken for ready after so long.
const PORTS_WITHIN: Duration = Duration::from_secs(10);

impl Worker {
    /// Of the containers that an earlier daemon left.
    pub(super) fn take_up_health(&mut self) {
        let now = clock::now();
        let mut milestones = std::collections::BTreeMap::new();
        for name in self.state.containers.keys() {
            if let Some(found) = Milestones::read(&self.paths.milestones(), name) {
                milestones.insert(name.clone(), found);
            }
        }
        for name in self.running() {
            let (declared, phase) = (self.declared(&name), self.phase_of(&name));
            let hooks = self.hooks_of(&name);
            let Some(running) = self.running_mut(&name) else { continue };
            (running.post_start, running.pre_stop) = hooks;
            if running.started || running.ready {
                // Its status called it running.
                running.post_start = done(running.post_start);
            }
            self.restore(&name, milestones.remove(&name));
            let Some(running) = self.running_mut(&name) else { continue };
            let (since, started, ready) = (running.started_at, running.started, running.ready);
            let mut health = Health::revived(&declared, since, started, ready, now, phase);
            if running.doom.is_some() {
                health.doom();
            }
            self.health.insert(name.clone(), health);
            self.show_health(&name);
            self.guard(&name);
        }
        // Those that have ended meanwhile.
        for (name, found) in milestones {
            self.restore(&name, Some(found));
        }
    }

    fn restore(&mut self, name: &str, milestones: Option<Milestones>) {
        if let (Some(found), Some(container)) = (milestones, self.state.containers.get_mut(name)) {
            found.restore(container);
        }
    }

    /// Of a container that has just been started.
    pub(super) fn begin_health(&mut self, name: &str) {
        let (declared, phase) = (self.declared(name), self.phase_of(name));
        let hooks = self.hooks_of(name);
        let Some(running) = self.running_mut(name) else {
            return;
        };
        (running.post_start, running.pre_stop) = hooks;
        let health = Health::fresh(&declared, running.started_at, phase);
        (running.started, running.ready) = (health.is_started(), health.is_ready());
        self.health.insert(name.to_owned(), health);
        self.guard(name);
    }

    /// Makes the probes that are due.
    pub(super) fn watch_health(&mut self, now: Timestamp) {
        let is_leaving = self.stop_by.is_some() || self.state.outcome.is_some();
        let mut due: Vec<(String, u32, Kind)> = Vec::new();
        let mut awaiting: Vec<(String, Timestamp)> = Vec::new();
        for (name, health) in &mut self.health {
            let run = self.state.containers.get(name).map(|container| &container.run);
            let Some(Run::Running(running)) = run else { continue };
            if !running.is_up() {
                continue;
            }
            if is_leaving {
                health.leave();
            }
            let attempt = running.attempt;
            due.extend(health.take_due(now).into_iter().map(|kind| (name.clone(), attempt, kind)));
            if health.take_awaited() {
                awaiting.push((name.clone(), running.started_at));
            }
        }
        for (name, attempt, kind) in due {
            self.begin_probe(name, attempt, kind);
        }
        for (name, started_at) in awaiting {
            self.await_ports(name, started_at, now);
        }
    }

    pub(super) fn next_probe(&mut self) -> Option<Timestamp> {
        let containers = &self.state.containers;
        let is_up = |name: &String| match containers.get(name).map(|c| &c.run) {
            Some(Run::Running(running)) => running.is_up(),
            Some(Run::Idle | Run::Ended(_)) | None => false,
        };
        let health = self.health.iter_mut().filter(|(name, _)| is_up(name));
        health.filter_map(|(_, health)| health.next_due()).min()
    }

    fn begin_probe(&mut self, container: String, attempt: u32, kind: Kind) {
        let check = self.spec_of(&container).and_then(|(spec, _)| check::check(spec, kind));
        let Some(check) = check else {
            return;
        };
        let target = self.target(&container);
        if self.state.address_unknown && !matches!(check.action, Ok(check::Action::Exec(_))) {
            let words = "the network has not told the pod's address yet".to_owned();
            return self.probed(&container, kind, Answer::Error(words));
        }
        let commands = self.shared.commands.clone();
        let period = self.health.get(&container).and_then(|health| health.period(kind));
        self.errands.spawn(async move {
            let is_command = matches!(check.action, Ok(check::Action::Exec(_)));
            // Held back with many others it is late, but its own time begins only now.
            let _turn = match is_command {
                true => turn(commands, period.unwrap_or_default()).await,
                false => None,
            };
            let answer = probe::probe(&check, &target).await;
            Report::Probed { container, attempt, kind, answer }
        });
    }

    fn await_ports(&mut self, container: String, started_at: Timestamp, now: Timestamp) {
        let Some((spec, _)) = self.spec_of(&container) else {
            return;
        };
        let ports = check::tcp_ports(spec);
        let netns = self.attached.as_ref().map(|attached| attached.netns.clone());
        let Some(Run::Running(Running { attempt, .. })) =
            self.state.containers.get(&container).map(|found| &found.run)
        else {
            return;
        };
        let attempt = *attempt;
        let left = PORTS_WITHIN.saturating_sub(now.since(started_at));
        let uid = self.uid.clone();
        self.errands.spawn(async move {
            match net::until_listening(netns, &ports, left).await {
                Ok(true) => {}
                Ok(false) => {
                    tracing::info!(pod = uid, container, ?ports, "taken for ready: nobody listens");
                }
                Err(error) => {
                    tracing::warn!(pod = uid, container, %error, "taken for ready: its ports cannot be seen");
                }
            }
            Report::PortsOpen { container, attempt }
        });
    }

    pub(super) fn probed(&mut self, name: &str, kind: Kind, answer: Answer) {
        let now = clock::now();
        let Some(health) = self.health.get_mut(name) else {
            return;
        };
        let outcome = match &answer {
            Answer::Success | Answer::Warning(_) => Outcome::Success,
            Answer::Failure(_) => Outcome::Failure,
            Answer::Error(_) => Outcome::Unknown,
        };
        let tells = outcome == Outcome::Success || health.tells(kind, now);
        let change = health.note(kind, outcome, now);
        let word = kind.word();
        let told = match answer {
            Answer::Success => None,
            Answer::Warning(words) => {
                Some(("ProbeWarning", format!("{word} probe warning: {words}")))
            }
            Answer::Failure(words) => Some(("Unhealthy", format!("{word} probe failed: {words}"))),
            Answer::Error(words) => Some((
                "Unhealthy",
                format!("{word} probe errored and resulted in unknown state: {words}"),
            )),
        };
        if let Some((reason, message)) = told.filter(|_| tells) {
            self.tell_container(name, events::Kind::Warning, reason, message);
        }
        match change {
            Change::Failed => self.doom(name, kind, now),
            Change::Nothing | Change::Started | Change::Ready | Change::Unready => {}
        }
        self.show_health(name);
    }

    pub(super) fn ports_open(&mut self, name: &str) {
        if let Some(health) = self.health.get_mut(name) {
            health.ports_open();
        }
        self.show_health(name);
    }

    pub(super) fn show_health(&mut self, name: &str) {
        let Some(health) = self.health.get(name) else {
            return;
        };
        let (started, ready) = (health.is_started(), health.is_ready());
        if let Some(running) = self.running_mut(name) {
            (running.started, running.ready) = (started, ready);
        }
    }

    /// The container is stopped, and started again if its policy says so.
    fn doom(&mut self, name: &str, kind: Kind, now: Timestamp) {
        let spec = self.spec_of(name).map(|(spec, _)| spec);
        let own = spec.and_then(|spec| check::check(spec, kind)).and_then(|check| check.grace);
        let kill_at = now.plus(own.unwrap_or_else(|| self.own_grace()));
        let probe = kind.word().to_lowercase();
        let never = self.pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref())
            == Some("Never")
            && !spec.is_some_and(is_sidecar);
        let follows = if never { "" } else { ", will be restarted" };
        let message = format!("Container {name} failed {probe} probe{follows}");
        if let Some(running) = self.running_mut(name) {
            running.doom.get_or_insert(Doom { message, kill_at });
        }
        self.record(name);
    }

    pub(super) fn target(&self, name: &str) -> Target {
        let host_network = self.host_network();
        Target {
            container: name.to_owned(),
            pod: self.shim.clone(),
            plan: self.plans.get(name).cloned(),
            address: match host_network {
                true => self.shared.facts.addresses.first().copied(),
                false => self.attached.as_ref().map(|attached| attached.address),
            },
            host_network,
        }
    }

    /// Init containers are over before anybody could ask them, sidecars are not.
    fn declared(&self, name: &str) -> Declared {
        match self.spec_of(name) {
            Some((spec, list)) if list == "spec.containers" || is_sidecar(spec) => {
                check::declared(&self.pod, spec, self.shared.awaits_ports)
            }
            Some(_) | None => Declared::default(),
        }
    }

    fn hooks_of(&self, name: &str) -> (HookState, HookState) {
        let spec = self.spec_of(name).map(|(spec, _)| spec);
        let state = |hook| match spec.is_some_and(|spec| check::hook(spec, hook).is_some()) {
            true => HookState::Due,
            false => HookState::Absent,
        };
        (state(Hook::PostStart), state(Hook::PreStop))
    }

    /// The same for a container whenever it is asked for, below 1, and different for others.
    pub(super) fn phase_of(&self, name: &str) -> f64 {
        let id = container_id(&self.uid, name, 0);
        let digits = id.get(id.len().saturating_sub(4)..).unwrap_or_default();
        f64::from(u16::from_str_radix(digits, 16).unwrap_or(0)) / 65536.0
    }
}

/// A turn among the commands of the node, or none after `patience`: commands of others that hang until their timeout
/// hold a probe up for one of its periods, not for ever.
async fn turn(commands: Arc<Semaphore>, patience: Duration) -> Option<OwnedSemaphorePermit> {
    tokio::time::timeout(patience, commands.acquire_owned()).await.ok()?.ok()
}

fn done(hook: HookState) -> HookState {
    match hook {
        HookState::Absent => HookState::Absent,
        HookState::Due | HookState::UnderWay | HookState::Done => HookState::Done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn commands_that_hang_hold_a_probe_up_for_one_period_only() {
        let commands = Arc::new(Semaphore::new(1));
        let period = Duration::from_secs(10);
        let hung = turn(commands.clone(), period).await.unwrap();
        let begun = tokio::time::Instant::now();
        assert!(turn(commands.clone(), period).await.is_none());
        assert_eq!(begun.elapsed().as_secs(), 10);
        drop(hung);
        assert!(turn(commands, period).await.is_some());
    }
}
