//! Network namespaces by name, by process and without a name.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use linux_network::{Netns, OpenNetnsError, RunInNetnsError};
use nic_model::NetnsName;
use rustix::thread::CapabilitySet;

/// A name nobody else uses, taken away at the end of the test.
struct Name(NetnsName);

impl Name {
    fn new(test: &str) -> Self {
        Self(
            format!("nicferry-test-{test}-{}", std::process::id())
                .parse()
                .unwrap(),
        )
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(self.0.as_str())
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        Netns::remove_named(&self.0).expect("the name can be removed");
    }
}

#[tokio::test]
async fn a_created_namespace_is_found_again_under_its_name() {
    let name = Name::new("found");

    let created = Netns::named_or_create(&name.0).unwrap();

    assert_eq!(Netns::open_named(&name.0).unwrap(), created);
    assert_eq!(Netns::named_or_create(&name.0).unwrap(), created);
    assert_ne!(created, Netns::own().unwrap());
    let listed = crate::common::ip(&Netns::own().unwrap(), "netns list").await;
    assert!(listed.contains(name.0.as_str()), "iproute2 sees {listed}");
}

#[tokio::test]
async fn a_removed_name_is_gone_and_may_be_removed_again() {
    let name = Name::new("removed");
    Netns::named_or_create(&name.0).unwrap();

    Netns::remove_named(&name.0).unwrap();

    assert!(matches!(
        Netns::open_named(&name.0),
        Err(OpenNetnsError::NoSuchName(_))
    ));
    assert!(!Netns::names().unwrap().contains(&name.0));
    Netns::remove_named(&name.0).unwrap();
}

#[tokio::test]
async fn a_name_that_is_a_symlink_is_refused() {
    let name = Name::new("symlink");
    Netns::named_or_create(&Name::new("prepares-the-directory").0).unwrap();
    symlink("/proc/1/ns/net", name.path()).unwrap();

    let refusal = Netns::open_named(&name.0).unwrap_err();

    assert!(
        matches!(refusal, OpenNetnsError::NotANamespace(_)),
        "{refusal}"
    );
    assert!(Netns::named_or_create(&name.0).is_err());
}

#[tokio::test]
async fn a_namespace_of_another_kind_is_refused() {
    let name = Name::new("kind");
    Netns::named_or_create(&Name::new("directory").0).unwrap();
    fs::write(name.path(), "").unwrap();
    rustix::mount::mount_bind("/proc/self/ns/uts", name.path()).unwrap();

    let refusal = Netns::open_named(&name.0).unwrap_err();

    assert!(
        matches!(refusal, OpenNetnsError::NotANamespace(_)),
        "{refusal}"
    );
}

#[tokio::test]
async fn what_an_interrupted_creation_left_is_completed() {
    let name = Name::new("interrupted");
    Netns::named_or_create(&Name::new("dir").0).unwrap();
    fs::write(name.path(), "").unwrap();
    assert!(matches!(
        Netns::open_named(&name.0),
        Err(OpenNetnsError::NotANamespace(_))
    ));

    let created = Netns::named_or_create(&name.0).unwrap();

    assert_eq!(Netns::open_named(&name.0).unwrap(), created);
}

#[tokio::test]
async fn a_process_leads_to_the_namespace_it_is_in() {
    let netns = Netns::unnamed().unwrap();
    let start = || {
        Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
    };
    let mut child = netns.run("child", start).await.unwrap().unwrap();

    let found = Netns::open_pid(child.id()).unwrap();

    assert_eq!(found.inode(), netns.inode());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn a_process_that_has_ended_has_no_namespace() {
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();

    for pid in [child.id(), 0, u32::MAX] {
        let refusal = Netns::open_pid(pid).unwrap_err();
        assert!(
            matches!(refusal, OpenNetnsError::NoSuchProcess(of) if of == pid),
            "{refusal}"
        );
    }
}

#[tokio::test]
async fn a_process_that_has_ended_but_is_not_reaped_has_no_namespace() {
    let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    child.kill().unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    let options = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
    rustix::process::waitid(rustix::process::WaitId::Pid(pid), options).unwrap();

    let refusal = Netns::open_pid(child.id()).unwrap_err();

    assert!(
        matches!(refusal, OpenNetnsError::NoSuchProcess(_)),
        "{refusal}"
    );
    child.wait().unwrap();
}

#[tokio::test]
async fn work_runs_inside_and_leaves_the_caller_where_it_was() {
    let own = Netns::own().unwrap();
    let netns = Netns::unnamed().unwrap();

    let inside = netns.run("where", || Netns::own().unwrap()).await.unwrap();

    assert_eq!(inside, netns);
    assert_eq!(Netns::own().unwrap(), own);
}

#[tokio::test]
async fn work_that_panics_is_an_error() {
    let netns = Netns::unnamed().unwrap();

    let outcome = netns.run("panics", || panic!("as the test wants")).await;

    assert!(outcome.is_err_and(|error: linux_network::RunInNetnsError| {
        error.to_string().contains("panics")
    }));
}

#[test]
fn only_another_namespace_takes_the_right_to_enter_it() {
    let without_the_right = || {
        let (own, other) = (Netns::own().unwrap(), Netns::unnamed().unwrap());
        // Threads have their own rights, and pass them on to threads that they start.
        let mut rights = rustix::thread::capabilities(None).unwrap();
        rights.effective.remove(CapabilitySet::SYS_ADMIN);
        rustix::thread::set_capabilities(None, rights).unwrap();
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.build().unwrap();
        let inode = || Netns::own().map(|here| here.inode()).unwrap();

        let here = runtime.block_on(own.run("here", inode)).unwrap();
        let there = runtime.block_on(other.run("there", inode)).unwrap_err();

        assert_eq!(here, own.inode());
        assert!(matches!(there, RunInNetnsError::Enter { .. }), "{there:?}");
    };
    std::thread::spawn(without_the_right).join().unwrap();
}
