//! One connection to one life of one QEMU, with what is known of it, and the look at its hardware.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hypervisor::HypervisorEvent;
use nic_model::{HotplugMode, NicId, PowerState, VmHardware, VmId};
use serde_json::Value;
use tokio::sync::{OnceCell, broadcast};

use crate::client::{CommandError, ConnectError, Connection, Dialer, QemuVersion, QmpEvent};
use crate::commands::{migration_state, network_text, qom_get, qom_list, run_state};
use crate::qom::DeviceMemory;
use crate::{event, inventory, network_text};

/// Since this version q35 asks through ACPI unless told otherwise (QEMU commit 17858a1695).
const ACPI_SINCE: QemuVersion = QemuVersion { major: 6, minor: 1 };

/// Everything that ends with the connection.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) qemu: Connection,
    pub(crate) devices: Arc<DeviceMemory>,
    hotplug: OnceCell<HotplugMode>,
    /// NICs whose backends were made within this session: those have taken their descriptors, so
    /// that QEMU holds none of them by name.
    taken: Mutex<BTreeSet<NicId>>,
}

/// Whether QEMU may hold descriptors of a NIC by name that no backend has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeftBehind {
    /// It holds none.
    Nothing,
    /// An earlier run may have been cut off between passing them and making the backend.
    Unknown,
}

impl Session {
    /// Connects and finds out who is there. Events go to `events` as hints about `vm`.
    pub(crate) async fn open(
        vm: &VmId,
        dialer: &dyn Dialer,
        socket: &Path,
        events: &broadcast::Sender<HypervisorEvent>,
    ) -> Result<Self, ConnectError> {
        let devices = Arc::new(DeviceMemory::default());
        let (vm, events, memory) = (vm.clone(), events.clone(), Arc::clone(&devices));
        let sink = Box::new(move |event: QmpEvent| {
            if let Some(path) = event::deleted_path(&event) {
                memory.forget(path);
            }
            if let Some(kind) = event::kind(&event) {
                // Nobody listening is fine: an event is only a hint.
                events
                    .send(HypervisorEvent {
                        vm: Some(vm.clone()),
                        kind,
                    })
                    .ok();
            }
        });
        Ok(Self {
            qemu: Connection::open(dialer, socket, sink).await?,
            devices,
            hotplug: OnceCell::new(),
            taken: Mutex::default(),
        })
    }

    /// A backend of this NIC has just taken every descriptor there was of it.
    pub(crate) fn no_descriptor_is_left(&self, nic: &NicId) {
        self.taken().insert(nic.clone());
    }

    /// Tells whether one is left, and forgets that none is: more are passed now, or nobody asks
    /// again.
    pub(crate) fn descriptors_may_be_left(&self, nic: &NicId) -> LeftBehind {
        match self.taken().remove(nic) {
            true => LeftBehind::Nothing,
            false => LeftBehind::Unknown,
        }
    }

    fn taken(&self) -> MutexGuard<'_, BTreeSet<NicId>> {
        // Nothing panics while holding it.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The VM's hardware now. Five commands once its devices are known, sent together.
    pub(crate) async fn hardware(
        &self,
        channel: Option<PathBuf>,
    ) -> Result<VmHardware, CommandError> {
        let (run_state, migration, devices, network, hotplug) = tokio::try_join!(
            run_state(&self.qemu),
            migration_state(&self.qemu),
            self.devices.read(&self.qemu),
            network_text(&self.qemu),
            self.hotplug.get_or_try_init(|| hotplug_mode(&self.qemu)),
        )?;
        Ok(VmHardware {
            power: inventory::power(&run_state, &migration),
            run: Some(self.qemu.run().clone()),
            hotplug: *hotplug,
            slots: inventory::slots(&devices),
            nics: inventory::nics(&devices, &network_text::backends(&network)),
            channel,
        })
    }
}

/// The hardware of a VM that has no process. How it would ask a guest is not known before it runs:
/// q35's default stands in.
pub(crate) fn hardware_when_off(channel: Option<PathBuf>) -> VmHardware {
    VmHardware {
        power: PowerState::Off,
        run: None,
        hotplug: HotplugMode::Acpi,
        slots: Vec::new(),
        nics: Vec::new(),
        channel,
    }
}

/// Asks q35's ICH9 bridge. A machine without one knows only the native way.
async fn hotplug_mode(qemu: &Connection) -> Result<HotplugMode, CommandError> {
    const UNATTACHED: &str = "/machine/unattached";
    const ACPI_HOTPLUG: &str = "acpi-pci-hotplug-with-bridge-support";
    let unattached = qom_list(qemu, UNATTACHED).await?;
    let is_ich9 = |kind: Option<&str>| kind == Some("ICH9-LPC");
    let Some(ich9) = unattached.iter().find(|child| is_ich9(child.child_type())) else {
        return Ok(HotplugMode::Native);
    };
    let path = format!("{UNATTACHED}/{}", ich9.name);
    match qom_get(qemu, &path, ACPI_HOTPLUG).await {
        Ok(Value::Bool(true)) => Ok(HotplugMode::Acpi),
        Ok(_) => Ok(HotplugMode::Native),
        Err(CommandError::Refused { .. }) if qemu.version() >= ACPI_SINCE => Ok(HotplugMode::Acpi),
        Err(CommandError::Refused { .. }) => Ok(HotplugMode::Native),
        Err(error) => Err(error),
    }
}
