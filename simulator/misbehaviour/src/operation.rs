//! At which operations something can go wrong, and what.
//!
//! An operation is a family and a name, `qmp.device_add`; a rule may leave the name open,
//! `qmp.*`. A rule that could never do anything is refused when it is made, not silently kept.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::effect::EffectKind;

/// An operation of a rule: one, or all of a family.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Operation(String);

/// A text that names no operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no operation {name:?}; there are {}", all())]
pub struct OperationError {
    name: String,
}

/// A family, its names where they are a closed list, and what can happen to them.
struct Family {
    name: &'static str,
    members: &'static [&'static str],
    effects: &'static [EffectKind],
}

use EffectKind::{
    Corrupt, Crash, Cut, Delay, DiskFull, Duplicate, Eject, Error, FsyncError, Ignore, Lose,
    Refuse, Reorder, Reset, Stall,
};

/// What is simulated asks at these.
const FAMILIES: [Family; 9] = [
    Family {
        // A QMP command, by its name.
        name: "qmp",
        members: &[],
        effects: &[Delay, Error, Lose, Cut, Stall, Crash, Reset],
    },
    Family {
        // A QMP event, by its name.
        name: "event",
        members: &[],
        effects: &[Delay, Lose, Duplicate, Reorder, Cut, Crash],
    },
    Family {
        // What a guest kernel does: probe a device, let go of one, tell of a link, boot.
        name: "guest",
        members: &["plug", "unplug", "link-event", "boot"],
        effects: &[Delay, Lose, Refuse, Ignore, Eject, Reset, Crash],
    },
    Family {
        // A step of the agent, by its name in the protocol.
        name: "agent",
        members: &[],
        effects: &[Delay, Error, Crash],
    },
    Family {
        // The DHCP server.
        name: "dhcp",
        members: &["discover", "request", "release"],
        effects: &[Delay, Lose, Refuse],
    },
    Family {
        // A frame between hostd and an agent.
        name: "channel",
        members: &["to-guest", "to-host"],
        effects: &[Delay, Lose, Duplicate, Corrupt, Cut, Stall],
    },
    Family {
        // hostd's store.
        name: "journal",
        members: &["commit", "load"],
        effects: &[Delay, DiskFull, FsyncError, Crash, Corrupt],
    },
    Family {
        // The host ends of NICs.
        name: "port",
        members: &["make", "isolate", "remove", "list"],
        effects: &[Delay, Error, Crash, Stall],
    },
    Family {
        // hostd's API.
        name: "api",
        members: &["request"],
        effects: &[Delay, Lose, Duplicate, Cut],
    },
];

/// What can happen to an operation; nothing to one that does not exist.
#[must_use]
pub fn effects_of(operation: &Operation) -> &'static [EffectKind] {
    let (family, _) = split(&operation.0);
    family_of(family).map_or(&[], |family| family.effects)
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
}

fn split(text: &str) -> (&str, &str) {
    text.split_once('.').unwrap_or((text, ""))
}

fn family_of(name: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| family.name == name)
}

fn all() -> String {
    let names = FAMILIES.iter().map(|family| match family.members {
        [] => format!("{}.NAME", family.name),
        members => format!("{}.{{{}}}", family.name, members.join(",")),
    });
    names.collect::<Vec<_>>().join(", ")
}

impl FromStr for Operation {
    type Err = OperationError;

    fn from_str(text: &str) -> Result<Self, OperationError> {
        let (family, member) = split(text);
        let is_known = family_of(family).is_some_and(|family| {
            let open = family.members.is_empty() && is_word(member);
            member == "*" || open || family.members.contains(&member)
        });
        is_known
            .then(|| Self(text.to_owned()))
            .ok_or_else(|| OperationError {
                name: text.to_owned(),
            })
    }
}

fn is_word(text: &str) -> bool {
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    !text.is_empty() && text.bytes().all(is_fine)
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
            "qmp.a b",
        ] {
            assert!(text.parse::<Operation>().is_err(), "{text}");
        }
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
