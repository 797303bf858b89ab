//! What a cloud gives to try does what it says, whatever the cloud is made of.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::support::{Bed, PATIENCE, User};

/// What the last command begins to be told with.
const LAST: &str = " add stubborn ";

/// Starts a cloud, does what it gives to try, and answers what each command prints.
async fn tried(arguments: &[&str]) -> Vec<String> {
    let bed = Bed::of(User::Own);
    let mut command = bed.command(&[&["up", "--tied"], arguments].concat());
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut cloud = command.kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(cloud.stdout.take().unwrap()).lines();
    let mut steps: Vec<String> = Vec::new();
    let reading = async {
        while !steps.last().is_some_and(|step| step.contains(LAST)) {
            steps.push(lines.next_line().await.unwrap().expect("it goes on"));
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.unwrap();
    let steps = steps
        .iter()
        .skip_while(|line| *line != "in another terminal:");
    let mut printed = Vec::new();
    for step in steps.skip(1) {
        let mut shell = Command::new("sh");
        shell.args(["-c", step]);
        shell.env("XDG_RUNTIME_DIR", bed.directory.path());
        let output = tokio::time::timeout(PATIENCE, shell.output()).await;
        let output = output.expect("it ends").unwrap();
        assert!(output.status.success(), "{step}: {output:?}");
        printed.push(String::from_utf8(output.stdout).unwrap());
    }
    drop(cloud.stdin.take());
    tokio::time::timeout(PATIENCE, cloud.wait())
        .await
        .expect("it ends")
        .unwrap();
    printed
}

#[tokio::test]
async fn what_the_example_gives_to_try_works() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/topology.example.toml");

    let printed = tried(&[example]).await;

    assert!(printed[0].contains("in_use in web-1"), "{printed:?}");
    assert!(printed[1].contains("inet 10.77.0."), "{printed:?}");
}

#[tokio::test]
async fn the_socket_is_that_of_the_vm_s_own_host_and_the_network_one_there_is() {
    let bed = Bed::of(User::Own);
    let far = bed.file(
        "far.toml",
        "[[host]]\nname = \"a\"\n[[host]]\nname = \"b\"\n\
         [[network]]\nname = \"bare\"\n\
         [[network]]\nname = \"green\"\nsubnets = [\"10.78.0.0/24\"]\n\
         [[vm]]\nid = \"empty\"\n\
         [[vm]]\nid = \"far\"\nhost = \"b\"\ntenant = \"red\"\ncontainer = [\"it's\"]\n",
    );

    let printed = tried(&[&far, "--name", "other"]).await;

    assert!(printed[0].contains("in_use in far"), "{printed:?}");
    assert!(printed[1].contains("inet 10.78.0."), "{printed:?}");
}

#[tokio::test]
async fn a_vm_without_a_container_is_given_one_first() {
    let bed = Bed::of(User::Own);
    let bare = bed.file("bare.toml", "[[vm]]\nid = \"bare\"\n");

    let printed = tried(&[&bare]).await;

    assert!(printed[1].contains("in_use in bare"), "{printed:?}");
    assert!(printed[2].contains("inet 10.77.0."), "{printed:?}");
}
