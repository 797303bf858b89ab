//! What is in force in a cloud that runs: rules, paces, and the disks that some rules make full.
//!
//! ```text
//!   order ──► checked ──► given to every VM ──► in the plan ──► disks set ──► in force
//!                │ refused      └───────────────────┴─ fails ──► all of it taken back
//! ```
//!
//! What is answered with an error is not in force, as far as it can be undone.

use std::time::Duration;

use futures::future::join_all;
use misbehaviour::{Effect, PaceRule, Rule, Script, World};
use nic_model::VmId;
use rustix::process::Pid;

use super::{Cloud, OrderError, Turn};
use crate::netns::journal_log;
use crate::netns::machine::Order;
use crate::netns::topology::HostName;
use crate::netns::trouble::{Doing, Trouble};

/// How soon the end of a process is known, after the first sign of it.
const END_DEADLINE: Duration = Duration::from_millis(100);
const END_POLL: Duration = Duration::from_millis(1);

/// Whether a rule is about a host's disk, which is full for as long as it is in force, and no VM's.
pub(in crate::netns) fn is_of_the_host(rule: &Rule) -> bool {
    rule.effect == Effect::DiskFull
}

/// What a VM is told so that it follows a script, whatever it has followed before.
fn orders_of(script: &Script) -> Vec<Order> {
    let rules = script.rules.iter().filter(|rule| !is_of_the_host(rule));
    let mut orders = vec![Order::ClearRules];
    orders.extend(rules.cloned().map(Order::AddRule));
    orders.push(Order::ClearPaces);
    orders.extend(script.paces.iter().cloned().map(Order::SetPace));
    orders
}

impl Cloud {
    /// Has rules and paces in force, these and no others, now and after a reset.
    ///
    /// # Errors
    /// When one of them cannot be followed, or a VM does not answer.
    pub(in crate::netns) async fn follow(
        &self,
        _turn: &Turn<'_>,
        script: Script,
    ) -> Result<(), OrderError> {
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
        let orders = orders_of(&self.plan().script);
        self.give_all(&orders).await.unwrap_or_default();
        self.set_disks().unwrap_or_default();
    }

    async fn put_in_force(&self, script: Script) -> Result<(), OrderError> {
        self.give_all(&orders_of(&script)).await?;
        self.lock().plan.script = script;
        self.set_disks()
    }

    /// Gives orders, one after the other, to every VM that is on, and tells the first failure once
    /// all have been given them. That one of them ends meanwhile is none: it is given all that is
    /// in force when it is started again.
    ///
    /// # Errors
    /// When one of them refuses or does not answer.
    pub(in crate::netns) async fn give_all(&self, orders: &[Order]) -> Result<(), OrderError> {
        let on = self.lock().vms.clone();
        let given = on
            .iter()
            .map(|(vm, pid)| self.give_or_end(vm, *pid, orders));
        join_all(given).await.into_iter().collect()
    }

    async fn give_or_end(&self, vm: &VmId, pid: Pid, orders: &[Order]) -> Result<(), OrderError> {
        let given = self.give_in_turn(vm, orders).await;
        match given.is_err() && self.ends(vm, pid).await {
            true => Ok(()),
            false => given,
        }
    }

    async fn give_in_turn(&self, vm: &VmId, orders: &[Order]) -> Result<(), OrderError> {
        for order in orders {
            self.give(vm, order).await?;
        }
        Ok(())
    }

    /// Whether a life of a VM is over, or just ending: a process that ends closes its sockets
    /// before anybody is told of its end.
    async fn ends(&self, vm: &VmId, pid: Pid) -> bool {
        let off = async {
            while self.lock().vms.get(vm) == Some(&pid) {
                tokio::time::sleep(END_POLL).await;
            }
        };
        tokio::time::timeout(END_DEADLINE, off).await.is_ok()
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
        self.give_in_turn(vm, &orders_of(script)).await
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
            self.give_all(&[Order::AddRule(rule.clone())]).await?;
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
        let taken = self.give_all(&[Order::RemoveRule(name)]).await;
        taken.unwrap_or_default();
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
        if let Err(error) = self.give_all(&[order]).await {
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
        if let Err(error) = self.give_all(&[Order::SetPace(pace.clone())]).await {
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
