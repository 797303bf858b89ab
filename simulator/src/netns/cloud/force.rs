//! What is in force in a cloud that runs: rules, paces, and the disks that some rules make full.
//!
//! ```text
//!   order ──► checked ──► given to every VM ──► in the plan ──► disks set ──► in force
//!                │ refused      └───────────────────┴─ fails ──► all of it taken back
//! ```
//!
//! What is answered with an error is not in force, as far as it can be undone.

use futures::future::join_all;
use misbehaviour::{Effect, PaceRule, Rule, Script, World};
use nic_model::VmId;

use super::{Cloud, OrderError};
use crate::netns::journal_log;
use crate::netns::machine::Order;
use crate::netns::topology::HostName;
use crate::netns::trouble::{Doing, Trouble};

/// Whether a rule is about a host's disk, which is full for as long as it is in force, and no VM's.
pub(in crate::netns) fn is_of_the_host(rule: &Rule) -> bool {
    rule.effect == Effect::DiskFull
}

impl Cloud {
    /// Has rules and paces in force, these and no others, now and after a reset.
    ///
    /// # Errors
    /// When one of them cannot be followed, or a VM does not answer.
    pub(in crate::netns) async fn follow(&self, script: Script) -> Result<(), OrderError> {
        let _turn = self.inner.turns.take("follow a script").await?;
        self.check(&script)?;
        let before = self.plan().script;
        let followed = self.put_in_force(script).await;
        let done = match followed {
            Ok(()) => self
                .plan()
                .write(&self.inner.site)
                .map_err(OrderError::from),
            failed => failed,
        };
        if done.is_err() {
            self.lock().plan.script = before;
            self.take_back().await;
        }
        done
    }

    /// Has everybody follow what the plan says, as far as they do what they are told: that one of
    /// them does not says no more than why something has failed.
    async fn take_back(&self) {
        let on: Vec<VmId> = self.lock().vms.keys().cloned().collect();
        let script = self.plan().script;
        join_all(on.iter().map(|vm| self.give_script(vm, &script))).await;
        self.set_disks().unwrap_or_default();
    }

    async fn put_in_force(&self, script: Script) -> Result<(), OrderError> {
        let on: Vec<VmId> = self.lock().vms.keys().cloned().collect();
        let given = join_all(on.iter().map(|vm| self.give_script(vm, &script))).await;
        given.into_iter().collect::<Result<(), _>>()?;
        self.lock().plan.script = script;
        self.set_disks()
    }

    /// Whether all of a script does something in this cloud.
    ///
    /// # Errors
    /// The first that would not.
    pub(in crate::netns) fn check(&self, script: &Script) -> Result<(), OrderError> {
        Ok(script.check_in(World::Netns, |vm| self.vm(vm).is_ok())?)
    }

    /// Makes the disk of a host full if a rule says so, and gives it room if none does.
    pub(super) fn set_disk(&self, host: &HostName) -> Result<(), Trouble> {
        let disk = self.inner.site.disk(host);
        // Not while the cloud is locked: a whole disk is written.
        let is_full = self.lock().plan.script.rules.iter().any(is_of_the_host);
        let doing = format!("set the disk of {host}");
        match is_full {
            // What somebody has given back meanwhile.
            true if disk.is_full() => disk.fill().doing(doing),
            true => {
                let journal = self.inner.site.journal(host);
                journal_log::while_empty(&journal, || disk.fill()).doing(doing)
            }
            false => disk.free().doing(doing),
        }
    }

    fn set_disks(&self) -> Result<(), OrderError> {
        let hosts = self.plan().topology.hosts;
        Ok(hosts.iter().try_for_each(|host| self.set_disk(host))?)
    }

    pub(super) async fn give_script(&self, vm: &VmId, script: &Script) -> Result<(), OrderError> {
        self.give(vm, &Order::ClearRules).await?;
        for rule in script.rules.iter().filter(|rule| !is_of_the_host(rule)) {
            self.give(vm, &Order::AddRule(rule.clone())).await?;
        }
        self.give(vm, &Order::ClearPaces).await?;
        for pace in &script.paces {
            self.give(vm, &Order::SetPace(pace.clone())).await?;
        }
        Ok(())
    }

    /// Takes in a rule everywhere.
    ///
    /// # Errors
    /// When it cannot be followed, or not in this world.
    pub(in crate::netns) async fn add_rule(&self, rule: Rule) -> Result<(), OrderError> {
        let doing = format!("add rule {:?}", rule.name);
        let _turn = self.inner.turns.take(doing).await?;
        self.check_rule(&rule)?;
        let name = rule.name.clone();
        let done = self.put_rule_in_force(rule).await;
        match &done {
            Ok(()) => self
                .inner
                .events
                .note(format_args!("rule {name:?} is in force")),
            Err(_) => self.take_rule_back(name).await,
        }
        done
    }

    async fn put_rule_in_force(&self, rule: Rule) -> Result<(), OrderError> {
        if !is_of_the_host(&rule) {
            self.give_all(&Order::AddRule(rule.clone())).await?;
        }
        self.lock().plan.script.rules.push(rule);
        self.set_disks()
    }

    async fn take_rule_back(&self, name: String) {
        self.lock()
            .plan
            .script
            .rules
            .retain(|rule| rule.name != name);
        let on: Vec<VmId> = self.lock().vms.keys().cloned().collect();
        let order = Order::RemoveRule(name);
        join_all(on.iter().map(|vm| self.give(vm, &order))).await;
        self.set_disks().unwrap_or_default();
    }

    fn check_rule(&self, rule: &Rule) -> Result<(), OrderError> {
        self.check(&Script {
            rules: vec![rule.clone()],
            ..Script::default()
        })?;
        let running = self.lock();
        let mut names = running.plan.script.rules.iter().map(|known| &known.name);
        if names.any(|name| *name == rule.name) {
            return Err(OrderError::RuleTaken(rule.name.clone()));
        }
        Ok(())
    }

    /// Takes out a rule, or all of them; whether there was any.
    ///
    /// # Errors
    /// When a VM does not answer.
    pub(in crate::netns) async fn remove_rules(
        &self,
        name: Option<&str>,
    ) -> Result<bool, OrderError> {
        let doing = match name {
            Some(name) => format!("remove rule {name:?}"),
            None => "remove all rules".to_owned(),
        };
        let _turn = self.inner.turns.take(doing).await?;
        let order = match name {
            Some(name) => Order::RemoveRule(name.to_owned()),
            None => Order::ClearRules,
        };
        if let Err(error) = self.give_all(&order).await {
            self.take_back().await;
            return Err(error);
        }
        let removed = {
            let mut running = self.lock();
            let rules = &mut running.plan.script.rules;
            let before = rules.len();
            rules.retain(|rule| name.is_some_and(|name| rule.name != name));
            rules.len() < before
        };
        self.set_disks()?;
        Ok(removed)
    }

    /// Sets a pace everywhere.
    ///
    /// # Errors
    /// When a VM does not answer.
    pub(in crate::netns) async fn set_pace(&self, pace: PaceRule) -> Result<(), OrderError> {
        let _turn = self.inner.turns.take("set a pace").await?;
        self.check(&Script {
            paces: vec![pace.clone()],
            ..Script::default()
        })?;
        if let Err(error) = self.give_all(&Order::SetPace(pace.clone())).await {
            self.take_back().await;
            return Err(error);
        }
        let mut running = self.lock();
        let paces = &mut running.plan.script.paces;
        paces.retain(|old| (old.transition, &old.vm) != (pace.transition, &pace.vm));
        paces.push(pace);
        Ok(())
    }
}
