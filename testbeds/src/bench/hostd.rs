//! hostd's side of the measurement: one NIC, attached to a container and detached again and again.

use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use host_api::client::EventStream;
use host_api::{AttachNic, Client, CreateNic, EventQuery, Nic, NicState, StepTiming};
use nic_model::{NicId, Route};

use super::milliseconds;
use super::probe::{self, Probe};
use crate::bed::{Bed, Vm};
use crate::guest::Container;
use crate::requests::{PATIENCE, in_state, into, nic_on_blue, retire, settled, static_addresses};
use crate::site::HOST_V4;

/// The NIC's address: fixed, so that the host can be told beforehand whose it is.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 10);

/// hostd's name for the time from `device_add` to the agent's sight of the link.
const ARRIVE: &str = "arrive";
/// hostd's name for the time from `device_del` to the device's disappearance.
const GUEST_UNPLUG: &str = "guest-unplug";

/// A NIC that is nowhere, and a container to attach it to.
pub struct HostdSide<'a> {
    bed: &'a Bed,
    vm: Rc<Vm>,
    container: Container,
    nic: NicId,
    attach: AttachNic,
}

/// What one attach and one detach took, in milliseconds.
#[derive(Debug, Clone)]
pub struct HostdTimes {
    /// `device_add` sent → link seen by the agent.
    pub floor: f64,
    /// Request sent → first echo reply out of the container.
    pub total: f64,
    /// Request sent → hostd's answer that the NIC is in use, read back.
    pub answered: f64,
    /// `device_del` sent → the device is gone.
    pub detach_floor: f64,
    /// Request sent → hostd's answer that nothing of it is left.
    pub detach_total: f64,
    /// hostd's steps of the attach, then of the detach.
    pub steps: Vec<StepTime>,
}

/// One step of one operation.
#[derive(Debug, Clone, PartialEq)]
pub struct StepTime {
    /// `attach` or `detach`, and the step's name.
    pub name: String,
    /// How long it took, in milliseconds.
    pub duration: f64,
}

impl<'a> HostdSide<'a> {
    /// Makes container and NIC.
    ///
    /// # Errors
    /// When guest or hostd refuse.
    pub async fn set(bed: &'a Bed, vm: Rc<Vm>) -> Result<Self> {
        probe::prepare(bed.host().site()?).await?;
        let container = vm.guest.make_container().await?;
        let default_route = Route {
            destination: "0.0.0.0/0".parse()?,
            gateway: Some(IpAddr::V4(HOST_V4)),
            metric: None,
        };
        let request = CreateNic {
            addressing: Some(static_addresses(&[&format!("{ADDRESS}/24")])?),
            routes: Some(vec![default_route]),
            ..nic_on_blue()
        };
        let answer = bed.client().create_nic(&request, &settled()).await?;
        let nic = in_state(answer, NicState::Available)?;
        probe::introduce(bed.host().site()?, ADDRESS, nic.mac).await?;
        let attach = into(&vm, container.target());
        Ok(Self {
            bed,
            vm,
            container,
            nic: nic.id,
            attach,
        })
    }

    /// Attaches and detaches once; `identifier` tells this pair's echoes from any other's.
    ///
    /// # Errors
    /// When the NIC is not usable, or not gone, when it should be.
    pub async fn pair(&self, identifier: u16) -> Result<HostdTimes> {
        let client = self.bed.client();
        let events = self.events(&client).await?;
        let began = Instant::now();
        let attach = async {
            let answer = client
                .attach_nic(&self.nic, &self.attach, &settled())
                .await?;
            anyhow::Ok((answer, began.elapsed()))
        };
        let probe = async {
            arrival(events).await?;
            Probe::start(&self.bed.host().site()?.netns, ADDRESS, identifier).await
        };
        let ((answer, answered), probe) = tokio::try_join!(attach, probe)?;
        let attached = in_state(answer, NicState::InUse)?;
        let usable_at = probe.first_reply(PATIENCE).await?;

        let (detached, detach_total) = self.detach(&client).await?;
        let steps_of = |flow, nic: &Nic| -> Vec<StepTime> { step_times(flow, &nic.timings) };
        Ok(HostdTimes {
            floor: step(&attached, ARRIVE)?,
            total: milliseconds(usable_at.saturating_duration_since(began)),
            answered: milliseconds(answered),
            detach_floor: step(&detached, GUEST_UNPLUG)?,
            detach_total,
            steps: [steps_of("attach", &attached), steps_of("detach", &detached)].concat(),
        })
    }

    async fn events(&self, client: &Client) -> Result<EventStream> {
        let about_the_nic = EventQuery {
            nic: Some(self.nic.clone()),
            vm: None,
        };
        Ok(client.events(&about_the_nic, None).await?)
    }

    async fn detach(&self, client: &Client) -> Result<(Nic, f64)> {
        let began = Instant::now();
        let answer = client.detach_nic(&self.nic, &settled()).await?;
        let took = milliseconds(began.elapsed());
        Ok((in_state(answer, NicState::Available)?, took))
    }

    /// Gets back to a NIC that is nowhere, after a pair that failed.
    ///
    /// # Errors
    /// When hostd cannot be brought there.
    pub async fn recover(&self) -> Result<()> {
        let client = self.bed.client();
        if client.nic(&self.nic).await?.state != NicState::Available {
            self.detach(&client).await?;
        }
        Ok(())
    }

    /// Removes NIC and container.
    ///
    /// # Errors
    /// When they stay.
    pub async fn clear(self) -> Result<()> {
        retire(&self.bed.client(), &self.nic).await?;
        self.vm.guest.kill_container(&self.container).await
    }
}

/// Waits until the agent has seen the link. A reply is not possible before, and requests would only
/// pile up in the tap: under emulation, working through a hundred of them takes the guest ten
/// milliseconds of the time that is being measured.
async fn arrival(mut events: EventStream) -> Result<()> {
    let arrived = async {
        while let Some(event) = events.next().await {
            if event?.step.is_some_and(|timing| timing.step.0 == ARRIVE) {
                return Ok(());
            }
        }
        bail!("hostd's events ended before the link arrived")
    };
    let arrived = tokio::time::timeout(PATIENCE, arrived).await;
    arrived.context("the link does not arrive")?
}

fn step(nic: &Nic, name: &str) -> Result<f64> {
    let found = nic.timings.iter().find(|timing| timing.step.0 == name);
    found
        .map(|timing| timing.duration_ms)
        .with_context(|| format!("hostd tells no time of {name}: {:?}", nic.timings))
}

/// Each step once, in the order of hostd's list; what was done twice counts as one, with both
/// times.
fn step_times(flow: &str, timings: &[StepTiming]) -> Vec<StepTime> {
    let mut steps: Vec<StepTime> = Vec::new();
    for timing in timings {
        let name = format!("{flow} {}", timing.step);
        match steps.iter_mut().find(|step| step.name == name) {
            Some(step) => step.duration += timing.duration_ms,
            None => steps.push(StepTime {
                name,
                duration: timing.duration_ms,
            }),
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use host_api::StepSource;

    use super::*;

    #[test]
    fn a_step_that_was_done_twice_counts_once_with_both_times() {
        let timing = |step: &str, duration_ms| StepTiming {
            step: step.into(),
            at_ms: Some(0.0),
            duration_ms,
            source: StepSource::Host,
        };
        let timings = [
            timing("plug", 1.0),
            timing("arrive", 2.0),
            timing("plug", 4.0),
        ];

        let steps = step_times("attach", &timings);

        let told: Vec<_> = steps
            .iter()
            .map(|step| (step.name.as_str(), step.duration))
            .collect();
        assert_eq!(told, [("attach plug", 5.0), ("attach arrive", 2.0)]);
    }
}
