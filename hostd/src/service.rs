//! What hostd does for its clients, without a word of HTTP.
//!
//! A mutation is three moves: who may ask, admit (durable), nudge the worker. The answer is the
//! record at once, or, with a time to wait, the record once it has come to rest.

use std::sync::Arc;
use std::time::Duration;

use host_api::{AddressingMode, AttachNic, CreateNic, MoveNic};
use nic_lifecycle::{
    Ledger, NewNic, NicRecord, NicState, Refusal, RefusalKind, RequestedAddressing,
    RequestedPlacement, Step,
};
use nic_model::{BootId, ClientToken, LinkName, MacAddr, NicId, TenantId, VmId};
use port::RemovePortError;
use serde::Serialize;
use tokio::time::Instant;

use crate::board::{Board, TimedStep};
use crate::daemon::VmRegistry;
use crate::failpoint::{self, Side};
use crate::ports::HostPorts;
use crate::store::{AdmitError, Admitted, SettleError, Store, TokenUse};
use crate::supervisor::Supervisor;
use crate::surroundings::Surroundings;
use crate::worker::Tools;

/// Tenant of NICs that an operator creates without naming one.
const DEFAULT_TENANT: &str = "default";
/// Name of a link in its target unless the client says otherwise: what containers expect.
const DEFAULT_LINK_NAME: &str = "eth0";

/// What hostd does for its clients.
pub struct Service {
    /// Records.
    pub store: Arc<Store>,
    /// What people see.
    pub board: Arc<Board>,
    /// The host ends.
    pub ports: Arc<HostPorts>,
    /// The VMs and their workers.
    pub vms: Arc<VmRegistry>,
    /// Clock and randomness.
    pub surroundings: Surroundings,
    pub(crate) supervisor: Supervisor,
}

/// Who asks, as established from the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// Somebody who may act for every tenant.
    Operator,
    /// Somebody who may act for one; the operator too, when asking on a tenant's behalf.
    Tenant(TenantId),
}

/// How a mutation is asked for.
#[derive(Debug, Clone)]
pub struct Ask {
    /// By whom.
    pub caller: Caller,
    /// Makes the request recognisable when it comes again.
    pub token: Option<ClientToken>,
    /// How long to wait for the NIC to come to rest.
    pub wait: Duration,
    /// When the request came in.
    pub received_at: Instant,
}

/// How a mutation stands when it is answered.
#[derive(Debug)]
pub enum Answer {
    /// The NIC has come to rest as asked.
    Settled(NicRecord),
    /// It has not, and the time to wait is over.
    UnderWay(NicRecord),
}

/// Why a mutation was not done.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// It was not admitted; nothing has changed.
    #[error(transparent)]
    Admit(#[from] AdmitError),
    /// It was admitted, tried, and undone; the record says why.
    #[error("{} was not brought where it was asked to be", .0.id)]
    CameToNothing(Box<NicRecord>),
    /// Its port could not be removed; the deletion is finished later.
    #[error("the port of the NIC could not be removed, which will be tried again")]
    RemovePort(#[source] RemovePortError),
    /// Its record could not be removed.
    #[error("the record could not be removed")]
    Remove(#[source] SettleError),
}

impl From<Refusal> for ServiceError {
    fn from(refusal: Refusal) -> Self {
        Self::Admit(refusal.into())
    }
}

impl Service {
    /// A service over `tools` and the VMs that workers see to. What it starts ends with the tasks
    /// of `supervisor`.
    #[must_use]
    pub fn new(tools: Tools, vms: Arc<VmRegistry>, supervisor: Supervisor) -> Self {
        Self {
            store: tools.store,
            board: tools.board,
            ports: tools.ports,
            vms,
            surroundings: tools.surroundings,
            supervisor,
        }
    }

    /// Creates a NIC, and attaches it when the request says where.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn create(&self, ask: &Ask, request: CreateNic) -> Result<Answer, ServiceError> {
        let tenant = tenant_of_new(&ask.caller, request.tenant.as_ref())?;
        let fingerprint = fingerprint("create", None, &request);
        let id = NicId::from_random(self.surroundings.random());
        let token = self.token_use(ask, &tenant, &id, fingerprint);
        let attach = request.attach.clone();
        let attach = attach.map(|attach| self.placement_of_attach(attach));
        let new = self.new_nic(id.clone(), tenant, request);
        let now_ms = self.surroundings.unix_ms();
        let decide = |ledger: &Ledger| {
            let record = ledger.admit_create(new)?;
            match attach {
                None => Ok(record),
                Some(to) => ledger
                    .admit_attach(&record, to, now_ms)
                    .map_err(within_attach),
            }
        };
        self.carry_out(ask, &id, token, decide).await
    }

    /// Attaches a NIC that is available.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn attach(
        &self,
        ask: &Ask,
        nic: &NicId,
        request: AttachNic,
    ) -> Result<Answer, ServiceError> {
        let token = self.token_for(ask, nic, fingerprint("attach", Some(nic), &request))?;
        let to = self.placement_of_attach(request);
        let now_ms = self.surroundings.unix_ms();
        let decide = |ledger: &Ledger| ledger.admit_attach(mine(ledger, ask, nic)?, to, now_ms);
        self.carry_out(ask, nic, token, decide).await
    }

    /// Moves a NIC that is in use.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn relocate(
        &self,
        ask: &Ask,
        nic: &NicId,
        request: MoveNic,
    ) -> Result<Answer, ServiceError> {
        let token = self.token_for(ask, nic, fingerprint("move", Some(nic), &request))?;
        let MoveNic {
            vm,
            target,
            link_name,
        } = request;
        let boot_id = self.boot_of(&vm);
        let to = move |record: &NicRecord| RequestedPlacement {
            vm,
            target,
            boot_id,
            link_name: link_name
                .or_else(|| record.placement.as_ref().map(|here| here.link_name.clone()))
                .unwrap_or_else(default_link_name),
        };
        let now_ms = self.surroundings.unix_ms();
        let decide = |ledger: &Ledger| {
            let record = mine(ledger, ask, nic)?;
            ledger.admit_move(record, to(record), now_ms)
        };
        self.carry_out(ask, nic, token, decide).await
    }

    fn placement_of_attach(&self, request: AttachNic) -> RequestedPlacement {
        RequestedPlacement {
            boot_id: self.boot_of(&request.vm),
            vm: request.vm,
            target: request.target,
            link_name: request.link_name.unwrap_or_else(default_link_name),
        }
    }

    fn boot_of(&self, vm: &VmId) -> Option<BootId> {
        self.vms.with(vm, |handle| handle.agent.boot_id())
    }

    /// Takes a NIC out of its VM.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn detach(&self, ask: &Ask, nic: &NicId) -> Result<Answer, ServiceError> {
        let token = self.token_for(ask, nic, fingerprint("detach", Some(nic), &()))?;
        let now_ms = self.surroundings.unix_ms();
        let decide = |ledger: &Ledger| ledger.admit_detach(mine(ledger, ask, nic)?, now_ms);
        self.carry_out(ask, nic, token, decide).await
    }

    /// Deletes a NIC that is available; the answer is what it was.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn delete(&self, ask: &Ask, nic: &NicId) -> Result<NicRecord, ServiceError> {
        let last = self.store.nic(nic).map(Box::new);
        let mut token = self.token_for(ask, nic, fingerprint("delete", Some(nic), &()))?;
        if let Some(token) = &mut token {
            token.last.clone_from(&last);
        }
        let now_ms = self.surroundings.unix_ms();
        let decide = |ledger: &Ledger| ledger.admit_delete(mine(ledger, ask, nic)?, now_ms);
        match self.store.admit(nic, token, decide).await? {
            Admitted::Fresh(record) => {
                finish_deletion(&self.store, &self.ports, nic).await?;
                Ok(Arc::unwrap_or_clone(record))
            }
            Admitted::Repeated(used) => self
                .store
                .nic(nic)
                .or(used.last.map(|last| *last))
                .ok_or_else(|| not_found(nic).into()),
        }
    }

    /// One NIC of the caller's.
    ///
    /// # Errors
    /// When the caller has no such NIC.
    pub fn nic(&self, caller: &Caller, nic: &NicId) -> Result<NicRecord, ServiceError> {
        let record = self
            .store
            .nic(nic)
            .filter(|record| caller.may_see(&record.tenant));
        record.ok_or_else(|| not_found(nic).into())
    }

    /// Every NIC of the caller's, by id.
    #[must_use]
    pub fn nics(&self, caller: &Caller) -> Vec<NicRecord> {
        let mine = |record: &&NicRecord| caller.may_see(&record.tenant);
        self.store
            .read(|ledger| ledger.nics().filter(mine).cloned().collect())
    }

    async fn carry_out(
        &self,
        ask: &Ask,
        nic: &NicId,
        token: Option<TokenUse>,
        decide: impl FnOnce(&Ledger) -> Result<NicRecord, Refusal>,
    ) -> Result<Answer, ServiceError> {
        let admitted = self.store.admit(nic, token, decide).await;
        if let Err(AdmitError::Journal(_)) = &admitted {
            self.resume(nic);
        }
        let (nic, generation) = match admitted? {
            Admitted::Fresh(record) => {
                failpoint::hit(flow_of(&record), "admit", Side::After);
                self.begin(ask, &record);
                (record.id.clone(), record.generation)
            }
            Admitted::Repeated(used) => (used.nic, 0),
        };
        self.wait_for_rest(&nic, generation, ask).await
    }

    /// A worker leaves a NIC alone while a change of it is being made durable; when that comes to
    /// nothing it has to go on.
    fn resume(&self, nic: &NicId) {
        let placement = self.store.nic(nic).and_then(|record| record.placement);
        if let Some(placement) = placement {
            self.vms.nudge(&placement.vm);
        }
    }

    fn begin(&self, ask: &Ask, record: &NicRecord) {
        let Some(placement) = &record.placement else {
            return;
        };
        self.board.begin(&record.id, ask.received_at);
        let admit = TimedStep::Host(Step::Admit);
        let took = ask.received_at.elapsed();
        self.board
            .step_done(&record.id, Some(&placement.vm), admit, took);
        self.vms.nudge(&placement.vm);
    }

    /// Waits, as long as `ask` says, for a NIC to come to rest after the change of `generation`.
    ///
    /// # Errors
    /// When the NIC is gone, or the change came to nothing.
    pub async fn wait_for_rest(
        &self,
        nic: &NicId,
        generation: u64,
        ask: &Ask,
    ) -> Result<Answer, ServiceError> {
        let mut live = self.board.follow(nic);
        let deadline = Instant::now() + ask.wait;
        loop {
            live.look(|_| ());
            let record = self.store.shared(nic).ok_or_else(|| not_found(nic))?;
            if record.state.is_settled() {
                return rested(Arc::unwrap_or_clone(record), generation);
            }
            match tokio::time::timeout_at(deadline, live.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => {
                    return Ok(Answer::UnderWay(Arc::unwrap_or_clone(record)));
                }
            }
        }
    }

    fn token_for(
        &self,
        ask: &Ask,
        nic: &NicId,
        request: String,
    ) -> Result<Option<TokenUse>, ServiceError> {
        let Some(token) = &ask.token else {
            return Ok(None);
        };
        let tenant = match (&ask.caller, self.store.nic(nic)) {
            (Caller::Tenant(tenant), _) => tenant.clone(),
            (Caller::Operator, Some(record)) => record.tenant,
            // The request may have deleted it: then its token still knows whose it was.
            (Caller::Operator, None) => self
                .store
                .user_of_token(token, &request)
                .unwrap_or_else(default_tenant),
        };
        Ok(self.token_use(ask, &tenant, nic, request))
    }

    fn new_nic(&self, id: NicId, tenant: TenantId, request: CreateNic) -> NewNic {
        let addressing = match request.addressing {
            None => RequestedAddressing::Allocate,
            Some(asked) => match (asked.mode, asked.addresses) {
                (AddressingMode::Static, addresses) if addresses.is_empty() => {
                    RequestedAddressing::Allocate
                }
                (AddressingMode::Static, addresses) => RequestedAddressing::Static(addresses),
                (AddressingMode::Dhcp, addresses) => RequestedAddressing::Dhcp(addresses),
            },
        };
        NewNic {
            id,
            tenant,
            network: request.network,
            mac: request.mac,
            mac_candidates: (0..4)
                .map(|_| MacAddr::local(self.surroundings.random()))
                .collect(),
            addressing,
            mtu: request.mtu,
            routes: request.routes.unwrap_or_default(),
            limits: request.limits.unwrap_or_default(),
            queue_count: request.queues.unwrap_or(1),
            now_ms: self.surroundings.unix_ms(),
        }
    }

    fn token_use(
        &self,
        ask: &Ask,
        tenant: &TenantId,
        nic: &NicId,
        request: String,
    ) -> Option<TokenUse> {
        ask.token.clone().map(|token| TokenUse {
            tenant: tenant.clone(),
            token,
            request,
            nic: nic.clone(),
            last: None,
            at_ms: self.surroundings.unix_ms(),
        })
    }
}

/// The record goes last: what is left of its port until then has an owner.
pub(crate) async fn finish_deletion(
    store: &Store,
    ports: &HostPorts,
    nic: &NicId,
) -> Result<(), ServiceError> {
    let removed = ports.remove(store, nic).await;
    removed.map_err(ServiceError::RemovePort)?;
    store.remove(nic).await.map_err(ServiceError::Remove)
}

impl Caller {
    /// Whether NICs of a tenant exist for this caller.
    #[must_use]
    pub fn may_see(&self, tenant: &TenantId) -> bool {
        match self {
            Self::Operator => true,
            Self::Tenant(own) => own == tenant,
        }
    }
}

/// A record that has come to rest after the operation of `generation`: with a failure noted, that
/// operation came to nothing.
fn rested(record: NicRecord, generation: u64) -> Result<Answer, ServiceError> {
    if record.last_failure.is_some() && record.generation >= generation {
        return Err(ServiceError::CameToNothing(Box::new(record)));
    }
    Ok(Answer::Settled(record))
}

fn mine<'a>(ledger: &'a Ledger, ask: &Ask, nic: &NicId) -> Result<&'a NicRecord, Refusal> {
    ledger
        .nic(nic)
        .filter(|record| ask.caller.may_see(&record.tenant))
        .ok_or_else(|| not_found(nic))
}

/// The same for a NIC that does not exist and for one of another tenant's: who may not see it
/// shall not learn that it exists.
fn not_found(nic: &NicId) -> Refusal {
    Refusal {
        kind: RefusalKind::NotFound,
        message: format!("there is no NIC {nic} of yours"),
        field: Some("id"),
        limit: None,
        hint: None,
    }
}

fn tenant_of_new(caller: &Caller, asked: Option<&TenantId>) -> Result<TenantId, Refusal> {
    match (caller, asked) {
        (Caller::Operator, None) => Ok(default_tenant()),
        (Caller::Operator, Some(asked)) => Ok(asked.clone()),
        (Caller::Tenant(own), None) => Ok(own.clone()),
        (Caller::Tenant(own), Some(asked)) if own == asked => Ok(own.clone()),
        (Caller::Tenant(own), Some(asked)) => Err(Refusal {
            kind: RefusalKind::Forbidden,
            message: format!("tenant {own} cannot create NICs of tenant {asked}"),
            field: Some("tenant"),
            limit: None,
            hint: Some("leave the tenant out".to_owned()),
        }),
    }
}

fn default_tenant() -> TenantId {
    DEFAULT_TENANT
        .parse()
        .expect("the constant is a valid name")
}

fn default_link_name() -> LinkName {
    DEFAULT_LINK_NAME
        .parse()
        .expect("the constant is a valid name")
}

/// The fields of a place lie deeper in a request to create.
fn within_attach(refusal: Refusal) -> Refusal {
    let field = match refusal.field {
        Some("vm") => Some("attach.vm"),
        Some("link_name") => Some("attach.link_name"),
        other => other,
    };
    refusal.with_field(field)
}

/// Equal for equal requests, whatever their spelling was.
fn fingerprint(operation: &str, nic: Option<&NicId>, request: &impl Serialize) -> String {
    let body = serde_json::to_string(request).unwrap_or_default();
    let nic = nic.map(NicId::as_str).unwrap_or_default();
    format!("{operation} {nic} {body}")
}

fn flow_of(record: &NicRecord) -> &'static str {
    match record.state {
        NicState::Detaching => "detach",
        NicState::Available | NicState::Attaching | NicState::InUse | NicState::Deleting => {
            "attach"
        }
    }
}

/// Nudges are by VM, so the service needs no more than the name.
impl VmRegistry {
    /// Tells a VM's worker that a record of it changed.
    pub fn nudge(&self, vm: &VmId) {
        self.with(vm, |handle| handle.nudge.notify());
    }
}
