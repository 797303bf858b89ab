//! Clouds to test, each with a directory of its own, and what tests ask of them again and again.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use host_api::client::{Answer, ClientError, Mutation};
use host_api::{AddressingMode, AddressingRequest, AttachNic, Client, CreateNic, Nic, NicState};
use nic_model::{NicId, Target};
use simulator::netns::{GuestClient, Link, Place, Started};
use tempfile::TempDir;
use tokio::process::Command;

/// Most that anything here may take on a machine that builds beside it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(5);
/// A cloud sweeps up within tens of milliseconds.
const SWEEP_PATIENCE: Duration = Duration::from_secs(2);
/// Packages, and their programs, that are run besides the simulator.
const PROGRAMS_BESIDE: [&str; 3] = ["hostd", "guest-agent", "nicctl"];
/// The user that has nothing and may do nothing.
const NOBODY: u32 = 65_534;

/// Whose a cloud is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum User {
    /// Whoever runs the test.
    Own,
    /// Somebody without rights.
    Nobody,
}

/// Programs where anybody may run them, and nobody replaces them meanwhile.
pub(crate) fn programs() -> &'static Path {
    static PROGRAMS: OnceLock<PathBuf> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let simulator = Path::new(env!("CARGO_BIN_EXE_simulator"));
        let built = simulator.parent().unwrap();
        let others = PROGRAMS_BESIDE.map(|name| built.join(name));
        if !others.iter().all(|program| program.exists()) {
            build();
        }
        let kept = built.join("simulator-tests");
        fs::create_dir_all(&kept).unwrap();
        for name in ["simulator"].into_iter().chain(PROGRAMS_BESIDE) {
            // Beside it first: a program that runs cannot be written to.
            let fresh = kept.join(format!("{name}.{}", std::process::id()));
            fs::copy(built.join(name), &fresh).unwrap();
            fs::rename(fresh, kept.join(name)).unwrap();
        }
        kept
    })
}

/// Whole test runs build every program first; one package alone does not.
fn build() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = std::process::Command::new(cargo);
    command.arg("build");
    for name in PROGRAMS_BESIDE {
        command.args(["--package", name]);
    }
    assert!(command.status().unwrap().success());
}

/// A place for clouds that is gone when this is dropped.
pub(crate) struct Bed {
    pub(crate) directory: TempDir,
    user: User,
}

/// A cloud and its place.
pub(crate) struct Cloud {
    pub(crate) started: Started,
    pub(crate) bed: Bed,
}

impl Bed {
    pub(crate) fn of(user: User) -> Self {
        // Short, for the sake of sockets.
        let directory = tempfile::Builder::new()
            .prefix("nf")
            .tempdir_in("/tmp")
            .unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        if user == User::Nobody {
            chown(directory.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        Self { directory, user }
    }

    /// The simulator, as the bed's user.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let simulator = programs().join("simulator");
        let mut command = match self.user {
            User::Own => Command::new(simulator),
            User::Nobody => {
                let mut command = Command::new("setpriv");
                let user = NOBODY.to_string();
                command.args(["--reuid", &user, "--regid", &user, "--clear-groups", "--"]);
                command.arg(simulator);
                command
            }
        };
        command
            .args(arguments)
            .env("XDG_RUNTIME_DIR", self.directory.path());
        command
    }

    /// Runs the simulator to its end.
    pub(crate) async fn run(&self, arguments: &[&str]) -> std::process::Output {
        let ended = tokio::time::timeout(PATIENCE, self.command(arguments).output()).await;
        ended.expect("it ends").unwrap()
    }

    /// Programs that a test may replace: it has them to itself.
    pub(crate) fn own_programs(&self) -> PathBuf {
        let own = self.directory.path().join("programs");
        fs::create_dir(&own).unwrap();
        for name in ["simulator"].into_iter().chain(PROGRAMS_BESIDE) {
            fs::copy(programs().join(name), own.join(name)).unwrap();
        }
        own
    }

    /// A file of this content.
    pub(crate) fn file(&self, name: &str, content: &str) -> String {
        let path = self.directory.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Starts a cloud.
    pub(crate) async fn up(self, arguments: &[&str]) -> Cloud {
        let command = self.command(&[&["up", "--json", "--tied"], arguments].concat());
        self.started(command).await
    }

    pub(crate) async fn started(self, command: Command) -> Cloud {
        let started = Started::run(command).await;
        let started = started.unwrap_or_else(|error| panic!("{error}: {}", error.cause));
        Cloud { started, bed: self }
    }

    /// What clouds keep here.
    pub(crate) fn left(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.directory.path().join("nicferry")) else {
            return Vec::new();
        };
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
        entries
            .map(|entry| name(entry).into_string().unwrap())
            .collect()
    }
}

impl Drop for Bed {
    /// Clouds sweep up after those who have let go of them. A directory that is emptied by two at
    /// once may stay.
    fn drop(&mut self) {
        let patience = Instant::now() + SWEEP_PATIENCE;
        while !self.left().is_empty() && Instant::now() < patience {
            // tidy: sleep because processes that have lost their lifeline tell nobody of their end
            std::thread::sleep(POLL);
        }
    }
}

impl Cloud {
    /// One of two VMs, `vm1` and `vm2`, with the containers `web` and `db` each.
    pub(crate) async fn of_two() -> Self {
        Bed::of(User::Own).up(&["--vms", "2"]).await
    }

    pub(crate) fn hostd(&self) -> Client {
        self.started.hostd(0).unwrap()
    }

    pub(crate) fn guest(&self, vm: &str) -> GuestClient {
        self.started.guest(vm).unwrap()
    }

    /// Makes a NIC in a named container, and waits until it is settled.
    pub(crate) async fn create(&self, vm: &str, container: &str) -> Result<Answer, ClientError> {
        let attach = attach(vm, container);
        let request = CreateNic {
            attach: Some(attach),
            ..nic_on_blue()
        };
        self.hostd().create_nic(&request, &settled()).await
    }

    /// The same, for a NIC that gets there.
    pub(crate) async fn nic_in(&self, vm: &str, container: &str) -> Nic {
        let nic = self.create(vm, container).await.unwrap().nic;
        assert_eq!(nic.state, NicState::InUse, "{nic:?}");
        nic
    }

    pub(crate) async fn state_of(&self, nic: &NicId) -> NicState {
        self.hostd().nic(nic).await.unwrap().state
    }

    pub(crate) async fn links(&self, vm: &str, container: &str) -> Vec<Link> {
        let place = Place::Container(container.parse().unwrap());
        self.guest(vm).links(place).await.unwrap()
    }

    /// Whether every address of a NIC answers.
    pub(crate) async fn reaches(&self, vm: &str, container: &str, nic: &Nic) -> bool {
        let place = Place::Container(container.parse().unwrap());
        for address in addresses(nic) {
            let patience = Duration::from_secs(3);
            let pinged = self
                .guest(vm)
                .ping(place.clone(), address, 1, patience)
                .await;
            if pinged.is_err() {
                return false;
            }
        }
        true
    }

    /// Links of NICs on the host with this number.
    pub(crate) async fn host_links(&self, number: usize) -> Vec<String> {
        let path = format!("/v1/hosts/{}/links", self.started.state.hosts[number].name);
        let links: Vec<String> = self.started.control().get(&path).await.unwrap();
        let ours = |name: &String| NicId::from_link_name(name).is_some() || name.starts_with("hw");
        links.into_iter().filter(ours).collect()
    }
}

pub(crate) fn addresses(nic: &Nic) -> Vec<IpAddr> {
    nic.addresses.iter().map(nic_model::IpNet::addr).collect()
}

pub(crate) fn attach(vm: &str, container: &str) -> AttachNic {
    AttachNic {
        vm: vm.parse().unwrap(),
        target: Target::Netns {
            name: container.parse().unwrap(),
        },
        link_name: None,
    }
}

pub(crate) fn nic_on_blue() -> CreateNic {
    CreateNic {
        tenant: None,
        network: "blue".parse().unwrap(),
        mac: None,
        addressing: None,
        mtu: None,
        routes: None,
        limits: None,
        queues: None,
        attach: None,
    }
}

/// One address, and no other.
pub(crate) fn fixed_address(address: &str) -> AddressingRequest {
    AddressingRequest {
        mode: AddressingMode::Static,
        addresses: vec![address.parse().unwrap()],
    }
}

pub(crate) fn settled() -> Mutation {
    Mutation {
        token: None,
        wait: Some("15s".parse().unwrap()),
    }
}

/// Looks until something is so.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut look: impl FnMut() -> F) {
    let found = async {
        while !look().await {
            // tidy: sleep because the cloud's parts tell nobody of each change
            tokio::time::sleep(POLL).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, found).await;
    assert!(found.is_ok(), "it never comes about: {what}");
}
