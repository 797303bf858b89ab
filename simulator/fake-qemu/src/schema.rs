//! Whether a command's arguments are what QEMU's schema says, in the words of QEMU's visitors.
//!
//! The types come out of the recorded `query-qmp-schema`. Its integers have no width (all are
//! `int` there), so the few narrower ones are listed here.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Types and commands by name.
pub(crate) struct Schema {
    types: BTreeMap<String, Type>,
    /// Name of each command to the name of its arguments' type.
    commands: BTreeMap<String, Command>,
    events: Vec<String>,
}

struct Command {
    arguments: String,
    out_of_band: OutOfBand,
}

/// Whether a command may be run ahead of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OutOfBand {
    /// It may.
    Allowed,
    /// It may not.
    Refused,
}

enum Type {
    Text,
    Integer,
    Boolean,
    Anything,
    Null,
    Number,
    Array(String),
    Enumeration(Vec<String>),
    Object {
        members: Vec<Member>,
        tag: Option<String>,
        variants: BTreeMap<String, String>,
    },
    Alternate(Vec<String>),
}

struct Member {
    name: String,
    kind: String,
    presence: Presence,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Presence {
    Required,
    Optional,
}

/// The widths that `query-qmp-schema` does not tell (`qapi/net.json`, `qapi/misc.json`).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Width {
    Int64,
    Int32,
    Uint16,
    Uint32,
    Uint64,
}

fn width(member: &str) -> Width {
    match member {
        "hubid" => Width::Int32,
        "queues" | "poll-us" => Width::Uint32,
        "to" => Width::Uint16,
        "sndbuf" | "txcookie" | "rxcookie" | "offset" | "max-bandwidth" => Width::Uint64,
        _ => Width::Int64,
    }
}

/// Where a value stands within the arguments, for error texts.
struct Place<'a> {
    parent: Option<&'a Place<'a>>,
    step: Step<'a>,
}

enum Step<'a> {
    Member(&'a str),
    Index(usize),
}

impl Place<'_> {
    /// As `full_name` in QEMU's `qapi/qobject-input-visitor.c` spells it.
    fn full(&self) -> String {
        let before = self.parent.map_or_else(String::new, Place::full);
        match self.step {
            Step::Member(name) if before.is_empty() => name.to_owned(),
            Step::Member(name) => format!("{before}.{name}"),
            Step::Index(index) => format!("{before}[{index}]"),
        }
    }

    /// The last name alone, as the checks of ranges and enumerations print it.
    fn local(&self) -> &str {
        match self.step {
            Step::Member(name) => name,
            Step::Index(_) => "null",
        }
    }

    fn mismatch(&self, expected: &str) -> String {
        let name = self.full();
        format!("Invalid parameter type for '{name}', expected: {expected}")
    }
}

impl Schema {
    pub(crate) fn new(entities: &[Value]) -> Self {
        let mut schema = Self {
            types: BTreeMap::new(),
            commands: BTreeMap::new(),
            events: Vec::new(),
        };
        for entity in entities {
            schema.add(entity);
        }
        schema
    }

    fn add(&mut self, entity: &Value) {
        let name = text(&entity["name"]);
        match entity["meta-type"].as_str() {
            Some("command") => {
                let out_of_band = if entity["allow-oob"] == Value::Bool(true) {
                    OutOfBand::Allowed
                } else {
                    OutOfBand::Refused
                };
                let arguments = text(&entity["arg-type"]);
                let command = Command {
                    arguments,
                    out_of_band,
                };
                self.commands.insert(name, command);
            }
            Some("event") => self.events.push(name),
            meta => {
                if let Some(kind) = read_type(meta, entity) {
                    self.types.insert(name, kind);
                }
            }
        }
    }

    /// Names of all commands.
    pub(crate) fn commands(&self) -> impl Iterator<Item = &str> {
        self.commands.keys().map(String::as_str)
    }

    /// Whether a command may be run out of band; `None` when there is no such command.
    pub(crate) fn command(&self, name: &str) -> Option<OutOfBand> {
        self.commands.get(name).map(|command| command.out_of_band)
    }

    /// Whether a command's arguments fit, else why not.
    pub(crate) fn check(
        &self,
        command: &str,
        arguments: &Map<String, Value>,
    ) -> Result<(), String> {
        match self.commands.get(command) {
            Some(command) => self.check_object(&command.arguments, arguments, None),
            None => Ok(()),
        }
    }

    fn check_object(
        &self,
        kind: &str,
        object: &Map<String, Value>,
        place: Option<&Place<'_>>,
    ) -> Result<(), String> {
        let mut known = Vec::new();
        self.check_members(kind, object, place, &mut known)?;
        let surplus = object.keys().find(|key| !known.contains(&key.as_str()));
        let Some(surplus) = surplus else {
            return Ok(());
        };
        let surplus = member(place, surplus).full();
        Err(format!("Parameter '{surplus}' is unexpected"))
    }

    fn check_members<'s>(
        &'s self,
        kind: &str,
        object: &Map<String, Value>,
        place: Option<&Place<'_>>,
        known: &mut Vec<&'s str>,
    ) -> Result<(), String> {
        let Some(Type::Object {
            members,
            tag,
            variants,
        }) = self.types.get(kind)
        else {
            return Ok(());
        };
        for expected in members {
            known.push(&expected.name);
            let place = member(place, &expected.name);
            match object.get(&expected.name) {
                Some(value) => self.check_value(&expected.kind, value, &place)?,
                None if expected.presence == Presence::Optional => {}
                None => return Err(format!("Parameter '{}' is missing", place.full())),
            }
        }
        let case = tag.as_ref().and_then(|tag| object.get(tag)?.as_str());
        match case.and_then(|case| variants.get(case)) {
            Some(variant) => self.check_members(variant, object, place, known),
            None => Ok(()),
        }
    }

    fn check_value(&self, kind: &str, value: &Value, place: &Place<'_>) -> Result<(), String> {
        let Some(known) = self.types.get(kind) else {
            return Ok(());
        };
        match (known, value) {
            (Type::Anything, _)
            | (Type::Text | Type::Enumeration(_), Value::String(_))
            | (Type::Boolean, Value::Bool(_))
            | (Type::Null, Value::Null)
            | (Type::Number, Value::Number(_)) => check_case(known, value, place),
            (Type::Text | Type::Enumeration(_), _) => Err(place.mismatch("string")),
            (Type::Boolean, _) => Err(place.mismatch("boolean")),
            (Type::Null, _) => Err(place.mismatch("null")),
            (Type::Number, _) => Err(place.mismatch("number")),
            (Type::Integer, _) => check_integer(value, place),
            (Type::Array(kind), Value::Array(values)) => self.check_array(kind, values, place),
            (Type::Array(_), _) => Err(place.mismatch("array")),
            (Type::Object { .. }, Value::Object(object)) => {
                self.check_object(kind, object, Some(place))
            }
            (Type::Object { .. }, _) => Err(place.mismatch("object")),
            (Type::Alternate(kinds), _) => self.check_alternate(kinds, value, place),
        }
    }

    fn check_array(&self, kind: &str, values: &[Value], place: &Place<'_>) -> Result<(), String> {
        for (index, value) in values.iter().enumerate() {
            let place = Place {
                parent: Some(place),
                step: Step::Index(index),
            };
            self.check_value(kind, value, &place)?;
        }
        Ok(())
    }

    fn check_alternate(
        &self,
        kinds: &[String],
        value: &Value,
        place: &Place<'_>,
    ) -> Result<(), String> {
        let fits = |kind: &&String| {
            let kind = self.types.get(kind.as_str());
            matches!(
                (kind, value),
                (Some(Type::Text | Type::Enumeration(_)), Value::String(_))
                    | (Some(Type::Object { .. }), Value::Object(_))
                    | (Some(Type::Null), Value::Null)
                    | (Some(Type::Boolean), Value::Bool(_))
                    | (Some(Type::Integer | Type::Number), Value::Number(_))
            )
        };
        match kinds.iter().find(fits) {
            Some(kind) => self.check_value(kind, value, place),
            None => Err(place.mismatch("string")),
        }
    }
}

fn member<'a>(parent: Option<&'a Place<'a>>, name: &'a str) -> Place<'a> {
    Place {
        parent,
        step: Step::Member(name),
    }
}

fn check_case(kind: &Type, value: &Value, place: &Place<'_>) -> Result<(), String> {
    let (Type::Enumeration(cases), Value::String(case)) = (kind, value) else {
        return Ok(());
    };
    if cases.contains(case) {
        return Ok(());
    }
    let name = place.local();
    Err(format!("Parameter '{name}' does not accept value '{case}'"))
}

fn check_integer(value: &Value, place: &Place<'_>) -> Result<(), String> {
    let width = width(place.local());
    let name = place.local();
    let unsigned = value.as_u64();
    match width {
        Width::Int64 | Width::Int32 => {
            let number = value.as_i64().ok_or_else(|| place.mismatch("integer"))?;
            match width == Width::Int32 && i32::try_from(number).is_err() {
                true => Err(format!("Parameter '{name}' expects int32_t")),
                false => Ok(()),
            }
        }
        Width::Uint16 | Width::Uint32 | Width::Uint64 => {
            if unsigned.is_none() && value.as_i64().is_none() {
                return Err(format!("Parameter '{}' expects uint64", place.full()));
            }
            let (most, expected) = match width {
                Width::Uint16 => (u64::from(u16::MAX), "uint16_t"),
                Width::Uint32 => (u64::from(u32::MAX), "uint32_t"),
                Width::Int64 | Width::Int32 | Width::Uint64 => return Ok(()),
            };
            match unsigned.is_some_and(|number| number <= most) {
                true => Ok(()),
                false => Err(format!("Parameter '{name}' expects {expected}")),
            }
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn read_type(meta: Option<&str>, entity: &Value) -> Option<Type> {
    let list = |field: &str| entity[field].as_array().cloned().unwrap_or_default();
    match meta? {
        "builtin" => Some(match entity["json-type"].as_str()? {
            "string" => Type::Text,
            "int" => Type::Integer,
            "boolean" => Type::Boolean,
            "null" => Type::Null,
            "number" => Type::Number,
            _ => Type::Anything,
        }),
        "array" => Some(Type::Array(text(&entity["element-type"]))),
        "enum" => Some(Type::Enumeration(list("values").iter().map(text).collect())),
        "alternate" => {
            let kinds = list("members")
                .iter()
                .map(|kind| text(&kind["type"]))
                .collect();
            Some(Type::Alternate(kinds))
        }
        "object" => Some(Type::Object {
            members: list("members").iter().map(read_member).collect(),
            tag: entity["tag"].as_str().map(str::to_owned),
            variants: list("variants")
                .iter()
                .map(|variant| (text(&variant["case"]), text(&variant["type"])))
                .collect(),
        }),
        _ => None,
    }
}

fn read_member(member: &Value) -> Member {
    // A default of null is how the schema says that a member may be left out.
    let presence = match member.get("default") {
        Some(_) => Presence::Optional,
        None => Presence::Required,
    };
    Member {
        name: text(&member["name"]),
        kind: text(&member["type"]),
        presence,
    }
}
