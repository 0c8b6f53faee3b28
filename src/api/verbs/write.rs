//! Read, compute, commit, retry: the only caller of `commit`.
//!
//! It never decides what an object becomes; callers pass a decision over the current state.

use serde_json::Value;

use crate::api::admit::Admitted;
use crate::api::catalog::Kind;
use crate::api::failure::Failure;
use crate::api::query::Effect;
use crate::api::{Api, allocate, object, presentation};
use crate::model::key::ObjectKey;
use crate::model::revision::{Precondition, Revision};
use crate::store::{Change, CommitError, Op, Refused, Stored, Unavailable};

/// How often a write that lost a race is computed anew before the client is told of the conflict.
/// Each loss means that another writer won, so this bounds only a storm on one object.
const ATTEMPTS: usize = 100;

/// How many bytes a stored object may have: etcd's default limit, which bounds it in the reference server.
const OBJECT_LIMIT: usize = 3 * 1024 * 1024 / 2;

/// What a decision wants of the current object.
pub enum Next {
    Put(Admitted),
    Remove,
    /// Nothing to do.
    Keep,
}

/// How a write ended.
#[derive(Debug)]
pub enum Written {
    /// The object as it is now.
    Stored(Value),
    /// The object as it last was.
    Removed(Value),
}

impl Written {
    pub fn into_object(self) -> Value {
        match self {
            Written::Stored(object) | Written::Removed(object) => object,
        }
    }
}

/// Reads the object at `key` as `kind` shows it.
pub fn read(api: &Api, kind: &Kind, key: &ObjectKey) -> Result<Option<Value>, Failure> {
    let stored = api.inner.store.get(key).map_err(unavailable)?;
    stored.map(|stored| show(kind, &stored)).transpose()
}

/// A stored value as `kind` shows it.
pub fn show(kind: &Kind, stored: &Stored) -> Result<Value, Failure> {
    show_at(kind, &stored.value, stored.revision)
}

/// As [`show`], under a given revision.
pub fn show_at(kind: &Kind, value: &[u8], revision: Revision) -> Result<Value, Failure> {
    let object = object::from_stored(value, revision).map_err(|error| {
        tracing::error!(%error, resource = %kind.resource(), "a stored value is not JSON");
        Failure::internal("a stored object cannot be read")
    })?;
    Ok(presentation::present(kind, object))
}

/// Creates several objects at once; the first one must not exist, the others are put regardless.
/// `None` when the first exists.
pub async fn create(
    api: &Api,
    objects: Vec<(ObjectKey, &Kind, Admitted)>,
    effect: Effect,
) -> Result<Option<Value>, Failure> {
    let Some(((first_key, first_kind, first), others)) = objects.split_first() else {
        return Ok(None);
    };
    for _ in 0..ATTEMPTS {
        if api.inner.store.get(first_key).map_err(unavailable)?.is_some() {
            return Ok(None);
        }
        let mut value = allocate::assign(api, first_kind, None, first.clone())?.into_value();
        let op = put(first_kind, value.clone())?;
        if effect == Effect::DryRun {
            return Ok(Some(value));
        }
        let mut changes = vec![Change { key: first_key.clone(), when: Precondition::Absent, op }];
        for (key, kind, admitted) in others {
            let op = put(kind, admitted.value().clone())?;
            changes.push(Change { key: key.clone(), when: Precondition::Any, op });
        }
        changes.extend(allocate::changes(first_kind, None, Some(&value)));
        match api.inner.store.commit(changes).await {
            Ok(revision) => {
                object::set_revision(&mut value, revision);
                return Ok(Some(value));
            }
            Err(CommitError::Refused { refused: Refused::Exists, index: 0 }) => return Ok(None),
            // Somebody else has just taken the address or port: another one, or a refusal.
            Err(CommitError::Refused { .. }) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Err(Failure::overloaded())
}

/// Changes the object at `key` to what `decide` makes of its current state; `NotFound` if there is
/// none. `decide` runs again when another writer was faster.
pub async fn change(
    api: &Api,
    kind: &Kind,
    key: &ObjectKey,
    effect: Effect,
    mut decide: impl FnMut(&Value) -> Result<Next, Failure>,
) -> Result<Written, Failure> {
    for _ in 0..ATTEMPTS {
        let Some(stored) = api.inner.store.get(key).map_err(unavailable)? else {
            return Err(Failure::not_found(kind, &key.name));
        };
        let current = show(kind, &stored)?;
        let (op, mut written) = match decide(&current)? {
            Next::Keep => return Ok(Written::Stored(current)),
            Next::Remove => (Op::Delete, Written::Removed(current.clone())),
            Next::Put(admitted) => {
                let next = allocate::assign(api, kind, Some(&current), admitted)?.into_value();
                if object::same_but_revision(&current, &next) {
                    return Ok(Written::Stored(current));
                }
                match is_finished(kind, &next) {
                    true => (Op::Delete, Written::Removed(next)),
                    false => (put(kind, next.clone())?, Written::Stored(next)),
                }
            }
        };
        if effect == Effect::DryRun {
            return Ok(written);
        }
        let remains = match &written {
            Written::Stored(object) => Some(object),
            Written::Removed(_) => None,
        };
        let claims = allocate::changes(kind, Some(&current), remains);
        let change = Change { key: key.clone(), when: Precondition::At(stored.revision), op };
        let changes = std::iter::once(change).chain(claims).collect();
        match api.inner.store.commit(changes).await {
            Ok(revision) => {
                let (Written::Stored(object) | Written::Removed(object)) = &mut written;
                object::set_revision(object, revision);
                return Ok(written);
            }
            Err(CommitError::Refused { .. }) => {} // Another writer was faster: decide anew.
            Err(error) => return Err(failed(error)),
        }
    }
    Err(Failure::modified(kind, &key.name))
}

fn put(kind: &Kind, object: Value) -> Result<Op, Failure> {
    let stored = object::to_stored(presentation::store_form(kind, object));
    match stored.len() > OBJECT_LIMIT {
        true => Err(Failure::too_large(OBJECT_LIMIT)),
        false => Ok(Op::Put(stored)),
    }
}

/// Whether nothing keeps a deleted object any longer: no finalizer, no grace left.
fn is_finished(kind: &Kind, object: &Value) -> bool {
    let has_own_finalizers = kind.plural == "namespaces"
        && object["spec"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
    object::is_terminating(object)
        && object::finalizers(object).is_empty()
        && !has_own_finalizers
        && object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
}

/// A read that the store could not serve.
pub fn unavailable(error: Unavailable) -> Failure {
    match error {
        Unavailable::Expired { oldest } => Failure::expired(format!(
            "The resourceVersion for the provided list is too old (history starts at {oldest})."
        )),
        Unavailable::Future { current } => Failure::future_version(0, current),
        Unavailable::Failed(reason) => {
            tracing::error!(%reason, "the store cannot read");
            Failure::internal("the store cannot read")
        }
    }
}

fn failed(error: CommitError) -> Failure {
    match error {
        CommitError::Refused { index, refused } => {
            tracing::error!(index, ?refused, "a commit without demands was refused");
            Failure::internal("the store refused a write")
        }
        CommitError::Failed(reason) => {
            tracing::error!(%reason, "the store cannot write");
            Failure::internal("the store cannot write")
        }
    }
}
