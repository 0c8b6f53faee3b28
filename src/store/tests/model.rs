//! What a store has to be: every state it was in and every event between them, in the plainest words.

use std::collections::BTreeMap;

use super::*;

pub type State = BTreeMap<ObjectKey, (Revision, Bytes)>;

/// Commits and the states they made.
#[derive(Debug, Clone)]
pub struct Model {
    /// The state of revision 1 + index.
    states: Vec<State>,
    /// In revision order, those of one commit in its order.
    events: Vec<Event>,
}

impl Model {
    pub fn new() -> Model {
        Model { states: vec![State::new()], events: Vec::new() }
    }

    pub fn revision(&self) -> Revision {
        Revision::new(self.states.len() as u64).unwrap()
    }

    pub fn state(&self, at: Revision) -> &State {
        &self.states[at.get() as usize - 1]
    }

    pub fn now(&self) -> &State {
        self.state(self.revision())
    }

    /// What `changes` must be answered in the state of `at`, if that is no.
    pub fn refusal(&self, at: Revision, changes: &[Change]) -> Option<(usize, Refused)> {
        let state = self.state(at);
        changes.iter().enumerate().find_map(|(index, change)| {
            let written = state.get(&change.key).map(|(revision, _)| *revision);
            let refused = match (written, change.when) {
                (Some(_), Precondition::Absent) => Refused::Exists,
                (Some(current), Precondition::At(wanted)) if wanted != current => {
                    Refused::Conflict { current }
                }
                (None, Precondition::At(_) | Precondition::Exists) => Refused::Missing,
                (None, _) if matches!(change.op, Op::Delete) => Refused::Missing,
                _ => return None,
            };
            Some((index, refused))
        })
    }

    /// The next commit.
    pub fn commit(&mut self, changes: &[Change]) -> Result<Revision, (usize, Refused)> {
        if let Some(refused) = self.refusal(self.revision(), changes) {
            return Err(refused);
        }
        let mut state = self.now().clone();
        let revision = self.revision().next();
        for change in changes {
            let value = match &change.op {
                Op::Put(value) => Some(value.clone()),
                Op::Delete => None,
            };
            let previous = match &value {
                Some(value) => state.insert(change.key.clone(), (revision, value.clone())),
                None => state.remove(&change.key),
            };
            let previous = previous.map(|(_, value)| value);
            self.events.push(Event { revision, key: change.key.clone(), value, previous });
        }
        self.states.push(state);
        Ok(revision)
    }

    /// What a watch of `scope` from `since` must yield.
    pub fn events(&self, scope: &Scope, since: Revision) -> Vec<Event> {
        let concerns = |event: &&Event| event.revision > since && covers(scope, &event.key);
        self.events.iter().filter(concerns).cloned().collect()
    }

    /// What a list of `scope` at `at` must hold.
    pub fn list(&self, scope: &Scope, at: Revision) -> Vec<Stored> {
        let state = self.state(at).iter();
        let stored = state.map(|(key, (revision, value))| Stored {
            key: key.clone(),
            revision: *revision,
            value: value.clone(),
        });
        stored.filter(|stored| covers(scope, &stored.key)).collect()
    }
}

fn covers(scope: &Scope, key: &ObjectKey) -> bool {
    let is_there = scope.namespace.is_none() || scope.namespace == key.namespace;
    scope.resource == key.resource && is_there
}
