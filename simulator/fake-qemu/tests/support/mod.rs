//! A client over a stream in memory, in virtual time.

#![expect(clippy::unwrap_used, reason = "set-up that fails is a failed test")]

use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fake_qemu::driver::memory::{ClientEnd, pair};
use fake_qemu::driver::{AnyTap, Ending, FakeQemu, LetsGo, PlainGuest, Settings};
use fake_qemu::{Hardware, MonitorId, Profile};
use misbehaviour::{Rulebook, Script, World};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// A descriptor that is none.
pub(crate) type Token = u32;

pub(crate) type Qemu = FakeQemu<Token, PlainGuest<AnyTap>>;

/// The time at which machines of tests begin.
pub(crate) const EPOCH: Duration = Duration::from_secs(1_000_000);

/// A running machine of two root ports.
pub(crate) fn hardware() -> Hardware {
    Hardware::with_root_ports(Profile::Qemu7_2, 2).unwrap()
}

/// Starts a machine whose guest lets go after a time, under these rules.
pub(crate) fn start(hardware: Hardware, lets_go: LetsGo, rules: &str) -> Qemu {
    let script: Script = toml::from_str(rules).unwrap();
    let rules = Rulebook::from_script(World::Sim, &script).unwrap();
    let settings = Settings {
        hardware: Arc::new(hardware),
        vm: Some("vm1".parse().unwrap()),
        rules: Arc::new(Mutex::new(rules)),
        epoch: EPOCH,
    };
    let host = AnyTap;
    let qemu = FakeQemu::start(settings, PlainGuest { lets_go, host });
    tokio::spawn(qemu.run());
    qemu
}

/// The same without rules.
pub(crate) fn start_plain(hardware: Hardware, lets_go: LetsGo) -> Qemu {
    start(hardware, lets_go, "")
}

/// A client of one monitor.
pub(crate) struct Client {
    end: ClientEnd<Token>,
    read: Vec<u8>,
    served: JoinHandle<Ending>,
}

impl Client {
    /// Connects, and leaves the greeting unread.
    pub(crate) fn connect(qemu: &Qemu, monitor: u8) -> Self {
        let (end, stream) = pair();
        let served = tokio::spawn(qemu.serve(MonitorId(monitor), stream));
        Self {
            end,
            read: Vec::new(),
            served,
        }
    }

    /// Connects and negotiates.
    pub(crate) async fn negotiated(qemu: &Qemu) -> Self {
        let mut client = Self::connect(qemu, 0);
        client.next().await;
        assert_eq!(client.ask("qmp_capabilities", json!({})).await, json!({}));
        client
    }

    pub(crate) async fn send(&mut self, text: &str, descriptors: Vec<Token>) {
        self.try_send(text, descriptors).await.unwrap();
    }

    /// The same to a machine that may have closed.
    pub(crate) async fn try_send(
        &mut self,
        text: &str,
        mut descriptors: Vec<Token>,
    ) -> std::io::Result<()> {
        let mut bytes = text.as_bytes();
        while !bytes.is_empty() {
            let sent = poll_fn(|context| self.end.poll_send(context, bytes, &mut descriptors));
            bytes = &bytes[sent.await?..];
        }
        Ok(())
    }

    /// The next message; `None` when the machine has closed.
    pub(crate) async fn maybe_next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let bytes = poll_fn(|context| self.end.poll_receive(context))
                .await
                .unwrap();
            self.read.extend(bytes?);
        }
    }

    pub(crate) async fn next(&mut self) -> Value {
        self.maybe_next().await.unwrap()
    }

    /// Sends a command and waits for its answer; events before it are skipped.
    pub(crate) async fn request(&mut self, command: &str, arguments: Value) -> Value {
        let request = json!({"execute": command, "arguments": arguments});
        self.send(&request.to_string(), Vec::new()).await;
        loop {
            let message = self.next().await;
            if message.get("event").is_none() {
                return message;
            }
        }
    }

    /// What a command returns.
    pub(crate) async fn ask(&mut self, command: &str, arguments: Value) -> Value {
        let mut answer = self.request(command, arguments).await;
        assert!(answer.get("return").is_some(), "{command}: {answer}");
        answer["return"].take()
    }

    /// Why a command is refused.
    pub(crate) async fn refusal(&mut self, command: &str, arguments: Value) -> String {
        let answer = self.request(command, arguments).await;
        let text = answer["error"]["desc"].as_str();
        text.unwrap_or_else(|| panic!("{command}: {answer}"))
            .to_owned()
    }

    /// Waits for an event of this name and gives what it says.
    pub(crate) async fn until(&mut self, event: &str) -> Value {
        loop {
            let mut message = self.next().await;
            if message["event"] == event {
                return message["data"].take();
            }
        }
    }

    /// How the machine's side of the conversation ended.
    pub(crate) async fn ending(self) -> Ending {
        self.served.await.unwrap()
    }

    /// Makes a backend and a NIC `net0` behind `rp1`.
    pub(crate) async fn plug(&mut self) {
        self.ask("netdev_add", json!({"type": "user", "id": "n0"}))
            .await;
        self.ask("device_add", nic("net0")).await;
    }
}

/// A NIC over `n0` behind `rp1`.
pub(crate) fn nic(id: &str) -> Value {
    json!({
        "driver": "virtio-net-pci", "id": id, "netdev": "n0", "bus": "rp1", "romfile": "",
        "mac": "5a:00:00:00:00:01",
    })
}
