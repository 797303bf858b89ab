//! One operator for each VM: attaches, detaches and moves its NICs until there is nothing left to
//! do.
//!
//! What hostd has acknowledged is remembered: a NIC that it has promised is there until the end,
//! whatever dies in between.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use host_api::{AttachNic, CreateNic, MoveNic};
use hostd::service::{Answer, Ask, Caller, Service, ServiceError};
use misbehaviour::Chance;
use nic_model::{ClientToken, LinkName, NicId, Target, VmId};
use tokio::time::{Instant, sleep};

use crate::sim::{Host, NETWORK, SimVm, Stage};

/// NICs of one operator.
const NICS: usize = 2;
/// Containers in each guest.
pub(super) const CONTAINERS: [&str; 2] = ["red", "blue"];
/// How long an operator waits for what no guest can refuse: in the end none does.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long it waits for what a guest has to let go of: one that refuses is not waited for.
const PATIENCE_WITH_GUEST: Duration = Duration::from_secs(5);
/// Longest pause between two operations, in milliseconds.
const PAUSE_MS: u64 = 600;
/// How long a host without hostd is left alone.
const HOSTD_AWAY: Duration = Duration::from_millis(50);
/// Out of how many requests one bears a token, so that it can be sent again.
const TOKENS: u64 = 8;

/// What came of the operations of one shard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) attaches: u64,
    pub(super) detaches: u64,
    pub(super) moves: u64,
    /// Undone, with a reason.
    pub(super) came_to_nothing: u64,
    /// Still under way when the operator had waited for long enough.
    pub(super) under_way: u64,
    /// Never admitted: not counted as operations.
    pub(super) refused: u64,
    /// Cut off by the end of a hostd.
    pub(super) cut_off: u64,
}

impl Tally {
    pub(super) fn operations(&self) -> u64 {
        self.attaches + self.detaches + self.moves
    }
}

/// What the operators of one shard share.
#[derive(Debug, Clone, Default)]
pub(super) struct Ledger(Arc<Mutex<Entries>>);

#[derive(Debug, Default)]
pub(super) struct Entries {
    pub(super) left: u64,
    pub(super) tally: Tally,
    /// NICs that hostd has promised, each with its host's number.
    pub(super) promised: BTreeMap<NicId, usize>,
}

impl Ledger {
    pub(super) fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_work(&self) -> bool {
        self.entries().left > 0
    }
}

/// One operator.
pub(super) struct Operator {
    host: Host,
    host_number: usize,
    vm: SimVm,
    neighbours: Vec<VmId>,
    stage: Stage,
    chance: Chance,
    ledger: Ledger,
    nics: Vec<NicId>,
    asked: u64,
}

/// What an operator does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Attach,
    Detach,
    Move,
}

impl Operator {
    pub(super) fn new(
        host: &Host,
        host_number: usize,
        vm: &SimVm,
        stage: &Stage,
        ledger: &Ledger,
    ) -> Self {
        Self {
            host: host.clone(),
            host_number,
            vm: vm.clone(),
            neighbours: host.vms().keys().cloned().collect(),
            stage: stage.clone(),
            chance: stage.chance(&format!("operator/{}", vm.id())),
            ledger: ledger.clone(),
            nics: Vec::new(),
            asked: 0,
        }
    }

    pub(super) fn name(&self) -> &VmId {
        self.vm.id()
    }

    /// Makes its NICs.
    pub(super) async fn set_up(&mut self) {
        while self.nics.len() < NICS {
            let ask = self.ask(Duration::ZERO);
            let request = create_request();
            let created =
                self.request(|service| async move { service.create(&ask, request).await });
            if let Some(Ok(Answer::Settled(nic) | Answer::UnderWay(nic))) = created.await {
                let promised = &mut self.ledger.entries().promised;
                promised.insert(nic.id.clone(), self.host_number);
                self.nics.push(nic.id);
            } else {
                sleep(HOSTD_AWAY).await;
            }
        }
    }

    /// Works until nothing is left to do for anybody.
    pub(super) async fn work(&mut self) {
        while self.ledger.has_work() {
            let pause = self.chance.below(PAUSE_MS);
            sleep(Duration::from_millis(pause)).await;
            if self.ledger.has_work() {
                self.do_something().await;
            }
        }
    }

    async fn do_something(&mut self) {
        let nic = self.chance.pick(&self.nics).cloned();
        let Some((nic, service)) = nic.zip(self.host.service()) else {
            return sleep(HOSTD_AWAY).await;
        };
        let Some(record) = service.store.nic(&nic) else {
            // The judge finds it missing.
            return;
        };
        let deed = match (record.placement.is_some(), record.state.is_settled()) {
            // Whatever is under way is let be.
            (_, false) => return,
            (false, true) => Deed::Attach,
            (true, true) if self.chance.happens(0.5) => Deed::Detach,
            (true, true) => Deed::Move,
        };
        self.ledger.entries().left -= 1;
        let outcome = self.carry_out(deed, &nic).await;
        self.note(deed, &nic, outcome);
    }

    async fn carry_out(&mut self, deed: Deed, nic: &NicId) -> Option<Result<Answer, ServiceError>> {
        let (target, link_name) = (self.container(), self.link_name(nic));
        let patience = match deed {
            Deed::Detach | Deed::Move => PATIENCE_WITH_GUEST,
            Deed::Attach => PATIENCE,
        };
        let ask = self.ask(patience);
        let own = VmId::clone(self.vm.id());
        let vm = match (deed, self.chance.pick(&self.neighbours)) {
            (Deed::Move, Some(other)) => other.clone(),
            _ => own,
        };
        self.request(|service| async move {
            let link_name = Some(link_name);
            match deed {
                Deed::Attach => {
                    let request = AttachNic {
                        vm,
                        target,
                        link_name,
                    };
                    service.attach(&ask, nic, request).await
                }
                Deed::Move => {
                    let request = MoveNic {
                        vm,
                        target,
                        link_name,
                    };
                    service.relocate(&ask, nic, request).await
                }
                Deed::Detach => service.detach(&ask, nic).await,
            }
        })
        .await
    }

    /// Asks the hostd that runs; nothing when none does, or when it dies before it answers.
    async fn request<F: Future>(&self, ask: impl FnOnce(Arc<Service>) -> F) -> Option<F::Output> {
        let (life, service) = (self.host.life()?, self.host.service()?);
        tokio::select! {
            biased;
            () = life.ended() => None,
            answer = ask(service) => Some(answer),
        }
    }

    fn note(&self, deed: Deed, nic: &NicId, outcome: Option<Result<Answer, ServiceError>>) {
        let entries = &mut *self.ledger.entries();
        let tally = &mut entries.tally;
        let word = match outcome {
            Some(Ok(Answer::Settled(_))) => "settled",
            Some(Ok(Answer::UnderWay(_))) => {
                tally.under_way += 1;
                "under way"
            }
            Some(Err(ServiceError::CameToNothing(_))) => {
                tally.came_to_nothing += 1;
                "came to nothing"
            }
            Some(Err(
                ServiceError::Admit(_) | ServiceError::RemovePort(_) | ServiceError::Remove(_),
            )) => {
                tally.refused += 1;
                entries.left += 1;
                "refused"
            }
            None => {
                tally.cut_off += 1;
                "cut off"
            }
        };
        if word != "refused" {
            match deed {
                Deed::Attach => tally.attaches += 1,
                Deed::Detach => tally.detaches += 1,
                Deed::Move => tally.moves += 1,
            }
        }
        let text = format!("{deed:?} {nic} {word}");
        self.stage.note(self.host.name(), "answer", text.as_bytes());
    }

    fn ask(&mut self, wait: Duration) -> Ask {
        self.asked += 1;
        let token = self.asked.is_multiple_of(TOKENS).then(|| {
            let text = format!("{}-{}", self.vm.id(), self.asked);
            text.parse::<ClientToken>()
                .expect("it is letters and digits")
        });
        Ask {
            caller: Caller::Operator,
            token,
            wait,
            received_at: Instant::now(),
        }
    }

    fn container(&mut self) -> Target {
        let name = self.chance.pick(&CONTAINERS).copied().unwrap_or("red");
        let target = format!("netns:{name}");
        target.parse().expect("the constants are valid names")
    }

    /// Each NIC has a name of its own wherever it goes.
    fn link_name(&self, nic: &NicId) -> LinkName {
        let name = nic.as_str().replace("nic-", "n");
        name.parse().expect("it is letters and digits")
    }
}

/// A request for a NIC of which nothing is said but its network.
fn create_request() -> CreateNic {
    CreateNic {
        tenant: None,
        network: NETWORK.parse().expect("the constant is a valid name"),
        mac: None,
        addressing: None,
        mtu: None,
        routes: None,
        limits: None,
        queues: None,
        attach: None,
    }
}

/// How everything is given back in the end.
pub(super) fn closing_ask() -> Ask {
    Ask {
        caller: Caller::Operator,
        token: None,
        wait: PATIENCE,
        received_at: Instant::now(),
    }
}
