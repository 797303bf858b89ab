//! A world with hostd running in it and VMs that scenarios share.
//!
//! ```text
//!   make ─► scenario ─► leaks? none ─► next scenario ─► …        VMs stay booted in between
//!                    └► failed or leaked ─► report ─► dropped, a new one is made
//! ```
//!
//! Booting a guest under emulation takes seconds, most scenarios take less than one. So a VM is
//! booted when a scenario first asks for it and left running for the next one; a scenario that
//! breaks its VM takes one of its own and kills it.

use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use host_api::{AgentState, Client, EventQuery};
use nic_model::{NicId, VmId};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::guest::Guest;
use crate::host::{Host, HostState};
use crate::hostd::Hostd;
use crate::site::Foundation;
use crate::vm::VmOptions;
use crate::world::{Misbehaving, SimWorld, World, WorldKind};

/// How long a guest may take to boot: it needs about four seconds under emulation with a core to
/// itself; several at once on a loaded machine take far longer.
pub const BOOT_DEADLINE: Duration = Duration::from_secs(120);
/// The agent starts right after the guest's shell, and hostd greets it every second or so.
const AGENT_DEADLINE: Duration = Duration::from_secs(60);
/// How long a silence of hostd's event stream is taken for "nothing has changed".
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// A VM of a bed, booted.
#[derive(Debug)]
pub struct Vm {
    /// Its name.
    pub id: VmId,
    /// How it was made.
    pub options: VmOptions,
    /// The way into its guest.
    pub guest: Box<dyn Guest>,
}

/// A world with hostd running in it.
pub struct Bed {
    // In this order they are dropped: guests' shells, the daemon, the hypervisor, the namespace.
    vms: Mutex<BTreeMap<VmId, Rc<Vm>>>,
    hostd: Box<dyn Hostd>,
    bare_host: HostState,
    world: Box<dyn World>,
}

impl Bed {
    /// Makes a world of this kind and starts hostd in it.
    ///
    /// # Errors
    /// When either does not start.
    pub async fn make(kind: WorldKind, foundation: Arc<Foundation>) -> Result<Self> {
        let world = kind.make(foundation).await?;
        let bare_host = world.host().state().await?;
        let hostd = world.configure_hostd()?;
        hostd.start(None).await?;
        Ok(Self {
            vms: Mutex::default(),
            hostd,
            bare_host,
            world,
        })
    }

    /// The hypervisor.
    #[must_use]
    pub fn world(&self) -> &dyn World {
        self.world.as_ref()
    }

    /// The simulated world behind it: a scenario that asks for it says which worlds are none.
    ///
    /// # Errors
    /// When there is none.
    pub fn simulated(&self) -> Result<&SimWorld> {
        let world = self.world.simulated();
        world.with_context(|| format!("the world {} is none in memory", self.world.kind()))
    }

    /// How to have things go wrong to order: a scenario that asks for it says which worlds cannot.
    ///
    /// # Errors
    /// When hypervisor and guests are real.
    pub fn misbehaving(&self) -> Result<&dyn Misbehaving> {
        let world = self.world.misbehaving();
        world.with_context(|| {
            let kind = self.world.kind();
            format!("hypervisor and guests of the world {kind} are real, and do as they should")
        })
    }

    /// The piece of host.
    #[must_use]
    pub fn host(&self) -> &dyn Host {
        self.world.host()
    }

    /// The daemon.
    #[must_use]
    pub fn hostd(&self) -> &dyn Hostd {
        self.hostd.as_ref()
    }

    /// The daemon's API.
    #[must_use]
    pub fn client(&self) -> Client {
        self.hostd.client()
    }

    /// The host as it was before hostd was first started.
    #[must_use]
    pub fn bare_host(&self) -> &HostState {
        &self.bare_host
    }

    /// An ordinary VM with its guest up and its agent in touch with hostd.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn vm(&self, name: &str) -> Result<Rc<Vm>> {
        let id: VmId = name.parse()?;
        let running = self.vms.lock().await.get(&id).cloned();
        let vm = match running {
            Some(vm) => vm,
            None => self.boot(VmOptions::named(name)?).await?,
        };
        self.agent_is_ready(&vm.id).await?;
        Ok(vm)
    }

    /// Two ordinary VMs, booted at the same time.
    ///
    /// # Errors
    /// When one does not come up.
    pub async fn two_vms(&self) -> Result<(Rc<Vm>, Rc<Vm>)> {
        tokio::try_join!(self.vm("vm1"), self.vm("vm2"))
    }

    /// Boots a VM and waits for its guest, not for its agent.
    ///
    /// # Errors
    /// When it runs already or does not come up.
    pub async fn boot(&self, options: VmOptions) -> Result<Rc<Vm>> {
        let vm = self.start_vm(options).await?;
        if let Err(error) = vm.guest.ready(BOOT_DEADLINE).await {
            let console = self.world.console(&vm.id).await;
            let context = format!("booting {}; its console says: {console}", vm.id);
            return Err(error.context(context));
        }
        Ok(vm)
    }

    /// Starts a VM whose guest is then still booting.
    ///
    /// # Errors
    /// When it runs already or its QEMU does not start.
    pub async fn start_vm(&self, options: VmOptions) -> Result<Rc<Vm>> {
        let guest = self.world.boot(&options).await?;
        let vm = Rc::new(Vm {
            id: options.id.clone(),
            options,
            guest,
        });
        self.vms.lock().await.insert(vm.id.clone(), Rc::clone(&vm));
        Ok(vm)
    }

    /// Kills a VM's QEMU with -9: the VM is off then, and may be booted again.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill_vm(&self, vm: &VmId) -> Result<()> {
        self.vms.lock().await.remove(vm);
        self.world.kill(vm).await
    }

    /// Takes a VM for off that has gone with the power.
    pub async fn forget_vm(&self, vm: &VmId) {
        self.vms.lock().await.remove(vm);
    }

    /// Every VM that runs.
    pub async fn running_vms(&self) -> Vec<Rc<Vm>> {
        self.vms.lock().await.values().cloned().collect()
    }

    /// Waits until hostd and the agent of `vm` are in touch.
    ///
    /// # Errors
    /// When they do not come in touch.
    pub async fn agent_is_ready(&self, vm: &VmId) -> Result<()> {
        let client = self.client();
        let ready = || async {
            let state = client.vm(vm).await.map(|vm| vm.agent.state);
            Ok((matches!(state, Ok(AgentState::Ready))).then_some(()))
        };
        self.until(
            &format!("the agent of {vm} is ready"),
            AGENT_DEADLINE,
            ready,
        )
        .await
    }

    /// Waits until a hostd that has just been started has looked at a VM. Before that it knows no
    /// slots of it, and tells whoever wants one to ask again.
    ///
    /// # Errors
    /// When it does not get to it.
    pub async fn vm_is_seen(&self, vm: &VmId) -> Result<()> {
        let client = self.client();
        let seen = || async { Ok(client.vm(vm).await.is_ok().then_some(())) };
        let what = format!("{vm} has been seen");
        self.until(&what, AGENT_DEADLINE, seen).await
    }

    /// Waits until `check` gives something: looks now, after each event of hostd's, and now and
    /// then besides, since not everything that is waited for is hostd's.
    ///
    /// # Errors
    /// When `check` fails, or gives nothing within `deadline`; `what` says what was waited for.
    pub async fn until<T, F>(
        &self,
        what: &str,
        deadline: Duration,
        check: impl Fn() -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<Option<T>>>,
    {
        let give_up_at = Instant::now() + deadline;
        let client = self.client();
        let mut events = client.events(&EventQuery::default(), None).await.ok();
        loop {
            if let Some(found) = check().await? {
                return Ok(found);
            }
            anyhow::ensure!(
                Instant::now() < give_up_at,
                "waited {deadline:?} in vain until {what}"
            );
            let next = async {
                match events.as_mut() {
                    Some(events) => events.next().await,
                    None => std::future::pending().await,
                }
            };
            // A stream that has ended (hostd was killed) must not make this spin.
            if let Ok(None | Some(Err(_))) = tokio::time::timeout(LOOK_AGAIN, next).await {
                events = None;
            }
        }
    }

    /// Waits until hostd has no record of `nic` any more.
    ///
    /// # Errors
    /// When the record stays.
    pub async fn nic_is_gone(&self, nic: &NicId, deadline: Duration) -> Result<()> {
        let client = self.client();
        let gone = || async {
            let nics = client.nics().await?.nics;
            Ok(nics.iter().all(|other| other.id != *nic).then_some(()))
        };
        self.until(&format!("{nic} is gone"), deadline, gone).await
    }
}
