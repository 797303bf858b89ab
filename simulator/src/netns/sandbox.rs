//! The sandbox: the first process of the namespaces that a cloud lives in.
//!
//! ```text
//!   own view ──► networks ──► VMs ──► hostds ──► ready ──► orders, ends of processes, …
//!                                                  lifeline closed, anywhere ──► swept, gone
//! ```

use std::io::Read;
use std::time::Instant;

use linux_network::{NamespaceKind, leave_namespaces};

use super::cloud::Cloud;
use super::plan::Plan;
use super::site::Site;
use super::state::State;
use super::trouble::{Doing, Trouble};
use super::{control, lines, mounts, runtime};

/// Is the sandbox of a cloud until its lifeline, standard input, is closed. To be called first
/// thing by a process that is the first one of a pid namespace. Tells on standard output what runs,
/// as one line of JSON.
///
/// # Errors
/// When the cloud cannot be set up.
pub fn run(site: &Site, launcher: u32) -> Result<(), Trouble> {
    let began = Instant::now();
    leave_namespaces(&[NamespaceKind::Mount, NamespaceKind::Network]).doing("be a sandbox")?;
    mounts::make_own_view(site.directory())?;
    let plan = Plan::read(site)?;
    for host in &plan.topology.hosts {
        let mounted = site.disk(host).mount();
        mounted.doing(format_args!("give {host} a disk"))?;
    }
    watch_lifeline(site)?;
    runtime()?.block_on(async {
        let listener = lines::listen(&site.control())?;
        let passed_on = lines::listen(&site.control_over_tcp())?;
        let cloud = Cloud::start(plan, site).await?;
        let ready_after_ms = began.elapsed().as_secs_f64() * 1000.0;
        let state = State::of(&cloud.plan(), site, launcher, ready_after_ms);
        state.write(site)?;
        let line = serde_json::to_string(&state).doing("say what runs")?;
        super::say(&format!("{line}\n")).doing("say what runs")?;
        control::serve(listener, passed_on, cloud).await
    })
}

/// On a thread of its own, which nothing else can hold up.
fn watch_lifeline(site: &Site) -> Result<(), Trouble> {
    let site = site.clone();
    let watch = move || {
        // Nothing is ever written: either way it is the end.
        std::io::stdin().read(&mut [0]).unwrap_or_default();
        // What stays is swept away by the next one.
        site.sweep().unwrap_or_default();
        std::process::exit(0);
    };
    let started = std::thread::Builder::new()
        .name("lifeline".to_owned())
        .spawn(watch);
    started.map(drop).doing("watch the lifeline")
}
