//! An operator of a simulated host, and worlds to put one in.

use std::time::Duration;

use host_api::client::{ClientError, Mutation};
use host_api::{AttachNic, Client, CreateNic, MoveNic, Nic};
use nic_model::NicId;
use simulator::sim::{Host, Plan, Sim};

/// Longer than anything may take, in virtual time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// Somebody who asks a host for things and waits for them.
pub(crate) struct Operator(Client);

impl Operator {
    pub(crate) fn of(host: &Host) -> Self {
        Self(host.client())
    }

    pub(crate) async fn create(&self) -> Result<Nic, ClientError> {
        self.create_from(r#"{"network": "blue"}"#).await
    }

    pub(crate) async fn create_from(&self, request: &str) -> Result<Nic, ClientError> {
        let request: CreateNic = serde_json::from_str(request).unwrap();
        let answer = self.0.create_nic(&request, &waiting()).await?;
        Ok(answer.nic)
    }

    pub(crate) async fn attach(&self, nic: &NicId, vm: &str) -> Result<Nic, ClientError> {
        let request = AttachNic {
            vm: vm.parse().unwrap(),
            target: "netns:blue".parse().unwrap(),
            link_name: None,
        };
        let answer = self.0.attach_nic(nic, &request, &waiting()).await?;
        Ok(answer.nic)
    }

    pub(crate) async fn relocate(&self, nic: &NicId, vm: &str) -> Result<Nic, ClientError> {
        let request = MoveNic {
            vm: vm.parse().unwrap(),
            target: "netns:blue".parse().unwrap(),
            link_name: None,
        };
        let answer = self.0.move_nic(nic, &request, &waiting()).await?;
        Ok(answer.nic)
    }

    pub(crate) async fn detach(&self, nic: &NicId) -> Result<Nic, ClientError> {
        let answer = self.0.detach_nic(nic, &waiting()).await?;
        Ok(answer.nic)
    }

    pub(crate) async fn delete(&self, nic: &NicId) -> Result<Nic, ClientError> {
        let answer = self.0.delete_nic(nic, &waiting()).await?;
        Ok(answer.nic)
    }
}

fn waiting() -> Mutation {
    Mutation {
        token: None,
        wait: Some("2m".parse().unwrap()),
    }
}

/// The namespace `blue` in every guest, as soon as the guests run.
pub(crate) async fn with_containers(sim: &Sim) {
    sim.pass(Duration::from_millis(200)).await;
    for (_, vm) in sim.vms() {
        let guest = vm.guest_handle().unwrap();
        guest.add_netns(&"blue".parse().unwrap()).unwrap();
    }
}

/// A whole life of a NIC on the first host, as far as it gets.
pub(crate) async fn live(host: &Host) -> Result<(), ClientError> {
    let operator = Operator::of(host);
    let nic = operator.create().await?.id;
    operator.attach(&nic, "vm0-0").await?;
    operator.relocate(&nic, "vm0-1").await?;
    operator.detach(&nic).await?;
    operator.delete(&nic).await?;
    Ok(())
}

/// Runs a story; a failure of it prints what happened.
pub(crate) fn run<F: Future<Output = ()>>(plan: &Plan, story: impl FnOnce(Sim) -> F) {
    Sim::run(plan, story).unwrap();
}

/// Fails with the end of the trace unless nothing is wrong.
pub(crate) fn assert_right(sim: &Sim, found: &[String]) {
    if !found.is_empty() {
        let trace = sim.stage.trace();
        let log: Vec<_> = trace.log().map(ToString::to_string).collect();
        let end = log.len().saturating_sub(60);
        panic!("{found:#?} after\n{}", log[end..].join("\n"));
    }
}
