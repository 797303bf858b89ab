//! At which operations something can go wrong.
//!
//! An operation is a family and a name, `qmp.device_add`; a rule may leave the name open,
//! `qmp.*`, and is then about those of the family to which its effect can happen.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::table::{self, Row};

/// An operation of a rule: one, or all of a family.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Operation(String);

/// A text that names no operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no operation {name:?}; there are {known}")]
pub struct OperationError {
    name: String,
    known: String,
}

impl Operation {
    /// Whether an occasion of this name is meant.
    #[must_use]
    pub fn covers(&self, name: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(family) => name.starts_with(family),
            None => self.0 == name,
        }
    }

    /// Those of the table that are meant, each with its family, its name and its row.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (&'static str, &'static str, &'static Row)> {
        let (family, name) = split(&self.0);
        table::operations()
            .filter(move |(of, member, _)| *of == family && (name == "*" || name == *member))
    }
}

fn split(text: &str) -> (&str, &str) {
    text.split_once('.').unwrap_or((text, ""))
}

/// What there is instead: the names of the family, or the families.
fn known_beside(text: &str) -> String {
    let (family, _) = split(text);
    let members: Vec<&str> = table::members_of(family).collect();
    if !members.is_empty() {
        return format!("{family}.{{*,{}}}", members.join(","));
    }
    let mut families: Vec<&str> = table::operations().map(|(of, _, _)| of).collect();
    families.dedup();
    let families: Vec<String> = families.iter().map(|of| format!("{of}.NAME")).collect();
    families.join(", ")
}

impl FromStr for Operation {
    type Err = OperationError;

    fn from_str(text: &str) -> Result<Self, OperationError> {
        let operation = Self(text.to_owned());
        if operation.rows().next().is_some() {
            return Ok(operation);
        }
        Err(OperationError {
            name: text.to_owned(),
            known: known_beside(text),
        })
    }
}

impl TryFrom<String> for Operation {
    type Error = OperationError;

    fn try_from(text: String) -> Result<Self, OperationError> {
        text.parse()
    }
}

impl From<Operation> for String {
    fn from(operation: Operation) -> Self {
        operation.0
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_a_family_and_a_name_of_it() {
        for text in ["qmp.device_add", "event.*", "guest.unplug", "agent.set-up"] {
            assert!(text.parse::<Operation>().is_ok(), "{text}");
        }
        for text in [
            "",
            "qmp",
            "qmp.",
            "guest.sleep",
            "disk.write",
            "*",
            "*.*",
            "qmp.a b",
            "qmp.device_ad",
            "event.DEVICE_DELETD",
            "agent.set_up",
        ] {
            assert!(text.parse::<Operation>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_that_is_none_is_answered_with_those_there_are() {
        let misspelt = "event.RESETS".parse::<Operation>().unwrap_err().to_string();
        let unknown = "disk.write".parse::<Operation>().unwrap_err().to_string();

        assert!(misspelt.contains("event.{*,DEVICE_DELETED,"), "{misspelt}");
        assert!(unknown.contains("qmp.NAME, event.NAME"), "{unknown}");
    }

    #[test]
    fn a_family_covers_its_members_alone() {
        let family: Operation = "guest.*".parse().unwrap();
        let one: Operation = "guest.plug".parse().unwrap();

        assert!(family.covers("guest.plug") && family.covers("guest.unplug"));
        assert!(!family.covers("guestbook.plug") && !family.covers("qmp.stop"));
        assert!(one.covers("guest.plug") && !one.covers("guest.plugged"));
    }
}
