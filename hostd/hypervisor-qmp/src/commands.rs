//! The QMP commands that hot-plug needs, each with its deadline and its answer understood.
//!
//! QMP commands run one after the other on QEMU's main loop, so a deadline bounds how long that
//! loop may be busy with something else, and not the command's own work, which takes microseconds.

use std::time::Duration;

use hypervisor::{Carrier, Descriptor};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::client::{Command, CommandError, Connection};

/// For commands that only read. A main loop that is busy for longer cannot serve a guest either.
const QUERY_DEADLINE: Duration = Duration::from_secs(2);

/// For commands that change something. `device_add` and `device_del` return without waiting for
/// the guest; what remains are stalls of the main loop. 5 s is also what libvirt gives a removal
/// (`qemuDomainRemoveDeviceWaitTime` in its `src/qemu/qemu_hotplug.c`).
const CHANGE_DEADLINE: Duration = Duration::from_secs(5);

/// One property of a QOM object, as `qom-list` tells it; `child<T>` is an object below it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct QomProperty {
    pub(crate) name: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
}

impl QomProperty {
    /// The type of the object, where this property is one.
    pub(crate) fn child_type(&self) -> Option<&str> {
        self.kind.strip_prefix("child<")?.strip_suffix('>')
    }
}

/// The `status` of `query-status` or `query-migrate`, where there is one.
#[derive(Debug, Deserialize)]
struct Status {
    #[serde(default)]
    status: String,
}

/// QEMU's run state (`RunState` in QEMU's `qapi/run-state.json`).
pub(crate) async fn run_state(qemu: &Connection) -> Result<String, CommandError> {
    let command = Command::new("query-status", QUERY_DEADLINE);
    let answer: Status = qemu.query(command).await?;
    Ok(answer.status)
}

/// The state of the last migration (`MigrationStatus` in QEMU's `qapi/migration.json`), empty when
/// there was none.
pub(crate) async fn migration_state(qemu: &Connection) -> Result<String, CommandError> {
    let command = Command::new("query-migrate", QUERY_DEADLINE);
    let answer: Status = qemu.query(command).await?;
    Ok(answer.status)
}

/// What the object at `path` has.
pub(crate) async fn qom_list(
    qemu: &Connection,
    path: &str,
) -> Result<Vec<QomProperty>, CommandError> {
    let command = Command::new("qom-list", QUERY_DEADLINE).with("path", path);
    qemu.query(command).await
}

/// One property's value.
pub(crate) async fn qom_get(
    qemu: &Connection,
    path: &str,
    property: &'static str,
) -> Result<Value, CommandError> {
    let command = Command::new("qom-get", QUERY_DEADLINE)
        .with("path", path)
        .with("property", property);
    qemu.execute(command).await
}

/// The human monitor's `info network`. QMP has no query for backends, see [`crate::network_text`].
pub(crate) async fn network_text(qemu: &Connection) -> Result<String, CommandError> {
    let command =
        Command::new("human-monitor-command", QUERY_DEADLINE).with("command-line", "info network");
    qemu.query(command).await
}

/// Gives QEMU a descriptor under a name; an earlier one of that name is closed.
pub(crate) async fn getfd(
    qemu: &Connection,
    name: &str,
    descriptor: Descriptor,
) -> Result<(), CommandError> {
    let command = Command::new("getfd", CHANGE_DEADLINE)
        .with("fdname", name)
        .passing(descriptor);
    change(qemu, command).await
}

/// Closes a descriptor that no backend has taken.
pub(crate) async fn closefd(qemu: &Connection, name: &str) -> Result<(), CommandError> {
    change(
        qemu,
        Command::new("closefd", CHANGE_DEADLINE).with("fdname", name),
    )
    .await
}

/// Makes a network backend.
pub(crate) async fn netdev_add(
    qemu: &Connection,
    arguments: Map<String, Value>,
) -> Result<(), CommandError> {
    change(qemu, with_all("netdev_add", arguments)).await
}

/// Removes a network backend. QEMU does so under a device's feet too: ask only when it is gone.
pub(crate) async fn netdev_del(qemu: &Connection, id: &str) -> Result<(), CommandError> {
    change(
        qemu,
        Command::new("netdev_del", CHANGE_DEADLINE).with("id", id),
    )
    .await
}

/// Makes a device.
pub(crate) async fn device_add(
    qemu: &Connection,
    arguments: Map<String, Value>,
) -> Result<(), CommandError> {
    change(qemu, with_all("device_add", arguments)).await
}

/// Asks the guest to let go of a device.
pub(crate) async fn device_del(qemu: &Connection, id: &str) -> Result<(), CommandError> {
    change(
        qemu,
        Command::new("device_del", CHANGE_DEADLINE).with("id", id),
    )
    .await
}

/// Shows the guest a carrier or none.
pub(crate) async fn set_link(
    qemu: &Connection,
    id: &str,
    carrier: Carrier,
) -> Result<(), CommandError> {
    let command = Command::new("set_link", CHANGE_DEADLINE)
        .with("name", id)
        .with("up", carrier == Carrier::Up);
    change(qemu, command).await
}

fn with_all(name: &'static str, arguments: Map<String, Value>) -> Command {
    Command::new(name, CHANGE_DEADLINE).with_arguments(arguments)
}

/// Commands that change something return nothing of interest.
async fn change(qemu: &Connection, command: Command) -> Result<(), CommandError> {
    qemu.perform(command).await.map(drop)
}
