//! The system packages, so that a fresh machine needs nothing but Rust and this repository.
//!
//! ```text
//!   what the command needs ─► what is missing ─┬─ nothing: silent, no root asked for
//!                                              ├─ apt there: install exactly these
//!                                              └─ no apt: list them with reasons, and fail
//! ```
//!
//! Every command that needs a package calls this first, and asks for no more than its own share:
//! whoever wants the demonstration alone is spared what only tests need.

use std::process::Command;

use anyhow::Context;

use crate::console::{Verdict, say};
use crate::process;

/// What a package is needed for: a command asks only for its own share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Compiling and linking the workspace.
    Build,
    /// Booting guests and moving packets.
    Run,
    /// A libvirt to boot them with.
    Libvirt,
    /// Playing the parts that scenarios need besides.
    Test,
}

impl Purpose {
    /// What the demonstration needs, which is what a newcomer begins with.
    const OF_DEMO: [Self; 2] = [Self::Build, Self::Run];
    /// What some command needs.
    pub(crate) const ALL: [Self; 4] = [Self::Build, Self::Run, Self::Libvirt, Self::Test];
}

/// How much to install.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Also what the world `libvirt`, the tests and the measurements need
    #[arg(long)]
    test: bool,
}

/// One Debian package and why we want it.
#[derive(Debug, PartialEq, Eq)]
struct Requirement {
    package: &'static str,
    purpose: Purpose,
    reason: &'static str,
    /// A file that proves the same where dpkg does not know: a program's name, or a path.
    proof: &'static str,
}

const fn needs(
    purpose: Purpose,
    package: &'static str,
    proof: &'static str,
    reason: &'static str,
) -> Requirement {
    Requirement {
        package,
        purpose,
        reason,
        proof,
    }
}

/// Names of Debian 12 and 13 and Ubuntu 22.04 and 24.04. QEMU's firmware and boot ROMs come as its
/// own dependencies, and so does libvirt's QEMU driver.
const REQUIREMENTS: &[Requirement] = &[
    needs(
        Purpose::Build,
        "gcc",
        "cc",
        "links every program and compiles the bundled SQLite",
    ),
    needs(
        Purpose::Build,
        "libc6-dev",
        "/usr/include/stdio.h",
        "the C library, also the static one",
    ),
    needs(
        Purpose::Build,
        "pkg-config",
        "pkg-config",
        "finds libvirt for the linker",
    ),
    needs(
        Purpose::Build,
        "libvirt-dev",
        "/usr/include/libvirt/libvirt.h",
        "hostd's calls of libvirt",
    ),
    needs(
        Purpose::Run,
        "qemu-system-x86",
        "qemu-system-x86_64",
        "the virtual machines",
    ),
    needs(
        Purpose::Run,
        "iproute2",
        "ip",
        "looks at links, namespaces and qdiscs, here and in the guest",
    ),
    needs(
        Purpose::Run,
        "dpkg",
        "dpkg-deb",
        "unpacks the guest's kernel without installing it",
    ),
    needs(
        Purpose::Run,
        "xz-utils",
        "xz",
        "unpacks the kernel's modules where they are packed by xz",
    ),
    needs(
        Purpose::Run,
        "zstd",
        "zstd",
        "unpacks the kernel's modules where they are packed by zstd",
    ),
    needs(
        Purpose::Libvirt,
        "libvirt-daemon-system",
        "libvirtd",
        "the world `libvirt`",
    ),
    needs(
        Purpose::Libvirt,
        "libvirt-clients",
        "virsh",
        "the recipe by hand, and outside interference",
    ),
    needs(
        Purpose::Test,
        "dnsmasq-base",
        "dnsmasq",
        "the DHCP server the guest's NICs ask",
    ),
    needs(
        Purpose::Test,
        "busybox-static",
        "busybox",
        "what runs in the containers of the world `netns`",
    ),
    needs(
        Purpose::Test,
        "python3-venv",
        "python3",
        "QEMU's own QMP client, held against fake-qemu",
    ),
];

/// `cargo xtask setup`
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Verdict> {
    ensure(arguments.purposes())?;
    say("every system package is there");
    Ok(Verdict::Good)
}

impl Arguments {
    fn purposes(&self) -> &'static [Purpose] {
        if self.test {
            &Purpose::ALL
        } else {
            &Purpose::OF_DEMO
        }
    }
}

/// Makes sure the packages for these purposes are there; quick and silent when they are.
pub(crate) fn ensure(purposes: &[Purpose]) -> anyhow::Result<()> {
    let wanted = required(purposes);
    let has_dpkg = process::find_program("dpkg-query").is_some();
    let missing: Vec<_> = wanted
        .filter(|need| {
            if has_dpkg {
                !installed(need.package)
            } else {
                !proven(need.proof)
            }
        })
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    say(listing(&missing));
    let apt = process::find_program("apt-get");
    anyhow::ensure!(
        apt.is_some(),
        "no apt-get here: install the packages above by hand"
    );
    install(&missing)
}

fn required(purposes: &[Purpose]) -> impl Iterator<Item = &'static Requirement> {
    let serves = |need: &&Requirement| purposes.contains(&need.purpose);
    REQUIREMENTS.iter().filter(serves)
}

fn installed(package: &str) -> bool {
    let query = Command::new("dpkg-query")
        .args(["--show", "--showformat=${db:Status-Status}", package])
        .output();
    query.is_ok_and(|output| output.status.success() && output.stdout == b"installed")
}

fn proven(proof: &str) -> bool {
    if proof.starts_with('/') {
        std::path::Path::new(proof).exists()
    } else {
        process::find_program(proof).is_some()
    }
}

fn listing(missing: &[&Requirement]) -> String {
    let lines = missing
        .iter()
        .map(|need| format!("  {:<22} {}", need.package, need.reason));
    format!(
        "missing packages (Debian's names):\n{}",
        lines.collect::<Vec<_>>().join("\n")
    )
}

fn install(missing: &[&Requirement]) -> anyhow::Result<()> {
    let packages = missing.iter().map(|need| need.package);
    for arguments in [vec!["update"], install_arguments(packages)] {
        let mut command = as_root("apt-get")?;
        // Debian's front end would otherwise stop to ask, and CI has nobody to answer.
        command
            .arg("-qq")
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive");
        say(format_args!("$ {}", process::shown(&command)));
        let done = process::succeeds(&mut command)?;
        anyhow::ensure!(done, "`{}` failed", process::shown(&command));
    }
    Ok(())
}

fn install_arguments(packages: impl Iterator<Item = &'static str>) -> Vec<&'static str> {
    ["install", "--yes", "--no-install-recommends"]
        .into_iter()
        .chain(packages)
        .collect()
}

/// A command with root's rights, through sudo for a plain user.
fn as_root(program: &str) -> anyhow::Result<Command> {
    if is_root()? {
        return process::command(program);
    }
    process::find_program("sudo").context("neither root nor sudo: install them as root")?;
    let mut command = process::command("sudo")?;
    // sudo clears the environment; the front end's setting has to survive.
    command.args(["--preserve-env=DEBIAN_FRONTEND", program]);
    command.stdin(std::process::Stdio::inherit());
    Ok(command)
}

/// The words before a program that makes namespaces and taps: none for root. Only that program gets
/// root's rights, what cargo writes stays the user's.
pub(crate) fn root_words() -> anyhow::Result<Vec<String>> {
    if is_root()? {
        return Ok(Vec::new());
    }
    process::find_program("sudo").context("this needs root: neither root nor sudo")?;
    // sudo sets a path of its own, on which cargo and rustc are not; a plain user's lacks the
    // folders of daemons and of `tc`. The harness calls all of them.
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("PATH={path}:/usr/local/sbin:/usr/sbin:/sbin");
    let words = ["sudo", "--preserve-env", "env", &path];
    Ok(words.map(str::to_owned).to_vec())
}

/// Whether we have root's rights, asked of `id` so that no `unsafe` is needed.
pub(crate) fn is_root() -> anyhow::Result<bool> {
    Ok(process::output(process::command("id")?.arg("-u"))?.trim() == "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_nobody_has_is_missing() {
        assert!(!installed("no-such-package-anywhere"));
        assert!(!proven("no-such-program-anywhere"));
        assert!(!proven("/no/such/file"));
    }

    #[test]
    fn what_is_there_is_not_missing() {
        assert!(proven("sh"));
        assert!(proven("/"));
    }

    #[test]
    fn the_listing_gives_each_package_its_reason() {
        let need = needs(Purpose::Run, "dpkg", "dpkg", "unpacks the kernel");

        assert!(listing(&[&need]).ends_with("  dpkg                   unpacks the kernel"));
    }

    #[test]
    fn only_what_is_named_gets_installed() {
        let arguments = install_arguments(["zstd"].into_iter());

        assert_eq!(
            arguments,
            ["install", "--yes", "--no-install-recommends", "zstd"]
        );
    }

    #[test]
    fn the_demonstration_needs_nothing_that_only_tests_or_libvirt_need() {
        let names = |test| {
            let arguments = Arguments { test };
            required(arguments.purposes())
                .map(|need| need.package)
                .collect::<Vec<_>>()
        };

        let demo = names(false);
        assert!(demo.contains(&"qemu-system-x86") && demo.contains(&"libvirt-dev"));
        for spared in ["dnsmasq-base", "libvirt-daemon-system", "libvirt-clients"] {
            assert!(!demo.contains(&spared), "{spared}");
            assert!(names(true).contains(&spared), "{spared}");
        }
        assert_eq!(names(true).len(), REQUIREMENTS.len());
    }

    #[test]
    fn no_package_is_listed_twice() {
        let mut names: Vec<_> = REQUIREMENTS.iter().map(|need| need.package).collect();
        names.sort_unstable();
        names.dedup();

        assert_eq!(names.len(), REQUIREMENTS.len());
    }
}
