//! A client of hostd, over its unix socket or whatever else a dialer brings.
//!
//! ```text
//!   call:    connect ─► request ─► answer, capped ─► typed value or Problem   (one deadline)
//!   events:  connect ─► request ─► event, event, …   (a deadline for each silence)
//! ```
//!
//! One connection a request: on a unix socket that costs microseconds, and a client that comes
//! back after hours has no stale connection to trip over. Nothing is sent twice behind the
//! caller's back; [`ClientError::may_have_happened`] tells when sending again needs a token.

mod connection;
mod dial;
mod error;
mod stream;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::{Method, StatusCode};
use nic_model::{ClientToken, NicId, TenantId, VmId};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{
    AttachNic, CreateNic, EventQuery, Health, Limits, MoveNic, Nic, NicList, Problem, Vm, VmList,
    Wait, path,
};
use connection::{Answered, Call};
use dial::UnixDialer;
pub use dial::{ApiStream, Dialer};
pub use error::ClientError;
pub use stream::EventStream;

/// Time for an answer beyond what the caller asked hostd to wait: hostd answers from memory and
/// one commit, so whoever takes this long does not answer at all.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A client of one hostd.
#[derive(Debug, Clone)]
pub struct Client {
    dialer: Arc<dyn Dialer>,
    socket: PathBuf,
    tenant: Option<TenantId>,
}

/// How a mutation is to be done.
#[derive(Debug, Clone, Default)]
pub struct Mutation {
    /// Makes it recognisable when sent again.
    pub token: Option<ClientToken>,
    /// How long hostd may wait for the NIC to settle before it answers; at once by default.
    pub wait: Option<Wait>,
}

/// Answer to a mutation.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The NIC as it is now.
    pub nic: Nic,
    /// Whether anything is still to be done.
    pub progress: Progress,
}

/// Whether anything is still to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Nothing is.
    Settled,
    /// The NIC is on its way.
    UnderWay,
}

impl Client {
    /// A client of the hostd that listens on the unix socket at `socket`.
    pub fn unix(socket: impl AsRef<Path>) -> Self {
        Self::over(Arc::new(UnixDialer), socket)
    }

    /// A client of the hostd that `dialer` reaches at `address`.
    pub fn over(dialer: Arc<dyn Dialer>, address: impl AsRef<Path>) -> Self {
        Self {
            dialer,
            socket: address.as_ref().to_owned(),
            tenant: None,
        }
    }

    /// The same, acting for `tenant`.
    #[must_use]
    pub fn for_tenant(self, tenant: TenantId) -> Self {
        Self {
            tenant: Some(tenant),
            ..self
        }
    }

    /// Makes a NIC.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn create_nic(
        &self,
        request: &CreateNic,
        mutation: &Mutation,
    ) -> Result<Answer, ClientError> {
        let call = self.call(Method::POST, path::NICS).json(request)?;
        self.mutate(call, mutation).await
    }

    /// Attaches a NIC.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn attach_nic(
        &self,
        nic: &NicId,
        request: &AttachNic,
        mutation: &Mutation,
    ) -> Result<Answer, ClientError> {
        self.post(&path::nic_attach(nic), request, mutation).await
    }

    /// Moves a NIC.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn move_nic(
        &self,
        nic: &NicId,
        request: &MoveNic,
        mutation: &Mutation,
    ) -> Result<Answer, ClientError> {
        self.post(&path::nic_move(nic), request, mutation).await
    }

    /// Detaches a NIC.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn detach_nic(
        &self,
        nic: &NicId,
        mutation: &Mutation,
    ) -> Result<Answer, ClientError> {
        let call = self.call(Method::POST, &path::nic_detach(nic));
        self.mutate(call, mutation).await
    }

    /// Deletes a NIC; the answer shows it as it was last.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn delete_nic(
        &self,
        nic: &NicId,
        mutation: &Mutation,
    ) -> Result<Answer, ClientError> {
        let call = self.call(Method::DELETE, &path::nic(nic));
        self.mutate(call, mutation).await
    }

    /// Every NIC the caller may see.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn nics(&self) -> Result<NicList, ClientError> {
        self.get(path::NICS).await
    }

    /// One NIC.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn nic(&self, nic: &NicId) -> Result<Nic, ClientError> {
        self.get(&path::nic(nic)).await
    }

    /// Every VM.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn vms(&self) -> Result<VmList, ClientError> {
        self.get(path::VMS).await
    }

    /// One VM.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn vm(&self, vm: &VmId) -> Result<Vm, ClientError> {
        self.get(&path::vm(vm)).await
    }

    /// Every limit and what is used of it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn limits(&self) -> Result<Limits, ClientError> {
        self.get(path::LIMITS).await
    }

    /// How hostd does, also when it does badly.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn health(&self) -> Result<Health, ClientError> {
        let call = self.call(Method::GET, path::HEALTH);
        let answered = call.answer(ANSWER_TIMEOUT).await?;
        match answered.status {
            StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE => answered.read(),
            _ => Err(refusal(&answered)),
        }
    }

    /// What happens from now on, or since the event `after` was seen.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn events(
        &self,
        query: &EventQuery,
        after: Option<u64>,
    ) -> Result<EventStream, ClientError> {
        let nic = query.nic.as_ref().map(|nic| format!("nic={nic}"));
        let vm = query.vm.as_ref().map(|vm| format!("vm={vm}"));
        let filter = nic.into_iter().chain(vm).collect::<Vec<_>>().join("&");
        let mut call = self.call(Method::GET, path::EVENTS);
        if !filter.is_empty() {
            call.path_and_query = format!("{}?{filter}", path::EVENTS);
        }
        if let Some(id) = after {
            call = call.header(path::LAST_EVENT_ID_HEADER, id.to_string());
        }
        let opened = call.open(ANSWER_TIMEOUT).await?;
        if opened.status().is_success() {
            return Ok(EventStream::new(opened));
        }
        Err(refusal(&opened.read_whole(ANSWER_TIMEOUT).await?))
    }

    fn call(&self, method: Method, path: &str) -> Call {
        let call = Call::new(self.dialer.clone(), &self.socket, method, path);
        match &self.tenant {
            Some(tenant) => call.header(path::TENANT_HEADER, tenant.to_string()),
            None => call,
        }
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let answered = self.call(Method::GET, path).answer(ANSWER_TIMEOUT).await?;
        accepted(answered)?.read()
    }

    async fn post<T: Serialize + Sync>(
        &self,
        path: &str,
        request: &T,
        mutation: &Mutation,
    ) -> Result<Answer, ClientError> {
        let call = self.call(Method::POST, path).json(request)?;
        self.mutate(call, mutation).await
    }

    async fn mutate(&self, mut call: Call, mutation: &Mutation) -> Result<Answer, ClientError> {
        if let Some(token) = &mutation.token {
            call = call.header(path::CLIENT_TOKEN_HEADER, token.to_string());
        }
        let wait = mutation.wait.unwrap_or(Wait::NONE);
        if wait != Wait::NONE {
            call.path_and_query = format!("{}?wait={wait}", call.path_and_query);
        }
        let answered = accepted(call.answer(ANSWER_TIMEOUT + wait.duration()).await?)?;
        let progress = match answered.status {
            StatusCode::ACCEPTED => Progress::UnderWay,
            _ => Progress::Settled,
        };
        let nic = answered.read()?;
        Ok(Answer { nic, progress })
    }
}

fn accepted(answered: Answered) -> Result<Answered, ClientError> {
    if answered.status.is_success() {
        Ok(answered)
    } else {
        Err(refusal(&answered))
    }
}

fn refusal(answered: &Answered) -> ClientError {
    let status = answered.status.as_u16();
    match answered.read::<Problem>() {
        Ok(problem) => ClientError::Problem {
            problem: Box::new(problem),
            status,
        },
        Err(_) => ClientError::Protocol {
            message: format!("status {status} came without a reason"),
        },
    }
}
