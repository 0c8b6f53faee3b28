//! The shape of every built-in type: members, JSON and protobuf types, merge strategies, list types.
//!
//! One committed table (`types.txt`) drives protobuf decoding, strict validation and merging. Nothing
//! here knows what a value means, fills a default, or serves a request.

mod check;
#[cfg(test)]
mod generate;
pub mod kinds;
mod table;

pub use self::check::check;

/// A structured type, as `core.v1.PodSpec`.
#[derive(Debug)]
pub struct Type {
    /// Group (as a Go package), version and Go name: `core.v1.PodSpec`, `meta.v1.ObjectMeta`.
    pub name: &'static str,
    /// Server-side apply owns it whole (`+structType=atomic`), as label selectors.
    pub is_atomic: bool,
    /// Ordered by name.
    fields: Vec<Field>,
    /// Go structs embedded in this one: a message of their own in protobuf, members of the parent in JSON.
    embedded: Vec<(u32, TypeId)>,
}

/// One member of a [`Type`].
#[derive(Debug)]
pub struct Field {
    /// Its JSON name.
    pub name: &'static str,
    /// Protobuf field number; 0 where protobuf does not have it here.
    pub tag: u32,
    pub shape: Shape,
    pub is_required: bool,
    /// Not a pointer in Go and left out of JSON when zero: a zero from protobuf means "unset".
    pub omits_zero: bool,
    /// A pointer to a string in Go, where empty and unset differ.
    pub keeps_empty: bool,
    pub structure: Structure,
    pub merge: Merge,
}

/// What a member holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    One(Item),
    List(Item),
    /// From strings.
    Map(Item),
}

/// A value, or an element of a list or map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item {
    String,
    /// Base64 in JSON.
    Bytes,
    Int32,
    Int64,
    Bool,
    Double,
    IntOrString,
    Quantity,
    /// RFC 3339, seconds.
    Time,
    /// RFC 3339, microseconds.
    MicroTime,
    /// Any JSON: RawExtension, FieldsV1.
    Raw,
    /// A list of strings (only in maps: ExtraValue).
    Strings,
    Object(TypeId),
}

/// Names a [`Type`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TypeId(u16);

/// How server-side apply sees a list or map (`x-kubernetes-list-type`, `-map-type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Structure {
    /// A single value, or a map or struct whose members are owned one by one.
    Granular,
    Atomic,
    Set,
    /// A list of objects told apart by these members.
    Map(&'static [&'static str]),
}

/// `x-kubernetes-patch-strategy` and `-merge-key`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Merge {
    /// A list is merged: `Some(Some(key))` by that member, `Some(None)` as a set of scalars.
    pub list: Option<Option<&'static str>>,
    pub retains_keys: bool,
    /// A struct or map is replaced whole.
    pub replaces: bool,
}

/// The type of a kind; `None` for kinds that are not built in (custom resources).
pub fn lookup(api_version: &str, kind: &str) -> Option<&'static Type> {
    table::table().kind(api_version, kind)
}

/// A type by its name, as `core.v1.PodSpec`.
pub fn by_name(name: &str) -> Option<&'static Type> {
    table::table().named(name)
}

impl TypeId {
    pub fn get(self) -> &'static Type {
        table::table().at(self)
    }
}

impl Type {
    /// The member called `name` in JSON.
    pub fn field(&self, name: &str) -> Option<&Field> {
        let found = self.fields.binary_search_by(|field| field.name.cmp(name));
        found.ok().map(|index| &self.fields[index])
    }

    /// All members, ordered by name.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// The member with this protobuf number.
    pub fn tagged(&self, tag: u32) -> Option<&Field> {
        self.fields.iter().find(|field| field.tag == tag && tag != 0)
    }

    /// The embedded struct with this protobuf number.
    pub fn embedded(&self, tag: u32) -> Option<&'static Type> {
        self.embedded.iter().find(|(number, _)| *number == tag).map(|(_, id)| id.get())
    }

    /// Its Go name without the package: `PodSpec`.
    pub fn go_name(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }

    /// Package and name as Go prints them: `v1.PodSpec`.
    pub fn go_type(&self) -> &'static str {
        let mut dots = self.name.rmatch_indices('.');
        dots.next();
        dots.next().map_or(self.name, |(at, _)| &self.name[at + 1..])
    }
}

impl Item {
    /// The struct it is, if it is one.
    pub fn object(self) -> Option<&'static Type> {
        match self {
            Item::Object(id) => Some(id.get()),
            Item::String
            | Item::Bytes
            | Item::Int32
            | Item::Int64
            | Item::Bool
            | Item::Double
            | Item::IntOrString
            | Item::Quantity
            | Item::Time
            | Item::MicroTime
            | Item::Raw
            | Item::Strings => None,
        }
    }
}

impl Shape {
    /// The value itself, or what the list or map holds.
    pub fn item(self) -> Item {
        match self {
            Shape::One(item) | Shape::List(item) | Shape::Map(item) => item,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_carry_their_merge_keys() {
        let spec =
            lookup("v1", "Pod").unwrap().field("spec").unwrap().shape.item().object().unwrap();
        assert_eq!(spec.name, "core.v1.PodSpec");
        let containers = spec.field("containers").unwrap();
        assert_eq!(containers.merge.list, Some(Some("name")));
        assert_eq!(containers.structure, Structure::Map(&["name"]));
        assert_eq!(containers.tag, 2);
        let ports = containers.shape.item().object().unwrap().field("ports").unwrap();
        assert_eq!(ports.merge.list, Some(Some("containerPort")));
        assert_eq!(ports.structure, Structure::Map(&["containerPort", "protocol"]));
        assert_eq!(spec.field("tolerations").unwrap().structure, Structure::Atomic);
        assert!(by_name("meta.v1.LabelSelector").unwrap().is_atomic);
        assert!(spec.field("volumes").unwrap().merge.retains_keys);
    }

    #[test]
    fn kinds_without_a_home_are_found_in_every_version() {
        assert_eq!(lookup("v1", "DeleteOptions").unwrap().name, "meta.v1.DeleteOptions");
        assert_eq!(lookup("apps/v1", "DeleteOptions").unwrap().name, "meta.v1.DeleteOptions");
        assert!(lookup("example.com/v1", "Pod").is_none());
        assert!(lookup("v1", "Deployment").is_none());
    }

    #[test]
    fn go_prints_types_with_their_package() {
        assert_eq!(by_name("core.v1.PodSpec").unwrap().go_type(), "v1.PodSpec");
        assert_eq!(by_name("core.v1.PodSpec").unwrap().go_name(), "PodSpec");
    }
}
