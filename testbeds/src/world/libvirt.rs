//! A libvirtd of the world's own, so that a user's libvirt is untouched.
//!
//! It runs in the world's network namespace and in a mount namespace in which the directories that
//! libvirt has compiled in are directories of the world:
//!
//! ```text
//!   /run  /etc/libvirt  /var/lib/libvirt  /var/log/libvirt  /var/cache/libvirt
//!     └── bound from DIRECTORY/run, DIRECTORY/etc, …  (the same at every start: VMs outlive it)
//!   DIRECTORY/run/libvirt-sock   where virsh and hostd connect
//! ```

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use nic_model::{NicId, VmId};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

use super::{DaemonRestart, Misbehaving, SimWorld, World, WorldKind, domain};
use crate::command;
use crate::guest::{Guest, ShellGuest};
use crate::host::Host;
use crate::hostd::{Hostd, HostdProcess, JOURNAL};
use crate::inspection::QemuState;
use crate::site::Site;
use crate::vm::{VmFiles, VmOptions};

/// `define` and `start` wait for QEMU to come up, `start` of the first VM also for libvirt's
/// inspection of the QEMU program.
const VIRSH_DEADLINE: Duration = Duration::from_secs(60);
/// libvirtd listens after a second; on a loaded machine later.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// How often a starting libvirtd is asked whether it listens: it gives no other sign.
const START_POLL: Duration = Duration::from_millis(10);
/// How long a killed QEMU or libvirtd may take to be gone.
const EXIT_DEADLINE: Duration = Duration::from_secs(20);

/// Directories that libvirt has compiled in, each with the world's own in its place.
const OWN_DIRECTORIES: [(&str, &str); 5] = [
    ("run", "/run"),
    ("etc", "/etc/libvirt"),
    ("lib", "/var/lib/libvirt"),
    ("log", "/var/log/libvirt"),
    ("cache", "/var/cache/libvirt"),
];

/// No groups, no polkit, no TLS: whoever may enter the world's directory may connect.
const LIBVIRTD_CONF: &str = "\
auth_unix_rw = \"none\"
auth_unix_ro = \"none\"
unix_sock_rw_perms = \"0700\"
log_outputs = \"2:stderr\"
";

/// QEMU as root without cgroups and security labels, neither of which a test machine need have,
/// and with its output in a file rather than in virtlogd.
const QEMU_CONF: &str = "\
user = \"root\"
group = \"root\"
security_driver = \"none\"
cgroup_controllers = []
namespaces = []
stdio_handler = \"file\"
remember_owner = 0
";

/// The `libvirt` world.
#[derive(Debug)]
pub struct LibvirtWorld {
    // Before the site: the daemon ends before its namespace does.
    daemon: Mutex<Child>,
    site: Arc<Site>,
}

impl LibvirtWorld {
    /// Starts a libvirtd on a piece of host.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(site: Arc<Site>) -> Result<Self> {
        for (own, _) in OWN_DIRECTORIES {
            fs::create_dir(site.directory().join(own))?;
        }
        let etc = site.directory().join("etc");
        let socket_directory = format!("unix_sock_dir = {:?}\n", site.directory().join("run"));
        fs::write(
            etc.join("libvirtd.conf"),
            LIBVIRTD_CONF.to_owned() + &socket_directory,
        )?;
        fs::write(etc.join("qemu.conf"), QEMU_CONF)?;
        let daemon = Mutex::new(start_daemon(&site).await?);
        Ok(Self { daemon, site })
    }

    /// Its piece of host.
    #[must_use]
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// Runs virsh, as an operator of this libvirt would.
    ///
    /// # Errors
    /// When it fails.
    pub async fn virsh(&self, arguments: &[&str]) -> Result<String> {
        virsh(&self.site, arguments).await
    }

    /// Where libvirt keeps the process ids of its QEMUs.
    fn pid_file(&self, vm: &VmId) -> PathBuf {
        self.site
            .directory()
            .join(format!("run/libvirt/qemu/{vm}.pid"))
    }
}

fn socket(site: &Site) -> PathBuf {
    site.directory().join("run/libvirt-sock")
}

fn uri(site: &Site) -> String {
    format!("qemu+unix:///system?socket={}", socket(site).display())
}

async fn virsh(site: &Site, arguments: &[&str]) -> Result<String> {
    let uri = uri(site);
    let mut virsh = Command::new("virsh");
    virsh
        .args(["--quiet", "--connect", &uri])
        .args(arguments)
        .env("LC_ALL", "C");
    command::succeed(&mut virsh, VIRSH_DEADLINE).await
}

async fn start_daemon(site: &Site) -> Result<Child> {
    let bind = |(own, compiled_in): (&str, &str)| {
        let own = site.directory().join(own);
        format!(
            "mkdir -p {compiled_in} && mount --bind {} {compiled_in} && ",
            own.display()
        )
    };
    let binds: String = OWN_DIRECTORIES.into_iter().map(bind).collect();
    let script = format!("{binds}exec libvirtd --config /etc/libvirt/libvirtd.conf");
    let log = site.directory().join("libvirtd.log");
    let log = || -> Result<File> { Ok(OpenOptions::new().create(true).append(true).open(&log)?) };
    // `ip netns exec` gives it a mount namespace whose mounts do not reach the host.
    let mut child = site
        .netns
        .command("sh")
        .args(["-c", &script])
        .stdin(Stdio::null())
        .stdout(log()?)
        .stderr(log()?)
        .kill_on_drop(true)
        .spawn()
        .context("starting libvirtd")?;
    tokio::time::timeout(START_DEADLINE, listening(&socket(site), &mut child))
        .await
        .with_context(|| format!("libvirtd did not listen within {START_DEADLINE:?}"))??;
    Ok(child)
}

async fn listening(socket: &Path, child: &mut Child) -> Result<()> {
    while UnixStream::connect(socket).await.is_err() {
        if let Some(status) = child.try_wait()? {
            bail!("libvirtd ended with {status}");
        }
        tokio::time::sleep(START_POLL).await;
    }
    Ok(())
}

#[async_trait(?Send)]
impl World for LibvirtWorld {
    fn kind(&self) -> WorldKind {
        WorldKind::Libvirt
    }

    fn host(&self) -> &dyn Host {
        self.site.as_ref()
    }

    fn configure_hostd(&self) -> Result<Box<dyn Hostd>> {
        let libvirt = format!("[libvirt]\nuri = {:?}\n", uri(&self.site));
        let site = Arc::clone(&self.site);
        let journal = site.directory().join(JOURNAL);
        Ok(Box::new(HostdProcess::configure(site, journal, &libvirt)?))
    }

    async fn boot(&self, options: &VmOptions) -> Result<Box<dyn Guest>> {
        let files = VmFiles::of(self.site.directory(), &options.id);
        let guests = self.site.foundation.guests().await?;
        let xml = domain::xml(&guests.image, guests.accelerator, options, &files);
        let path = self.site.directory().join(format!("{}.xml", options.id));
        fs::write(&path, xml)?;
        let path = path.to_str().context("the temporary directory is UTF-8")?;
        // Defining a domain again replaces what was defined.
        self.virsh(&["define", path]).await?;
        self.virsh(&["start", options.id.as_str()]).await?;
        Ok(Box::new(ShellGuest::connect(&files.shell).await?))
    }

    async fn console(&self, vm: &VmId) -> String {
        let console = VmFiles::of(self.site.directory(), vm).console;
        fs::read_to_string(console).unwrap_or_default()
    }

    async fn kill(&self, vm: &VmId) -> Result<()> {
        let pid = fs::read_to_string(self.pid_file(vm))?;
        let pid = Pid::from_raw(pid.trim().parse()?).context("a pid is positive")?;
        kill_process(pid, Signal::KILL)?;
        let gone = async {
            // libvirt removes the file once it has seen the monitor close.
            while self.pid_file(vm).exists() {
                tokio::time::sleep(START_POLL).await;
            }
        };
        tokio::time::timeout(EXIT_DEADLINE, gone)
            .await
            .with_context(|| format!("libvirt still has {vm} after {EXIT_DEADLINE:?}"))
    }

    async fn monitor(&self, vm: &VmId, command: &str, arguments: Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments }).to_string();
        let printed = self
            .virsh(&["qemu-monitor-command", vm.as_str(), &request])
            .await?;
        let answer: Value = serde_json::from_str(&printed)?;
        match answer.get("return") {
            Some(value) => Ok(value.clone()),
            None => bail!("QEMU says: {}", answer["error"]["desc"]),
        }
    }

    async fn qemu(&self, vm: &VmId) -> Result<QemuState> {
        QemuState::by_monitor(self, vm).await
    }

    async fn hide_monitor(&self, _vm: &VmId) -> Result<()> {
        bail!("libvirt hands nobody its line to QEMU")
    }

    async fn reveal_monitor(&self, _vm: &VmId) -> Result<()> {
        bail!("libvirt hands nobody its line to QEMU")
    }

    async fn unplug_behind_hostd(&self, vm: &VmId, nic: &NicId) -> Result<()> {
        let alias = nic.device_id();
        self.virsh(&["detach-device-alias", vm.as_str(), &alias, "--live"])
            .await
            .map(drop)
    }

    async fn restart_daemon(&self) -> Result<DaemonRestart> {
        let mut daemon = self.daemon.lock().await;
        daemon.start_kill()?;
        tokio::time::timeout(EXIT_DEADLINE, daemon.wait())
            .await
            .context("libvirtd does not die")??;
        *daemon = start_daemon(&self.site).await?;
        Ok(DaemonRestart::Restarted)
    }

    async fn definition(&self, vm: &VmId) -> Result<BTreeSet<String>> {
        let xml = self.virsh(&["dumpxml", vm.as_str()]).await?;
        let aliases = xml.split("<alias name='").skip(1);
        Ok(aliases
            .filter_map(|rest| rest.split('\'').next())
            .filter(|alias| alias.starts_with("ua-") || alias.starts_with("net"))
            .map(str::to_owned)
            .collect())
    }

    async fn log_tail(&self, lines: usize) -> String {
        let log = fs::read_to_string(self.site.directory().join("libvirtd.log"));
        let log = log.unwrap_or_default();
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    fn simulated(&self) -> Option<&SimWorld> {
        None
    }

    fn misbehaving(&self) -> Option<&dyn Misbehaving> {
        None
    }
}
