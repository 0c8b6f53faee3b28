//! Whose a field is: `metadata.managedFields`, and server-side apply on top of it.
//!
//! Ownership is recorded from an object's first apply on; what stood there before belongs to the manager
//! `before-first-apply`, as in Kubernetes for objects older than its own records. So who never applies
//! pays nothing. Pure: it never reads the store. Source: KEP-555.

mod fields;
mod typed;

use serde_json::{Value, json};

use self::fields::Fields;
use self::typed::Form;
use crate::api::catalog::Kind;
use crate::api::{object, schema};
use crate::model::time::Timestamp;

/// Who owns what stood in an object before anything was recorded.
const BEFORE: &str = "before-first-apply";
/// The manager of `kubectl apply --server-side`.
const KUBECTL: &str = "kubectl";
/// Whom the oldest writers become when there are too many.
const ANCIENT: &str = "ancient-changes";
const MOST_UPDATERS: usize = 10;
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Metadata that nobody owns.
const UNOWNED: &[&str] = &[
    "f:name",
    "f:namespace",
    "f:uid",
    "f:creationTimestamp",
    "f:generation",
    "f:resourceVersion",
    "f:managedFields",
    "f:deletionTimestamp",
    "f:deletionGracePeriodSeconds",
    "f:selfLink",
];

/// Who writes, and where.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    pub manager: &'a str,
    /// `status`, `scale`; empty on the main endpoint.
    pub subresource: &'a str,
    pub now: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        }
    }
}

/// One entry of `managedFields`.
#[derive(Debug, Clone, PartialEq)]
struct Entry {
    manager: String,
    operation: Operation,
    api_version: String,
    subresource: String,
    time: String,
    fields: Fields,
}

/// Why an apply cannot be.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// What others have set, as (who, field).
    Conflicts(Vec<(String, String)>),
    /// The kind has no schema here.
    NoSchema,
    /// A list names an item twice.
    Duplicate(String),
}

fn read(object: &Value) -> Option<Vec<Entry>> {
    let list = object["metadata"]["managedFields"].as_array()?;
    let entry = |value: &Value| {
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        Some(Entry {
            manager: text("manager"),
            operation: match value["operation"].as_str()? {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return None,
            },
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: text("time"),
            fields: Fields::from_json(&value["fieldsV1"])?,
        })
    };
    list.iter().map(entry).collect()
}

fn write(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|entry| !entry.fields.is_empty());
    entries.sort_by(|one, other| {
        let key = |entry: &Entry| {
            (entry.operation, entry.time.clone(), entry.manager.clone(), entry.subresource.clone())
        };
        key(one).cmp(&key(other))
    });
    let metadata = object::metadata_mut(object);
    metadata.shift_remove("managedFields");
    if entries.is_empty() {
        return;
    }
    let list = entries.into_iter().map(|entry| {
        let mut value = json!({
            "manager": entry.manager,
            "operation": entry.operation.as_str(),
            "apiVersion": entry.api_version,
            "time": entry.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": entry.fields.to_json(),
        });
        if !entry.subresource.is_empty() {
            value["subresource"] = entry.subresource.into();
        }
        value
    });
    metadata.insert("managedFields".to_owned(), list.collect());
}

/// What becomes of the `managedFields` that a client sent: an empty list (or one empty entry) forgets
/// all, another right list replaces the old, everything else leaves it as it is in `old`.
pub fn carry_over(old: &Value, new: &mut Value) {
    let sent = &new["metadata"]["managedFields"];
    let forgets = sent.as_array().is_some_and(|list| match list.as_slice() {
        [] => true,
        [only] => only.as_object().is_some_and(serde_json::Map::is_empty),
        _ => false,
    });
    if forgets {
        object::metadata_mut(new).shift_remove("managedFields");
    } else if read(new).is_none() {
        object::copy_metadata(new, old, "managedFields");
    }
}

fn form(kind: &Kind) -> Option<Form> {
    schema::lookup(&kind.api_version(), kind.kind).map(typed::of_kind)
}

/// Takes out what nobody owns at this endpoint.
fn owned(mut all: Fields, kind: &Kind, subresource: &str) -> Fields {
    let strip = |all: &mut Fields, step: &str, unowned: &[&str]| {
        if let Some(mut below) = all.at(step).cloned() {
            unowned.iter().for_each(|step| below.remove(step));
            // An empty map that holds nothing ownable is nothing.
            below.is_member = false;
            all.remove(step);
            all.put(step.to_owned(), below);
        }
    };
    strip(&mut all, "f:metadata", UNOWNED);
    all.remove("f:apiVersion");
    all.remove("f:kind");
    all.is_member = false;
    match subresource {
        "status" => all.keep("f:status"),
        _ if kind.subresource("status").is_some() => all.remove("f:status"),
        _ => {}
    }
    all
}

/// Records that `writer` made `new` of `old` by other means than apply. Nothing is recorded before the
/// first apply.
pub fn track(kind: &Kind, old: &Value, new: &mut Value, writer: &Writer<'_>) {
    let Some(mut entries) = read(new).filter(|entries| !entries.is_empty()) else { return };
    let Some(form) = form(kind) else { return };
    let found = typed::compare(old, new, form);
    let changed = owned(found.changed, kind, writer.subresource);
    let removed = owned(found.removed, kind, writer.subresource);
    if changed.is_empty() && removed.is_empty() {
        return;
    }
    let gone = changed.union(&removed);
    let api_version = kind.api_version();
    let is_own = |entry: &Entry| {
        entry.manager == writer.manager
            && entry.operation == Operation::Update
            && entry.api_version == api_version
            && entry.subresource == writer.subresource
    };
    for entry in &mut entries {
        entry.fields = entry.fields.difference(if is_own(entry) { &removed } else { &gone });
    }
    if !changed.is_empty() {
        match entries.iter_mut().find(|entry| is_own(entry)) {
            Some(entry) => {
                entry.fields = entry.fields.union(&changed);
                entry.time = writer.now.to_seconds_text();
            }
            None => entries.push(Entry {
                manager: writer.manager.to_owned(),
                operation: Operation::Update,
                api_version,
                subresource: writer.subresource.to_owned(),
                time: writer.now.to_seconds_text(),
                fields: changed,
            }),
        }
    }
    write(new, with_few_updaters(entries));
}

/// The oldest writers become one when there are too many.
fn with_few_updaters(mut entries: Vec<Entry>) -> Vec<Entry> {
    loop {
        let mut updaters: Vec<usize> = (0..entries.len())
            .filter(|n| {
                entries[*n].operation == Operation::Update && entries[*n].subresource.is_empty()
            })
            .collect();
        if updaters.len() <= MOST_UPDATERS {
            return entries;
        }
        updaters.sort_by_key(|n| (entries[*n].manager != ANCIENT, entries[*n].time.clone()));
        let (first, second) = (updaters[0], updaters[1]);
        let joined = entries[first].fields.union(&entries[second].fields);
        let time = entries[second].time.clone();
        entries[first] =
            Entry { manager: ANCIENT.to_owned(), fields: joined, time, ..entries[first].clone() };
        entries.remove(second);
    }
}

/// `live` (if there is one) with what `applied` says, and without what its manager said before and
/// says no more. `applied` holds only what the client wrote.
pub fn apply(
    kind: &Kind,
    live: Option<&Value>,
    applied: &Value,
    writer: &Writer<'_>,
    is_forced: bool,
) -> Result<Value, Refused> {
    let form = form(kind).ok_or(Refused::NoSchema)?;
    if let Some(twice) = typed::duplicate(applied, form, "") {
        return Err(Refused::Duplicate(twice));
    }
    let mine = owned(typed::fields(applied, form), kind, writer.subresource);
    let Some(live) = live else {
        let mut made = applied.clone();
        write(&mut made, vec![entry(kind, writer, mine, None)]);
        return Ok(made);
    };
    let mut entries = read(live).unwrap_or_default();
    if entries.is_empty() {
        // Of the whole object, through whichever endpoint the first apply comes.
        let before = owned(typed::fields(live, form), kind, "");
        let made = object::text(live, &["metadata", "creationTimestamp"]).to_owned();
        entries.push(Entry {
            manager: BEFORE.to_owned(),
            operation: Operation::Update,
            time: made,
            subresource: String::new(),
            ..entry(kind, writer, before, None)
        });
    }
    let is_mine = |entry: &Entry| {
        entry.manager == writer.manager
            && entry.operation == Operation::Apply
            && entry.subresource == writer.subresource
    };
    let last = entries.iter().position(is_mine).map(|place| entries.remove(place));
    let merged = typed::merge(live, applied, form);
    let found = typed::compare(live, &merged, form);
    let changed = owned(found.changed, kind, writer.subresource);
    // What `kubectl apply` said before it was told to apply on the server is its own (client-go's lastAppliedManager).
    let disputed = match writer.manager {
        KUBECTL => changed.difference(&last_applied(live, form)),
        _ => changed.clone(),
    };
    let conflicts = conflicts(&entries, &disputed);
    if !is_forced && !conflicts.is_empty() {
        return Err(Refused::Conflicts(conflicts));
    }
    for entry in &mut entries {
        entry.fields = entry.fields.difference(&changed);
    }
    let mut next = merged;
    if let Some(last) = &last {
        let others = entries.iter().fold(Fields::default(), |all, entry| all.union(&entry.fields));
        let gone = unclaimed(&last.fields.difference(&mine), &others);
        next = typed::without(&next, &gone, form);
    }
    entries.push(entry(kind, writer, mine, last));
    if writer.manager == KUBECTL {
        keep_last_applied(live, applied, &mut next);
    }
    write(&mut next, entries);
    Ok(next)
}

/// This writer's entry; as old as the last one if that says the same.
fn entry(kind: &Kind, writer: &Writer<'_>, fields: Fields, last: Option<Entry>) -> Entry {
    let api_version = kind.api_version();
    let time = match last {
        Some(last) if last.fields == fields && last.api_version == api_version => last.time,
        _ => writer.now.to_seconds_text(),
    };
    Entry {
        manager: writer.manager.to_owned(),
        operation: Operation::Apply,
        api_version,
        subresource: writer.subresource.to_owned(),
        time,
        fields,
    }
}

fn conflicts(others: &[Entry], changed: &Fields) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in others {
        let mut who = format!("{:?}", entry.manager);
        if !entry.subresource.is_empty() {
            who.push_str(&format!(" with subresource {:?}", entry.subresource));
        }
        if entry.operation == Operation::Update {
            who.push_str(&format!(" using {}", entry.api_version));
        }
        for path in entry.fields.intersection(changed).paths() {
            found.push((who.clone(), path));
        }
    }
    found
}

/// What of `candidates` nobody else has anything in or below.
fn unclaimed(candidates: &Fields, others: &Fields) -> Fields {
    let mut rest = Fields::default();
    rest.is_member = candidates.is_member && others.is_empty();
    for (step, fields) in candidates.entries() {
        match others.at(step) {
            Some(claimed) => rest.put(step.to_owned(), unclaimed(fields, claimed)),
            None => rest.put(step.to_owned(), fields.clone()),
        }
    }
    rest
}

/// The fields that client-side apply said last.
fn last_applied(live: &Value, form: Form) -> Fields {
    let text = live["metadata"]["annotations"][LAST_APPLIED].as_str();
    let said = text.and_then(|text| serde_json::from_str::<Value>(text).ok());
    said.filter(Value::is_object).map_or(Fields::default(), |said| typed::fields(&said, form))
}

/// Client-side apply goes on from where server-side apply left.
fn keep_last_applied(live: &Value, applied: &Value, next: &mut Value) {
    if live["metadata"]["annotations"][LAST_APPLIED].is_string()
        && next["metadata"]["annotations"][LAST_APPLIED].is_string()
        && applied["metadata"]["annotations"][LAST_APPLIED].is_null()
    {
        next["metadata"]["annotations"][LAST_APPLIED] = format!("{applied}\n").into();
    }
}

#[cfg(test)]
mod tests;
