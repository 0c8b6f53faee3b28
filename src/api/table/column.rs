//! One column of a table: what it is called and when it is shown.
//!
//! It never knows cells.

use serde_json::{Value, json};

pub(super) struct Column {
    name: &'static str,
    kind: &'static str,
    format: &'static str,
    description: &'static str,
    /// 0 is always shown, 1 only in the wide form.
    priority: u8,
}

pub(super) const NAME: Column = Column {
    format: "name",
    ..column("Name", "string", "The name, unique among the objects of this kind in its namespace.")
};

pub(super) const AGE: Column = column("Age", "string", "How long ago the object was created.");

pub(super) const CREATED_AT: Column = column("Created At", "date", "When the object was created.");

pub(super) const fn string(name: &'static str, description: &'static str) -> Column {
    column(name, "string", description)
}

pub(super) const fn integer(name: &'static str, description: &'static str) -> Column {
    column(name, "integer", description)
}

pub(super) const fn boolean(name: &'static str, description: &'static str) -> Column {
    column(name, "boolean", description)
}

/// Shown only by `-o wide`.
pub(super) const fn wide(mut column: Column) -> Column {
    column.priority = 1;
    column
}

const fn column(name: &'static str, kind: &'static str, description: &'static str) -> Column {
    Column { name, kind, format: "", description, priority: 0 }
}

impl Column {
    pub(super) fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "type": self.kind,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        })
    }
}
