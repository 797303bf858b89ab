//! The terminal of a simulated guest, from outside.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use nic_model::NetnsName;

use super::protocol::{
    AgentWanted, ContainerView, GuestLink, LINE_MAX, Naming, Output, Place, Reply, Request,
};
use crate::netns::lines;
use crate::netns::trouble::{Doing, Trouble};

/// For what a guest does at once.
const PROMPT: Duration = Duration::from_secs(10);

/// A simulated guest.
#[derive(Debug, Clone)]
pub struct GuestClient {
    socket: PathBuf,
}

/// What the guest had against it.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("{0}")]
    Failed(String),
    #[error("the guest answers something else: {0:?}")]
    Unexpected(Reply),
}

impl GuestClient {
    /// The guest that takes orders at a socket.
    #[must_use]
    pub const fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Makes a container.
    ///
    /// # Errors
    /// When there is one of that name, or the guest does not answer.
    pub async fn make_container(
        &self,
        name: &NetnsName,
        naming: Naming,
    ) -> Result<ContainerView, Trouble> {
        let name = name.clone();
        let request = Request::MakeContainer { name, naming };
        let reply = self.ask(request, PROMPT).await?;
        if let Reply::Container(container) = reply {
            Ok(container)
        } else {
            unexpected(reply)
        }
    }

    /// Ends a container.
    ///
    /// # Errors
    /// When there is none of that name, or the guest does not answer.
    pub async fn kill_container(&self, name: &NetnsName) -> Result<(), Trouble> {
        let name = name.clone();
        self.order(Request::KillContainer { name }).await
    }

    /// Every container, by name.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub async fn containers(&self) -> Result<Vec<ContainerView>, Trouble> {
        let reply = self.ask(Request::Containers, PROMPT).await?;
        if let Reply::Containers(containers) = reply {
            Ok(containers)
        } else {
            unexpected(reply)
        }
    }

    /// The links of a namespace.
    ///
    /// # Errors
    /// When there is no such place, or the guest does not answer.
    pub async fn links(&self, place: Place) -> Result<Vec<GuestLink>, Trouble> {
        let reply = self.ask(Request::Links { place }, PROMPT).await?;
        if let Reply::Links(links) = reply {
            Ok(links)
        } else {
            unexpected(reply)
        }
    }

    /// Has an address send `count` echoes, each within `patience`; how long each took, in
    /// milliseconds.
    ///
    /// # Errors
    /// When one does not come, or the guest does not answer.
    pub async fn ping(
        &self,
        place: Place,
        to: IpAddr,
        count: u16,
        patience: Duration,
    ) -> Result<Vec<f64>, Trouble> {
        let request = Request::Ping {
            place,
            to,
            count,
            patience_ms: milliseconds(patience),
        };
        let reply = self.ask(request, PROMPT + patience * count.into()).await?;
        if let Reply::Echoes(times) = reply {
            Ok(times)
        } else {
            unexpected(reply)
        }
    }

    /// Runs a program for at most `deadline`.
    ///
    /// # Errors
    /// When it cannot be started, takes too long, or the guest does not answer.
    pub async fn run(
        &self,
        place: Place,
        command: &[&str],
        deadline: Duration,
    ) -> Result<Output, Trouble> {
        let request = Request::Run {
            place,
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            deadline_ms: milliseconds(deadline),
        };
        let reply = self.ask(request, PROMPT + deadline).await?;
        if let Reply::Output(output) = reply {
            Ok(output)
        } else {
            unexpected(reply)
        }
    }

    /// Stops the agent, or starts it.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub async fn set_agent(&self, wanted: AgentWanted) -> Result<(), Trouble> {
        self.order(Request::Agent { wanted }).await
    }

    async fn order(&self, request: Request) -> Result<(), Trouble> {
        let reply = self.ask(request, PROMPT).await?;
        if reply == Reply::Done {
            Ok(())
        } else {
            unexpected(reply)
        }
    }

    async fn ask(&self, request: Request, deadline: Duration) -> Result<Reply, Trouble> {
        lines::ask(&self.socket, &request, LINE_MAX, deadline).await
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn unexpected<T>(reply: Reply) -> Result<T, Trouble> {
    let refusal = if let Reply::Failed(reason) = reply {
        Refusal::Failed(reason)
    } else {
        Refusal::Unexpected(reply)
    };
    Err(refusal).doing("have a guest do something")
}
