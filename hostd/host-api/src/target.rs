//! Reads a target so that a mistake in it is found at its very field: serde reads an enum with a
//! tag in one piece, and a wrong `pid` would be reported as a wrong `target`.

use nic_model::{NetnsInode, NetnsName, Target};
use serde::de::Error;
use serde::{Deserialize, Deserializer};

/// The fields of every kind of target.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    kind: Kind,
    pid: Option<u32>,
    netns_inode: Option<NetnsInode>,
    name: Option<NetnsName>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Pid,
    Netns,
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Target, D::Error> {
    let Fields {
        kind,
        pid,
        netns_inode,
        name,
    } = Fields::deserialize(deserializer)?;
    match kind {
        Kind::Pid => {
            refuse(name, "name", &["kind", "pid", "netns_inode"])?;
            let pid = pid.ok_or_else(|| Error::missing_field("pid"))?;
            Ok(Target::Pid { pid, netns_inode })
        }
        Kind::Netns => {
            refuse(pid, "pid", &["kind", "name"])?;
            refuse(netns_inode, "netns_inode", &["kind", "name"])?;
            let name = name.ok_or_else(|| Error::missing_field("name"))?;
            Ok(Target::Netns { name })
        }
    }
}

fn refuse<T, E: Error>(
    value: Option<T>,
    field: &str,
    expected: &'static [&'static str],
) -> Result<(), E> {
    match value {
        None => Ok(()),
        Some(_) => Err(E::unknown_field(field, expected)),
    }
}
