//! A VM's hardware, plugged by hand over the monitor that hostd leaves to others.

use std::fs;
use std::time::Duration;

use simulator::netns::{GuestState, Page, Place};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::Command;

use crate::ends::descendants;
use crate::support::{Bed, Cloud, PATIENCE, User, until};

/// A NIC, all but the end of the command.
const DEVICE: &str = "{\"execute\": \"device_add\", \"arguments\": {\"id\": \"extra\", \
    \"driver\": \"virtio-net-pci\", \"bus\": \"rp7\", \"mac\": \"52:54:00:00:00:77\"";

/// A port of the host and its other end.
const PORT: [&str; 8] = [
    "link", "add", "port0", "type", "veth", "peer", "name", "port1",
];

struct Monitor {
    answers: Lines<BufReader<OwnedReadHalf>>,
    commands: OwnedWriteHalf,
}

impl Monitor {
    async fn of(cloud: &Cloud) -> Self {
        let socket = &cloud.started.state.vms[0].monitor;
        let (answers, commands) = UnixStream::connect(socket).await.unwrap().into_split();
        let answers = BufReader::new(answers).lines();
        let mut monitor = Self { answers, commands };
        assert!(monitor.line().await.starts_with("{\"QMP\""));
        monitor.run("{\"execute\": \"qmp_capabilities\"}").await;
        monitor
    }

    async fn line(&mut self) -> String {
        let line = tokio::time::timeout(PATIENCE, self.answers.next_line()).await;
        line.expect("it answers").unwrap().unwrap()
    }

    /// Runs a command that succeeds.
    async fn run(&mut self, command: &str) {
        self.commands.write_all(command.as_bytes()).await.unwrap();
        loop {
            let line = self.line().await;
            assert!(!line.contains("\"error\""), "{command}: {line}");
            if line.contains("\"return\"") {
                return;
            }
        }
    }
}

async fn paced(pace: &str) -> Cloud {
    let bed = Bed::of(User::Own);
    let script = format!("[[pace]]\ntransition = \"plug\"\npace = \"{pace}\"\n");
    let rules = bed.file("rules.toml", &script);
    bed.up(&["--vms", "1", "--rules", &rules]).await
}

/// What the guest's kernel says of its own links, after everything has been switched on.
async fn guest_links(cloud: &Cloud) -> String {
    let words = "for l in $(ls /proc/sys/net/ipv4/conf | grep eth); do ip link set $l up; done; \
        ip -brief link";
    let words = ["sh", "-c", words];
    let guest = cloud.guest("vm1");
    let shown = guest.run(Place::Own, &words, Duration::from_secs(5));
    shown.await.unwrap().stdout
}

async fn order(cloud: &Cloud, arguments: &[&str]) {
    let done = cloud.bed.run(arguments).await;
    assert!(done.status.success(), "{arguments:?}: {done:?}");
}

/// Does something with links in the namespace of the host.
async fn on_host(cloud: &Cloud, arguments: &[&str]) {
    let machine = |pid: &u32| {
        let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split('\0').any(|word| word == "machine")
    };
    let processes = descendants(cloud.started.pid().unwrap());
    let pid = processes.into_iter().find(machine).unwrap();
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{pid}/ns/net")).arg("ip");
    let done = command.args(arguments).output().await.unwrap();
    assert!(done.status.success(), "{arguments:?}: {done:?}");
}

#[tokio::test]
async fn a_carrier_that_goes_before_the_link_comes_is_gone() {
    let cloud = paced("manual").await;
    let mut monitor = Monitor::of(&cloud).await;
    monitor.run(&format!("{DEVICE}}}}}")).await;
    let down = "{\"execute\": \"set_link\", \"arguments\": {\"name\": \"extra\", \"up\": false}}";
    monitor.run(down).await;

    order(&cloud, &["step", "vm1"]).await;

    let links = guest_links(&cloud).await;
    assert!(links.contains("52:54:00:00:00:77"), "{links}");
    assert!(links.contains("NO-CARRIER"), "{links}");
    monitor.run(&down.replace("false", "true")).await;
    until("it has a carrier", async || {
        !guest_links(&cloud).await.contains("NO-CARRIER")
    })
    .await;
}

#[tokio::test]
async fn what_could_not_be_plugged_comes_with_the_next_boot() {
    let cloud = paced("manual").await;
    let mut monitor = Monitor::of(&cloud).await;
    on_host(&cloud, &PORT).await;
    let backend = "{\"execute\": \"netdev_add\", \"arguments\": {\"type\": \"tap\", \
        \"id\": \"net0\", \"ifname\": \"port0\", \"script\": \"no\", \"downscript\": \"no\"}}";
    monitor.run(backend).await;
    monitor
        .run(&format!("{DEVICE}, \"netdev\": \"net0\"}}}}"))
        .await;
    on_host(&cloud, &["link", "delete", "port0"]).await;
    let stepped = cloud.bed.run(&["step", "vm1"]).await;
    assert!(!stepped.status.success(), "{stepped:?}");

    // The first boot without its port, and a boot that loses it again.
    for _ in 0..2 {
        order(&cloud, &["vm", "reset", "vm1"]).await;
        boots_with(&cloud, None).await;
        on_host(&cloud, &PORT).await;
        order(&cloud, &["vm", "reset", "vm1"]).await;
        boots_with(&cloud, Some("52:54:00:00:00:77")).await;
        on_host(&cloud, &["link", "delete", "port0"]).await;
    }
}

/// Waits for a guest that is up and has this NIC, or none.
async fn boots_with(cloud: &Cloud, mac: Option<&str>) {
    until("the guest is up as expected", async || {
        let page: Page = cloud.started.control().get("/").await.unwrap();
        let Some(hardware) = &page.vms[0].hardware else {
            return false;
        };
        let expected = usize::from(mac.is_some());
        hardware.guest == GuestState::Up && hardware.nics.len() == expected
    })
    .await;
    if let Some(mac) = mac {
        let links = guest_links(cloud).await;
        assert!(links.contains(mac), "{links}");
    }
}

#[tokio::test]
async fn each_command_is_a_look() {
    let looks = 2000;
    let cloud = paced(&format!("after {looks} polls")).await;
    let mut monitor = Monitor::of(&cloud).await;
    monitor.run(&format!("{DEVICE}}}}}")).await;
    let burst = "{\"execute\": \"query-status\"}\n".repeat(looks);

    let Monitor { commands, answers } = &mut monitor;
    let asked = commands.write_all(burst.as_bytes());
    let answered = async {
        for _ in 0..looks {
            answers.next_line().await.unwrap().unwrap();
        }
    };
    let both = tokio::time::timeout(PATIENCE, async { tokio::join!(asked, answered).0 }).await;
    both.expect("every command is answered").unwrap();

    until("the link is there", async || {
        guest_links(&cloud).await.contains("52:54:00:00:00:77")
    })
    .await;
}
