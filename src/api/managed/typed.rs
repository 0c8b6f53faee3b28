//! Objects as server-side apply sees them: which fields one has, in what two differ, one laid over
//! another, fields taken out.
//!
//! It never knows whose a field is. Pure. Source: sigs.k8s.io/structured-merge-diff.

use serde_json::{Map, Value};

use super::fields::Fields;
use crate::api::schema::{Field, Item, Shape, Structure, Type};

/// How the value at a place is put together.
#[derive(Clone, Copy)]
pub enum Form {
    /// Owned whole: a scalar, or what the schema calls atomic.
    Leaf,
    Struct(&'static Type),
    /// From strings to these.
    Map(Item),
    /// Items told apart by these members.
    List(Item, &'static [&'static str]),
    /// Scalars, each once.
    Set,
}

/// The form of an object of type `root`.
pub fn of_kind(root: &'static Type) -> Form {
    Form::Struct(root)
}

fn of_field(field: &Field) -> Form {
    match (field.shape, field.structure) {
        (_, Structure::Atomic) => Form::Leaf,
        (Shape::One(item), _) => of_item(item),
        (Shape::Map(item), _) => Form::Map(item),
        (Shape::List(item), Structure::Map(keys)) => Form::List(item, keys),
        (Shape::List(_), Structure::Set) => Form::Set,
        (Shape::List(_), Structure::Granular) => Form::Leaf,
    }
}

fn of_item(item: Item) -> Form {
    match item.object() {
        Some(below) if !below.is_atomic => Form::Struct(below),
        Some(_) | None => Form::Leaf,
    }
}

impl Form {
    /// The form of the member `name`; unknown members are leaves.
    fn member(self, name: &str) -> Form {
        match self {
            Form::Struct(of) => of.field(name).map_or(Form::Leaf, of_field),
            Form::Map(item) => of_item(item),
            Form::Leaf | Form::List(..) | Form::Set => Form::Leaf,
        }
    }

    fn item(self) -> Form {
        match self {
            Form::List(item, _) => of_item(item),
            Form::Leaf | Form::Struct(_) | Form::Map(_) | Form::Set => Form::Leaf,
        }
    }

    /// Whether a place of this form is told apart from its surroundings by the data itself.
    fn is_by_data(self, within: Form) -> bool {
        matches!(within, Form::Map(_)) || matches!(self, Form::Map(_) | Form::List(..) | Form::Set)
    }
}

/// The step to a list item. Keys that have a default may be left out.
fn item_step(item: &Value, keys: &[&str]) -> String {
    let mut found: Vec<(&str, Value)> = keys
        .iter()
        .filter_map(|key| match (&item[*key], *key) {
            (Value::Null, "protocol") => Some((*key, "TCP".into())),
            (Value::Null, _) => None,
            (value, _) => Some((*key, value.clone())),
        })
        .collect();
    found.sort_by_key(|(key, _)| *key);
    let map: Map<String, Value> =
        found.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    format!("k:{}", Value::Object(map))
}

fn value_step(item: &Value) -> String {
    format!("v:{item}")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The fields that `value` has.
pub fn fields(value: &Value, form: Form) -> Fields {
    let mut set = Fields::default();
    match form {
        Form::Leaf => return Fields::member(),
        Form::Struct(_) | Form::Map(_) => {
            let Some(members) = value.as_object() else { return Fields::member() };
            for (name, value) in members {
                let mut below = fields(value, form.member(name));
                let is_hollow = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                below.is_member |= is_hollow || matches!(form, Form::Map(_));
                set.put(format!("f:{name}"), below);
            }
        }
        Form::List(_, keys) => {
            for item in list(value) {
                let mut below = fields(item, form.item());
                below.is_member = true;
                set.put(item_step(item, keys), below);
            }
        }
        Form::Set => {
            for item in list(value) {
                set.put(value_step(item), Fields::member());
            }
        }
    }
    set
}

/// The first list that names one item twice, as a message says it.
pub fn duplicate(value: &Value, form: Form, at: &str) -> Option<String> {
    match form {
        Form::Leaf => None,
        Form::Struct(_) | Form::Map(_) => value
            .as_object()?
            .iter()
            .find_map(|(name, value)| duplicate(value, form.member(name), &format!("{at}.{name}"))),
        Form::List(_, keys) => {
            let mut seen = Vec::new();
            list(value).iter().find_map(|item| {
                let step = item_step(item, keys);
                if seen.contains(&step) {
                    return Some(format!("{at}: duplicate entries for key {}", &step[2..]));
                }
                seen.push(step);
                duplicate(item, form.item(), at)
            })
        }
        Form::Set => {
            let items = list(value);
            let twice = items.iter().enumerate().find(|(n, item)| items[..*n].contains(item));
            twice.map(|(_, item)| format!("{at}: duplicate entries for key [={item}]"))
        }
    }
}

/// In what two objects differ.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// New, or with another value than before.
    pub changed: Fields,
    pub removed: Fields,
}

/// Compares the values at one place.
pub fn compare(old: &Value, new: &Value, form: Form) -> Difference {
    let mut found = Difference::default();
    match form {
        Form::Leaf => {
            if old != new {
                found.changed = Fields::member();
            }
        }
        Form::Struct(_) | Form::Map(_) => {
            let empty = Map::new();
            let before = old.as_object().unwrap_or(&empty);
            let after = new.as_object().unwrap_or(&empty);
            for name in before.keys().chain(after.keys().filter(|name| !before.contains_key(*name)))
            {
                let below = form.member(name);
                let one = one(before.get(name), after.get(name), below, below.is_by_data(form));
                found.changed.put(format!("f:{name}"), one.changed);
                found.removed.put(format!("f:{name}"), one.removed);
            }
        }
        Form::List(_, keys) => {
            let step = |item: &Value| item_step(item, keys);
            pairs(list(old), list(new), step, |step, before, after| {
                let one = one(before, after, form.item(), true);
                found.changed.put(step.to_owned(), one.changed);
                found.removed.put(step.to_owned(), one.removed);
            });
        }
        Form::Set => {
            pairs(list(old), list(new), value_step, |step, before, after| match (before, after) {
                (None, Some(_)) => found.changed.put(step.to_owned(), Fields::member()),
                (Some(_), None) => found.removed.put(step.to_owned(), Fields::member()),
                _ => {}
            })
        }
    }
    found
}

fn one(before: Option<&Value>, after: Option<&Value>, form: Form, is_by_data: bool) -> Difference {
    let whole = |value: &Value| {
        let mut set = fields(value, form);
        set.is_member |= is_by_data || value.as_object().is_some_and(Map::is_empty);
        set
    };
    let present = |value: Option<&'_ Value>| value.filter(|value| !value.is_null()).cloned();
    match (present(before), present(after)) {
        (None, None) => Difference::default(),
        (None, Some(after)) => Difference { changed: whole(&after), removed: Fields::default() },
        (Some(before), None) => Difference { changed: Fields::default(), removed: whole(&before) },
        (Some(before), Some(after)) => compare(&before, &after, form),
    }
}

/// Visits the items of both lists, each by its step.
fn pairs<'a>(
    old: &'a [Value],
    new: &'a [Value],
    step: impl Fn(&Value) -> String,
    mut visit: impl FnMut(&str, Option<&'a Value>, Option<&'a Value>),
) {
    let before: Vec<(String, &Value)> = old.iter().map(|item| (step(item), item)).collect();
    let after: Vec<(String, &Value)> = new.iter().map(|item| (step(item), item)).collect();
    for (step, item) in &before {
        let other = after.iter().find(|(other, _)| other == step).map(|(_, item)| *item);
        visit(step, Some(item), other);
    }
    for (step, item) in after.iter().filter(|(step, _)| before.iter().all(|(own, _)| own != step)) {
        visit(step, None, Some(item));
    }
}

/// `over` laid upon `live`: what it names is as it says, everything else stays.
pub fn merge(live: &Value, over: &Value, form: Form) -> Value {
    match (form, live, over) {
        (Form::Struct(_) | Form::Map(_), Value::Object(live), Value::Object(over)) => {
            let mut merged = live.clone();
            for (name, value) in over {
                let next = match (live.get(name), value) {
                    (_, Value::Null) => {
                        merged.shift_remove(name);
                        continue;
                    }
                    (Some(own), value) => merge(own, value, form.member(name)),
                    (None, value) => value.clone(),
                };
                merged.insert(name.clone(), next);
            }
            Value::Object(merged)
        }
        (Form::List(_, keys), Value::Array(live), Value::Array(over)) => {
            let step = |item: &Value| item_step(item, keys);
            Value::Array(weave(live, over, step, |own, value| merge(own, value, form.item())))
        }
        (Form::Set, Value::Array(live), Value::Array(over)) => {
            Value::Array(weave(live, over, value_step, |_, value| value.clone()))
        }
        (_, _, over) => over.clone(),
    }
}

/// The items of `over` in their order; those of `live` alone keep their places between them.
fn weave(
    live: &[Value],
    over: &[Value],
    step: impl Fn(&Value) -> String,
    join: impl Fn(&Value, &Value) -> Value,
) -> Vec<Value> {
    let own: Vec<(String, &Value)> = live.iter().map(|item| (step(item), item)).collect();
    let wanted: Vec<String> = over.iter().map(&step).collect();
    let mut rest = over.iter().map(|item| {
        let key = step(item);
        match own.iter().find(|(other, _)| *other == key) {
            Some((_, live)) => (true, join(live, item)),
            None => (false, item.clone()),
        }
    });
    let mut woven = Vec::with_capacity(live.len() + over.len());
    for (step, item) in &own {
        match wanted.contains(step) {
            false => woven.push((*item).clone()),
            // Here stood one that is in both: the next of those, with what is new before it.
            true => {
                for (is_shared, item) in rest.by_ref() {
                    woven.push(item);
                    if is_shared {
                        break;
                    }
                }
            }
        }
    }
    woven.extend(rest.map(|(_, item)| item));
    woven
}

/// `value` without `gone`.
pub fn without(value: &Value, gone: &Fields, form: Form) -> Value {
    match (form, value) {
        (Form::Struct(_) | Form::Map(_), Value::Object(members)) => {
            let mut kept = Map::new();
            for (name, value) in members {
                let Some(below) = gone.at(&format!("f:{name}")) else {
                    kept.insert(name.clone(), value.clone());
                    continue;
                };
                let inner = form.member(name);
                let rest = match inner {
                    Form::Leaf => continue,
                    _ => without(value, below, inner),
                };
                if !(below.is_member || matches!(inner, Form::List(..) | Form::Set))
                    || !is_hollow(&rest)
                {
                    kept.insert(name.clone(), rest);
                }
            }
            Value::Object(kept)
        }
        (Form::List(_, keys), Value::Array(items)) => Value::Array(
            items
                .iter()
                .filter_map(|item| match gone.at(&item_step(item, keys)) {
                    None => Some(item.clone()),
                    Some(below) if below.is_member => None,
                    // Others hold the item: it keeps what tells it apart.
                    Some(below) => {
                        let mut below = below.clone();
                        keys.iter().for_each(|key| below.remove(&format!("f:{key}")));
                        Some(without(item, &below, form.item()))
                    }
                })
                .collect(),
        ),
        (Form::Set, Value::Array(items)) => Value::Array(
            items.iter().filter(|item| gone.at(&value_step(item)).is_none()).cloned().collect(),
        ),
        (_, value) => value.clone(),
    }
}

fn is_hollow(value: &Value) -> bool {
    match value {
        Value::Object(members) => members.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}
