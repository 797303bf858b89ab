//! Files that a cloud is described by, and what is said of those that describe none.

use std::path::Path;

use simulator::netns::{RulePage, Topology};

use crate::support::{Bed, User};

#[test]
fn the_example_says_all_there_is_to_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("topology.example.toml");

    let topology = Topology::load(&path).unwrap();

    assert_eq!(topology.hosts.len(), 2);
    assert_eq!(topology.networks.len(), 2);
    assert_eq!(
        topology.classes[1]
            .packets_out
            .unwrap()
            .packets_per_second(),
        10_000
    );
    assert_eq!(topology.quota.max_nics_per_tenant, Some(50));
    assert_eq!(topology.timeouts.quarantine_seconds, Some(30));
    let vm = &topology.vms[0];
    assert_eq!((vm.root_ports, vm.containers.len()), (8, 2));
}

#[tokio::test]
async fn the_example_comes_up() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("topology.example.toml");

    let cloud = Bed::of(User::Own).up(&[example.to_str().unwrap()]).await;

    let vms = cloud.hostd().vms().await.unwrap().vms;
    assert_eq!(vms[0].id.as_str(), "web-1");
    assert_eq!(
        cloud.started.hostd(1).unwrap().vms().await.unwrap().vms[0]
            .limits
            .max_nics,
        2
    );
}

#[tokio::test]
async fn the_rules_of_the_example_are_followed() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("rules.example.toml");
    let arguments = ["--vms", "1", "--rules", example.to_str().unwrap()];

    let cloud = Bed::of(User::Own).up(&arguments).await;

    let rules: Vec<RulePage> = cloud.started.control().get("/v1/rules").await.unwrap();
    let names: Vec<&str> = rules.iter().map(|page| page.rule.name.as_str()).collect();
    assert_eq!(names, ["stubborn", "slow", "unlucky"]);
}

/// Standard error of a start that has to fail.
async fn complaint(bed: &Bed, arguments: &[&str]) -> String {
    let output = bed.run(&[&["up"], arguments].concat()).await;
    assert!(!output.status.success(), "{arguments:?}");
    assert_eq!(bed.left(), [""; 0], "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test]
async fn a_topology_with_a_mistake_is_refused_with_the_field() {
    let bed = Bed::of(User::Own);
    let cases = [
        ("[[vm]]\nid = \"a\"\ncpus = 4\n", "cpus"),
        (
            "[[vm]]\nid = \"a\"\nhost = \"mars\"\n",
            "vm a: host: mars is not among",
        ),
        (
            "[[network]]\nname = \"blue\"\nsubnets = [\"10.0.0.0\"]\n",
            "subnets",
        ),
        (
            "[[host]]\nname = \"control\"\n",
            "host.name: control is what",
        ),
        ("[quota]\nmax_nics_per_host = -1\n", "max_nics_per_host"),
        (
            "[[vm]]\nid = \"a\"\nprofile = \"qemu-1.0\"\n",
            "profile: \"qemu-1.0\" is none of",
        ),
        ("[[vm]\n", "line 1"),
    ];
    for (content, expected) in cases {
        let file = bed.file("topology.toml", content);

        let said = complaint(&bed, &[&file]).await;

        assert!(said.contains(expected), "{expected}: {said}");
    }
}

#[tokio::test]
async fn rules_with_a_mistake_are_refused_with_the_field() {
    let bed = Bed::of(User::Own);
    let cases = [
        (
            "[[rule]]\nname = \"a\"\noperation = \"guest.plug\"\neffect = \"disk-full\"\n",
            "effect: disk-full cannot happen to guest.plug",
        ),
        (
            "[[rule]]\nname = \"a\"\noperation = \"journal.commit\"\neffect = \"fsync-error\"\n",
            "the kernel syncs hostd's file there",
        ),
        (
            "[[rule]]\nname = \"a\"\noperation = \"event.DEVICE_GONE\"\neffect = \"lose\"\n",
            "there is no operation \"event.DEVICE_GONE\"",
        ),
        (
            "[[rule]]\nname = \"a\"\noperation = \"guest.plug\"\neffect = \"lose\"\nvm = \"vm9\"\n",
            "vm: there is no VM vm9",
        ),
        (
            "[[pace]]\ntransition = \"lease\"\npace = \"manual\"\n",
            "unknown variant `lease`",
        ),
        (
            "[[pace]]\ntransition = \"plug\"\npace = \"manual\"\nvm = \"vm9\"\n",
            "pace 1: vm: there is no VM vm9",
        ),
        ("[[pace]]\ntransition = \"plug\"\npace = \"soon\"\n", "soon"),
        ("seeds = 3\n", "seeds"),
    ];
    for (content, expected) in cases {
        let file = bed.file("rules.toml", content);

        let said = complaint(&bed, &["--rules", &file]).await;

        assert!(said.contains(expected), "{expected}: {said}");
    }
}

#[tokio::test]
async fn nobody_but_this_machine_is_listened_to() {
    let bed = Bed::of(User::Own);

    let said = complaint(&bed, &["--listen", "0.0.0.0:0"]).await;

    assert!(said.contains("not of the loopback"), "{said}");
}

#[tokio::test]
async fn an_address_that_cannot_be_had_is_told_before_anything_is_started() {
    let bed = Bed::of(User::Own);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();

    let said = complaint(&bed, &["--listen", &address]).await;

    let expected = format!("error: --listen {address}: ");
    assert!(said.starts_with(&expected), "{said}");
}
