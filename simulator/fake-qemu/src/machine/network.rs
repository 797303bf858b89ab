//! Backends and the NICs over them: QEMU's list of net clients (`net/net.c`).
//!
//! ```text
//!   netdev_add ──► backend ──► device_add: peer of a NIC ──► device gone: free again
//!                     └ netdev_del at any time; under a NIC its name goes, its line in
//!                       `info network` stays with the NIC, and the carrier is lost
//! ```

use serde_json::{Map, Value};

use super::device::DeviceKey;
use super::guest::GuestSignal;
use super::hardware_address::HardwareAddress;
use super::monitor::MonitorId;
use super::network_text;
use super::refusal::Refusal;
use super::{Machine, Output};

/// What a machine needs of its host at the moment it is asked.
pub trait Host<D> {
    /// Whether `descriptor` is a queue of a tap.
    ///
    /// # Errors
    /// When it is not, or nobody can tell.
    fn check_tap(&mut self, descriptor: &D) -> Result<(), TapError>;

    /// Takes hold of the link `name` of the host, as a tap opened by name.
    ///
    /// # Errors
    /// When there is none, or the host refuses.
    fn open_tap(&mut self, name: &str) -> Result<(), TapError>;
}

/// Why a descriptor or a name is no tap: the operating system's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TapError(pub String);

/// A network backend.
#[derive(Debug)]
pub struct Backend<D> {
    /// Its id.
    pub id: String,
    /// Its type, such as `tap`.
    pub kind: String,
    /// The descriptors it was made with, tap queues before vhost ones.
    pub descriptors: Vec<D>,
    /// The link it was made with, where it was by name.
    pub link: Option<String>,
    /// One line of `info network` for each queue.
    texts: Vec<String>,
    /// Queues have no numbers before a NIC has given them some (`set_netdev` in QEMU's
    /// `hw/core/qdev-properties-system.c`).
    queues: Queues,
    hub: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Queues {
    Numbered,
    Unnumbered,
}

/// A backend has come or gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackendChange<D> {
    /// It was made; its descriptors stay with the machine and are closed when it goes.
    Made {
        /// Its id.
        id: String,
        /// Its type, such as `tap`.
        kind: String,
        /// The link it was made with, where it was by name.
        link: Option<String>,
    },
    /// It was removed.
    Removed {
        /// Its id.
        id: String,
        /// Its descriptors, to be closed.
        descriptors: Vec<D>,
        /// The link it was made with, where it was by name.
        link: Option<String>,
    },
}

/// One entry of the list.
#[derive(Debug)]
enum Client<D> {
    Backend(Backend<D>),
    Nic(Nic),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carrier {
    Up,
    Down,
}

#[derive(Debug)]
pub(super) struct Nic {
    key: DeviceKey,
    /// Its device's id, or its kind and a number.
    name: String,
    first_line: String,
    queues: usize,
    carrier: Carrier,
    backend: NicBackend,
}

#[derive(Debug)]
enum NicBackend {
    Present(String),
    /// Removed from under the NIC: its texts stay.
    Removed(Vec<String>),
    None,
}

/// All of them, in the order in which they were made.
#[derive(Debug)]
pub(super) struct Network<D> {
    clients: Vec<Client<D>>,
    hubs: Vec<i64>,
}

impl<D> Default for Network<D> {
    fn default() -> Self {
        Self {
            clients: Vec::new(),
            hubs: Vec::new(),
        }
    }
}

impl<D> Network<D> {
    pub(super) fn backends(&self) -> impl Iterator<Item = &Backend<D>> {
        self.clients.iter().filter_map(|client| match client {
            Client::Backend(backend) => Some(backend),
            Client::Nic(_) => None,
        })
    }

    pub(super) fn nics(&self) -> impl Iterator<Item = &Nic> {
        self.clients.iter().filter_map(|client| match client {
            Client::Nic(nic) => Some(nic),
            Client::Backend(_) => None,
        })
    }

    fn nics_mut(&mut self) -> impl Iterator<Item = &mut Nic> {
        self.clients.iter_mut().filter_map(|client| match client {
            Client::Nic(nic) => Some(nic),
            Client::Backend(_) => None,
        })
    }

    pub(super) fn backend(&self, id: &str) -> Option<&Backend<D>> {
        self.backends().find(|backend| backend.id == id)
    }

    fn backend_mut(&mut self, id: &str) -> Option<&mut Backend<D>> {
        self.clients.iter_mut().find_map(|client| match client {
            Client::Backend(backend) if backend.id == id => Some(backend),
            Client::Backend(_) | Client::Nic(_) => None,
        })
    }

    pub(super) fn backend_of(&self, key: &DeviceKey) -> Option<&str> {
        let nic = self.nics().find(|nic| nic.key == *key)?;
        match &nic.backend {
            NicBackend::Present(id) => Some(id),
            NicBackend::Removed(_) | NicBackend::None => None,
        }
    }

    /// Whether a NIC sits on a backend.
    pub(super) fn is_taken(&self, backend: &str) -> bool {
        self.nics()
            .any(|nic| matches!(&nic.backend, NicBackend::Present(id) if id == backend))
    }

    /// Adds the NIC of a device, and gives its name.
    pub(super) fn add_nic(&mut self, key: &DeviceKey, kind: &str, netdev: Option<&str>, mac: &str) {
        let name = match key.id() {
            Some(id) => id.to_owned(),
            None => self.free_name(kind),
        };
        let backend = netdev.and_then(|netdev| self.backend_mut(netdev));
        let queues = backend.map_or(1, |backend| {
            backend.queues = Queues::Numbered;
            backend.texts.len()
        });
        self.clients.push(Client::Nic(Nic {
            key: key.clone(),
            name,
            first_line: format!("model={kind},macaddr={mac}"),
            queues,
            carrier: Carrier::Up,
            backend: match netdev {
                Some(netdev) => NicBackend::Present(netdev.to_owned()),
                None => NicBackend::None,
            },
        }));
    }

    /// `assign_name` in QEMU's `net/net.c`.
    fn free_name(&self, kind: &str) -> String {
        let own = |nic: &&Nic| nic.first_line.starts_with(&format!("model={kind},"));
        format!("{kind}.{}", self.nics().filter(own).count())
    }

    /// Its line shows the MAC the guest has given it.
    pub(super) fn describe_nic(&mut self, key: &DeviceKey, kind: &str, mac: HardwareAddress) {
        if let Some(nic) = self.nics_mut().find(|nic| nic.key == *key) {
            nic.first_line = format!("model={kind},macaddr={mac}");
        }
    }

    pub(super) fn remove_nic(&mut self, key: &DeviceKey) {
        let is_it = |client: &Client<D>| matches!(client, Client::Nic(nic) if nic.key == *key);
        self.clients.retain(|client| !is_it(client));
    }

    pub(super) fn nic(&self, name: &str) -> Option<&Nic> {
        self.nics().find(|nic| nic.name == name)
    }

    fn has_client(&self, name: &str) -> bool {
        self.backend(name).is_some() || self.nic(name).is_some()
    }

    /// As the human monitor's `info network` prints it (`hmp_info_network`).
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for hub in self.hubs.iter().rev() {
            text += &format!("hub {hub}\r\n");
            let ports = self.backends().filter(|backend| backend.hub == Some(*hub));
            for port in ports {
                text += &format!(" \\ {}\r\n", port.id);
            }
        }
        for client in &self.clients {
            match client {
                Client::Backend(backend)
                    if backend.hub.is_none() && !self.is_taken(&backend.id) =>
                {
                    for (queue, line) in backend.texts.iter().enumerate() {
                        let queue = match backend.queues {
                            Queues::Numbered => queue,
                            Queues::Unnumbered => 0,
                        };
                        text += &network_text::line(&backend.id, queue, &backend.kind, line);
                    }
                }
                Client::Backend(_) => {}
                Client::Nic(nic) => text += &self.nic_text(nic),
            }
        }
        text
    }

    fn nic_text(&self, nic: &Nic) -> String {
        let none = Vec::new();
        let (id, kind, texts) = match &nic.backend {
            NicBackend::Present(id) => match self.backend(id) {
                Some(backend) => (id.as_str(), backend.kind.as_str(), &backend.texts),
                None => ("", "", &none),
            },
            NicBackend::Removed(texts) => ("", "", texts),
            NicBackend::None => ("", "", &none),
        };
        let mut text = String::new();
        for queue in 0..nic.queues {
            let own = if queue == 0 {
                nic.first_line.as_str()
            } else {
                ""
            };
            text += &network_text::line(&nic.name, queue, "nic", own);
            match texts.get(queue) {
                Some(line) if id.is_empty() => text += &format!(" \\ {line}"),
                Some(line) => {
                    text += &format!(" \\ {}", network_text::line(id, queue, kind, line));
                }
                None => {}
            }
        }
        text
    }
}

impl<D> Machine<D> {
    pub(super) fn netdev_add(
        &mut self,
        host: &mut impl Host<D>,
        monitor: MonitorId,
        arguments: &Map<String, Value>,
    ) -> Result<(), Refusal> {
        let text = |name: &str| arguments.get(name).and_then(Value::as_str);
        let (id, kind) = (text("id").unwrap_or(""), text("type").unwrap_or(""));
        if !is_well_formed(id) {
            return Err(Refusal::expects("id", "an identifier"));
        }
        network_text::check_compiled(kind)?;
        if self.network.backend(id).is_some() {
            return Err(Refusal::generic(format!("Duplicate ID '{id}'")));
        }
        let backend = match kind {
            "tap" => self.make_tap(host, monitor, id, arguments)?,
            _ => Backend {
                id: id.to_owned(),
                kind: kind.to_owned(),
                descriptors: Vec::new(),
                link: None,
                texts: vec![network_text::of_backend(kind, arguments)?],
                queues: Queues::Unnumbered,
                hub: arguments.get("hubid").and_then(Value::as_i64),
            },
        };
        self.add_backend(backend);
        Ok(())
    }

    fn add_backend(&mut self, backend: Backend<D>) {
        if let Some(hub) = backend.hub
            && !self.network.hubs.contains(&hub)
        {
            self.network.hubs.push(hub);
        }
        self.outputs.push_back(Output::Backend(BackendChange::Made {
            id: backend.id.clone(),
            kind: backend.kind.clone(),
            link: backend.link.clone(),
        }));
        self.network.clients.push(Client::Backend(backend));
    }

    fn make_tap(
        &mut self,
        host: &mut impl Host<D>,
        monitor: MonitorId,
        id: &str,
        arguments: &Map<String, Value>,
    ) -> Result<Backend<D>, Refusal> {
        network_text::check_tap(arguments)?;
        let text = |name: &str| arguments.get(name).and_then(Value::as_str);
        let mut backend = Backend {
            id: id.to_owned(),
            kind: "tap".to_owned(),
            descriptors: Vec::new(),
            link: None,
            texts: Vec::new(),
            queues: Queues::Unnumbered,
            hub: None,
        };
        let names = text("fds").or_else(|| text("fd"));
        let Some(names) = names else {
            self.open_tap(host, arguments, &mut backend)?;
            return Ok(backend);
        };
        for name in names.split(':') {
            let (descriptor, number) = self.take_descriptor(monitor, id, name)?;
            host.check_tap(&descriptor).map_err(|error| {
                let text = format!("Unable to query TUNGETIFF on FD {number}: {error}");
                Refusal::generic(text)
            })?;
            backend.descriptors.push(descriptor);
            backend.texts.push(format!("fd={number}"));
        }
        for name in text("vhostfds")
            .or_else(|| text("vhostfd"))
            .into_iter()
            .flat_map(|names| names.split(':'))
        {
            backend
                .descriptors
                .push(self.take_descriptor(monitor, id, name)?.0);
        }
        Ok(backend)
    }

    fn open_tap(
        &mut self,
        host: &mut impl Host<D>,
        arguments: &Map<String, Value>,
        backend: &mut Backend<D>,
    ) -> Result<(), Refusal> {
        let text = |name: &str| arguments.get(name).and_then(Value::as_str);
        let link = text("ifname").unwrap_or("");
        host.open_tap(link).map_err(|error| {
            // `tap_open` in QEMU's `net/tap-linux.c`.
            Refusal::generic(format!(
                "could not configure /dev/net/tun ({link}): {error}"
            ))
        })?;
        backend.link = Some(link.to_owned());
        let queues = arguments.get("queues").and_then(Value::as_u64).unwrap_or(1);
        let scripts = network_text::scripts(arguments);
        for _ in 0..queues.min(network_text::QUEUES_MAX) {
            backend.texts.push(format!("ifname={link},{scripts}"));
        }
        Ok(())
    }

    pub(super) fn netdev_del(&mut self, id: &str) -> Result<(), Refusal> {
        let is_it =
            |client: &Client<D>| matches!(client, Client::Backend(backend) if backend.id == id);
        let place = self.network.clients.iter().position(is_it);
        let removed = place.map(|place| self.network.clients.remove(place));
        let Some(Client::Backend(backend)) = removed else {
            return Err(Refusal::no_device(id));
        };
        self.lose_backend(&backend);
        let Backend {
            id,
            descriptors,
            link,
            ..
        } = backend;
        self.outputs
            .push_back(Output::Backend(BackendChange::Removed {
                id,
                descriptors,
                link,
            }));
        Ok(())
    }

    /// A NIC goes on without its backend, and without a carrier (`qemu_del_net_client`).
    fn lose_backend(&mut self, backend: &Backend<D>) {
        let on_it =
            |nic: &&mut Nic| matches!(&nic.backend, NicBackend::Present(id) if *id == backend.id);
        let Some(nic) = self.network.nics_mut().find(on_it) else {
            return;
        };
        let lines = backend.texts.iter().enumerate();
        let lines =
            lines.map(|(queue, line)| network_text::line(&backend.id, queue, &backend.kind, line));
        nic.backend = NicBackend::Removed(lines.collect());
        let key = nic.key.clone();
        self.set_carrier(&key, Carrier::Down);
    }

    pub(super) fn set_link(&mut self, name: &str, up: bool) -> Result<(), Refusal> {
        if !self.network.has_client(name) {
            return Err(Refusal::no_device(name));
        }
        let carrier = if up { Carrier::Up } else { Carrier::Down };
        let of_it = |nic: &&Nic| {
            nic.name == name || matches!(&nic.backend, NicBackend::Present(id) if id == name)
        };
        let keys: Vec<DeviceKey> = self
            .network
            .nics()
            .filter(of_it)
            .map(|nic| nic.key.clone())
            .collect();
        for key in keys {
            self.set_carrier(&key, carrier);
        }
        Ok(())
    }

    fn set_carrier(&mut self, key: &DeviceKey, carrier: Carrier) {
        let Some(nic) = self.network.nics_mut().find(|nic| nic.key == *key) else {
            return;
        };
        if std::mem::replace(&mut nic.carrier, carrier) == carrier {
            return;
        }
        let device = self.devices.get(key);
        let path = device.and_then(|device| self.guest_path(device.port, device.devfn));
        let signal = path.map(|path| match carrier {
            Carrier::Up => GuestSignal::CarrierUp { path },
            Carrier::Down => GuestSignal::CarrierDown { path },
        });
        self.signal(signal);
    }
}

impl Nic {
    pub(super) fn key(&self) -> &DeviceKey {
        &self.key
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

/// `id_wellformed` in QEMU's `util/id.c`.
pub(super) fn is_well_formed(id: &str) -> bool {
    let mut characters = id.chars();
    let starts = characters
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic());
    starts && characters.all(|next| next.is_ascii_alphanumeric() || "-._".contains(next))
}
