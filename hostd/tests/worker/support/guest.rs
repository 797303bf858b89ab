//! The guest's end of a channel: a well-behaved agent over what the scripted hypervisor plugs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use agent_protocol::{
    AgentEvent, AgentIdentity, AgentSession, BindError, Goal, NicReport, Phase, VersionRange,
    WantedNic,
};
use nic_model::{BootId, NetnsInode, NicId, ProcessStart, Target, TargetIdentity, VmId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::hypervisor::ScriptedHypervisor;

/// What the containers of a guest are like.
#[derive(Debug, Default)]
struct Containers {
    /// Binding into these fails.
    missing: BTreeSet<Target>,
    /// These died after something was bound into them.
    died: BTreeSet<Target>,
    /// These links have lost what made them bound.
    rebinding: BTreeSet<NicId>,
    /// These links are never taken out of their target.
    clinging: BTreeSet<NicId>,
    /// What hostd wants now.
    wanted: BTreeMap<NicId, WantedNic>,
}

#[derive(Debug)]
struct Shared {
    containers: Mutex<Containers>,
    changes: watch::Sender<u64>,
}

/// An agent at work; dropping it ends it and closes its channel.
pub(crate) struct Guest {
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Guest {
    pub(crate) fn start(vm: VmId, channel: &Path, hypervisor: Arc<ScriptedHypervisor>) -> Self {
        let _none_before = std::fs::remove_file(channel);
        let listener = UnixListener::bind(channel).unwrap();
        let shared = Arc::new(Shared {
            containers: Mutex::default(),
            changes: watch::channel(0).0,
        });
        let agent = Agent {
            vm,
            hypervisor,
            shared: shared.clone(),
        };
        Self {
            shared,
            serving: tokio::spawn(agent.serve(listener)),
        }
    }

    pub(crate) fn remove_container(&self, target: &Target) {
        self.change(|containers| {
            containers.missing.insert(target.clone());
        });
    }

    pub(crate) fn container_died(&self, target: &Target) {
        self.change(|containers| {
            containers.died.insert(target.clone());
        });
    }

    pub(crate) fn begin_binding_again(&self, nic: &NicId) {
        self.change(|containers| {
            containers.rebinding.insert(nic.clone());
        });
    }

    pub(crate) fn end_binding_again(&self, nic: &NicId) {
        self.change(|containers| {
            containers.rebinding.remove(nic);
        });
    }

    pub(crate) fn cling(&self, nic: &NicId) {
        self.change(|containers| {
            containers.clinging.insert(nic.clone());
        });
    }

    /// What hostd has declared of a NIC.
    pub(crate) fn wanted(&self, nic: &NicId) -> Option<WantedNic> {
        let containers = self.shared.containers.lock();
        let containers = containers.unwrap_or_else(PoisonError::into_inner);
        containers.wanted.get(nic).cloned()
    }

    fn change(&self, change: impl FnOnce(&mut Containers)) {
        self.shared.change(change);
    }
}

impl Shared {
    fn change(&self, change: impl FnOnce(&mut Containers)) {
        let containers = self.containers.lock();
        change(&mut containers.unwrap_or_else(PoisonError::into_inner));
        self.changes.send_modify(|version| *version += 1);
    }
}

struct Agent {
    vm: VmId,
    hypervisor: Arc<ScriptedHypervisor>,
    shared: Arc<Shared>,
}

impl Agent {
    async fn serve(self, listener: UnixListener) {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let _closed = self.converse(stream).await;
        }
    }

    async fn converse(&self, mut stream: UnixStream) -> std::io::Result<()> {
        let mut session = AgentSession::new(identity());
        let mut told = BTreeMap::new();
        let mut hardware = self.hypervisor.changes();
        let mut containers = self.shared.changes.subscribe();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            while let Some(event) = session.poll_event() {
                self.hear(event, &mut told);
            }
            self.report(&mut session, &mut told);
            while let Some(frame) = session.poll_transmit() {
                stream.write_all(&frame).await?;
            }
            tokio::select! {
                read = stream.read(&mut buffer) => match read? {
                    0 => return Ok(()),
                    len => session.handle_bytes(&buffer[..len]),
                },
                changed = hardware.changed() => changed.unwrap(),
                changed = containers.changed() => changed.unwrap(),
            }
        }
    }

    fn hear(&self, event: AgentEvent, told: &mut BTreeMap<NicId, (u64, Phase)>) {
        self.shared.change(|containers| match event {
            AgentEvent::Opened { .. } | AgentEvent::Closed(_) => {}
            AgentEvent::Declared(nics) => {
                told.clear();
                let by_id = |nic: WantedNic| (nic.nic.clone(), nic);
                containers.wanted = nics.into_iter().map(by_id).collect();
            }
            AgentEvent::Wanted(nic) => {
                containers.wanted.insert(nic.nic.clone(), *nic);
            }
            AgentEvent::Forgotten(nic) => {
                containers.wanted.remove(&nic);
                told.remove(&nic);
            }
        });
    }

    fn report(&self, session: &mut AgentSession, told: &mut BTreeMap<NicId, (u64, Phase)>) {
        let containers = self.shared.containers.lock();
        let containers = containers.unwrap_or_else(PoisonError::into_inner);
        let devices = self.hypervisor.devices(&self.vm);
        for wanted in containers.wanted.values() {
            let phase = phase_of(wanted, &containers, devices.contains_key(&wanted.path));
            let now = (wanted.generation, phase);
            if told.get(&wanted.nic) == Some(&now) {
                continue;
            }
            let (generation, phase) = now.clone();
            let report = NicReport {
                nic: wanted.nic.clone(),
                generation,
                phase,
                steps: Vec::new(),
            };
            session.report(report).unwrap();
            told.insert(wanted.nic.clone(), now);
        }
    }
}

fn phase_of(wanted: &WantedNic, containers: &Containers, present: bool) -> Phase {
    match &wanted.goal {
        Goal::Released if !present => Phase::Absent,
        Goal::Released if containers.clinging.contains(&wanted.nic) => Phase::Binding,
        Goal::Released => Phase::Released,
        Goal::Bound { .. } if !present => Phase::Awaited,
        Goal::Bound { binding } if containers.missing.contains(&binding.target) => Phase::Failed {
            error: BindError::TargetGone {
                target: binding.target.clone(),
            },
        },
        Goal::Bound { .. } if containers.rebinding.contains(&wanted.nic) => Phase::Binding,
        Goal::Bound { binding } if containers.died.contains(&binding.target) => Phase::Returned,
        Goal::Bound { binding } => Phase::Bound {
            target: TargetIdentity {
                boot_id: boot_id(),
                netns_inode: NetnsInode(4_026_532_000),
                process_started: Some(ProcessStart(4711)),
            },
            addresses: binding.addressing.addresses().to_vec(),
        },
    }
}

pub(crate) fn identity() -> AgentIdentity {
    AgentIdentity {
        versions: VersionRange::CURRENT,
        agent: "scripted".to_owned(),
        boot_id: boot_id(),
    }
}

pub(crate) fn boot_id() -> BootId {
    "00000000-0000-4000-8000-000000000001".parse().unwrap()
}
