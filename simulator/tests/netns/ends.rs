//! Every way for a cloud to end, and what it leaves: nothing.

use std::collections::BTreeSet;
use std::fs;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Bed, Cloud, User, until};

/// Every process that has come of `pid`, as this machine numbers them.
pub(crate) fn descendants(pid: u32) -> BTreeSet<u32> {
    let children = format!("/proc/{pid}/task/{pid}/children");
    let mut found = BTreeSet::from([pid]);
    // Every thread has children of its own.
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let files = threads.map(|thread| thread.path().join("children"));
    for file in files.chain([children.into()]) {
        let listed = fs::read_to_string(file).unwrap_or_default();
        for child in listed
            .split_whitespace()
            .filter_map(|child| child.parse().ok())
        {
            found.extend(descendants(child));
        }
    }
    found
}

fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // One that has ended and that nobody has been told of is no process any more.
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

fn kill(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

async fn nothing_is_left(cloud: Cloud, processes: BTreeSet<u32>) {
    until("no process is left", async || {
        !processes.iter().any(|pid| lives(*pid))
    })
    .await;
    until("no file is left", async || cloud.bed.left().is_empty()).await;
}

/// With a NIC in use, so that there are links too.
async fn busy_cloud(user: User) -> (Cloud, BTreeSet<u32>) {
    let cloud = Bed::of(user).up(&["--vms", "2"]).await;
    cloud.nic_in("vm1", "web").await;
    let processes = descendants(cloud.started.pid().unwrap());
    // Sandbox, hostd, two VMs, two guests, two agents, four containers, and the launcher itself.
    assert!(processes.len() >= 13, "{processes:?}");
    (cloud, processes)
}

#[tokio::test]
async fn nothing_is_left_when_the_launcher_is_killed() {
    for user in [User::Own, User::Nobody] {
        let (cloud, processes) = busy_cloud(user).await;

        kill(cloud.started.pid().unwrap(), Signal::KILL);

        nothing_is_left(cloud, processes).await;
    }
}

#[tokio::test]
async fn nothing_is_left_when_the_sandbox_is_killed() {
    let (cloud, processes) = busy_cloud(User::Own).await;
    let launcher = cloud.started.pid().unwrap();
    let sandbox = fs::read_to_string(format!("/proc/{launcher}/task/{launcher}/children")).unwrap();

    kill(sandbox.trim().parse().unwrap(), Signal::KILL);

    nothing_is_left(cloud, processes).await;
}

#[tokio::test]
async fn nothing_is_left_when_it_is_told_to_end() {
    let (cloud, processes) = busy_cloud(User::Own).await;
    kill(cloud.started.pid().unwrap(), Signal::TERM);
    nothing_is_left(cloud, processes).await;

    let (cloud, processes) = busy_cloud(User::Own).await;
    let down = cloud.bed.run(&["down"]).await;
    assert!(down.status.success(), "{down:?}");
    nothing_is_left(cloud, processes).await;
}

#[tokio::test]
async fn a_cloud_keeps_its_name_to_itself() {
    let cloud = Cloud::of_two().await;

    let second = cloud.bed.run(&["up"]).await;
    let other = cloud
        .bed
        .command(&["up", "--json", "--tied", "--name", "other", "--vms", "1"]);
    let other = simulator::netns::Started::run(other).await.unwrap();

    let complaint = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(complaint.contains("it runs already"), "{complaint}");
    assert_eq!(other.state.vms.len(), 1);
    assert_eq!(cloud.hostd().vms().await.unwrap().vms.len(), 2);
}

#[tokio::test]
async fn a_name_can_be_used_again_as_soon_as_its_cloud_is_down() {
    const ROUNDS: usize = 5;
    let bed = Bed::of(User::Own);
    let mut ended = Vec::new();
    for _ in 0..ROUNDS {
        let up = bed.command(&["up", "--json", "--tied", "--vms", "1"]);
        // Not let go of: that would end it.
        ended.push(simulator::netns::Started::run(up).await.unwrap());

        let down = bed.run(&["down"]).await;

        assert!(down.status.success(), "{down:?}");
        assert_eq!(bed.left(), [""; 0]);
    }
}

#[tokio::test]
async fn a_reset_makes_everything_as_at_first() {
    let cloud = Cloud::of_two().await;
    cloud.nic_in("vm1", "web").await;
    let added = [
        "rules",
        "add",
        "one",
        "--at",
        "guest.unplug",
        "--effect",
        "refuse",
    ];
    assert!(cloud.bed.run(&added).await.status.success());

    let reset = cloud.bed.run(&["reset"]).await;

    assert!(reset.status.success(), "{reset:?}");
    assert!(cloud.hostd().nics().await.unwrap().nics.is_empty());
    assert!(cloud.links("vm1", "web").await.is_empty());
    assert!(cloud.host_links(0).await.is_empty());
    let rules = cloud.bed.run(&["rules", "list"]).await;
    assert!(rules.stdout.is_empty(), "{rules:?}");
    cloud.nic_in("vm1", "web").await;
}
