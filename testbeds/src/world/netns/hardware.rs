//! The hardware of a guest that is a namespace: links that the simulator makes and takes away, and
//! that no kernel knows as PCI devices.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use nic_model::{HotplugMode, PciPath, VmId};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::guest::shell::Hardware;

/// It does nothing that takes long before it answers.
const DEADLINE: Duration = Duration::from_secs(20);
/// Longest answer: a status lists all rules.
const LINE_MAX_BYTES: u64 = 1024 * 1024;

/// Where the simulated hardware of one VM takes orders: lines of JSON.
#[derive(Debug)]
pub(super) struct ControlLine {
    socket: PathBuf,
}

impl ControlLine {
    pub(super) fn to(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Gives an order, which has to be followed, and gives the answer.
    pub(super) async fn order(&self, order: &Value) -> Result<Value> {
        let answer = tokio::time::timeout(DEADLINE, self.exchange(order)).await;
        let answer = answer.context("the simulated hardware does not answer")??;
        match answer.get("failed") {
            Some(reason) => bail!("the simulated hardware says: {reason}"),
            None => Ok(answer),
        }
    }

    async fn exchange(&self, order: &Value) -> Result<Value> {
        let mut stream = BufReader::new(UnixStream::connect(&self.socket).await?);
        let line = format!("{order}\n");
        stream.get_mut().write_all(line.as_bytes()).await?;
        let mut answer = Vec::new();
        (&mut stream)
            .take(LINE_MAX_BYTES)
            .read_until(b'\n', &mut answer)
            .await?;
        Ok(serde_json::from_slice(&answer)?)
    }
}

/// The devices of one guest, which its kernel does not know as such.
#[derive(Debug)]
pub(super) struct NamespaceHardware {
    vm: VmId,
    control: ControlLine,
}

impl NamespaceHardware {
    pub(super) fn over(vm: VmId, control: ControlLine) -> Self {
        Self { vm, control }
    }

    fn rule(&self, operation: &str) -> String {
        format!("{} ignores {operation}", self.vm)
    }
}

/// What a kernel without its hot-plug driver does not notice.
const IGNORED: [&str; 2] = ["guest.unplug", "guest.plug"];

#[async_trait(?Send)]
impl Hardware for NamespaceHardware {
    async fn virtio_nics(&self) -> Result<Option<BTreeSet<PciPath>>> {
        Ok(None)
    }

    async fn hotplug_mode(&self) -> Result<HotplugMode> {
        Ok(HotplugMode::Acpi)
    }

    async fn ignore_hotplug(&self, _mode: HotplugMode) -> Result<()> {
        for operation in IGNORED {
            let rule = json!({ "name": self.rule(operation), "operation": operation,
                "vm": self.vm, "effect": "ignore" });
            self.control.order(&json!({ "add_rule": rule })).await?;
        }
        Ok(())
    }

    async fn heed_hotplug(&self, _mode: HotplugMode) -> Result<()> {
        for operation in IGNORED {
            let rule = self.rule(operation);
            self.control.order(&json!({ "remove_rule": rule })).await?;
        }
        Ok(())
    }
}
