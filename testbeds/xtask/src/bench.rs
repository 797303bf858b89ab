//! Measurements: each a benchmark of the harness, built with optimisation and run with root's
//! rights.

use std::path::{Path, PathBuf};

use crate::console::Verdict;
use crate::harness;

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    measurement: Measurement,
}

#[derive(Debug, clap::Subcommand)]
enum Measurement {
    /// How long attach and detach take, beside their floor and beside the same by hand
    Attach(Attach),
    /// How many attaches a second one hostd does, beside what its journal's engine commits
    Throughput(Throughput),
    /// What hostd costs with 10,000 NICs in use while nothing happens
    Idle(Idle),
    /// How long a cloud on a laptop takes until it can be used
    Up(Up),
}

#[derive(Debug, clap::Args)]
struct Attach {
    /// hostd's way to QEMU; the recipe by hand has a libvirt of its own in either
    #[arg(long, value_parser = ["qemu", "libvirt"])]
    world: String,
    /// Where the result goes
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Pairs of attach and detach that count
    #[arg(long, default_value_t = 100)]
    pairs: u16,
    /// How guests are asked to let go of a device; natively it takes them six seconds each time
    #[arg(long, default_value = "acpi", value_parser = ["acpi", "native"])]
    hotplug: String,
}

#[derive(Debug, clap::Args)]
struct Throughput {
    /// Where the result goes
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Rounds of each case
    #[arg(long, default_value_t = 5)]
    rounds: u16,
    /// A directory on the disk to be measured; one under `target` by default
    #[arg(long, value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Idle {
    /// Where the result goes
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// VMs of the host
    #[arg(long, default_value_t = 1250)]
    vms: u16,
    /// NICs of each VM
    #[arg(long, default_value_t = 8)]
    nics_per_vm: u16,
    /// What host ends of NICs are
    #[arg(long, default_value = "bridge", value_parser = ["bridge", "tap"])]
    ports: String,
    /// How long each stage is left alone and measured, in seconds
    #[arg(long, default_value_t = 120)]
    seconds: u16,
}

#[derive(Debug, clap::Args)]
struct Up {
    /// Where the result goes
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Starts that count
    #[arg(long, default_value_t = 30)]
    rounds: u16,
    /// VMs of each cloud
    #[arg(long, default_value_t = 3)]
    vms: u16,
}

/// `cargo xtask bench`
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Verdict> {
    match &arguments.measurement {
        Measurement::Attach(attach) => {
            harness::hand_over_to_benchmark("attach", &attach.for_benchmark()?)
        }
        Measurement::Throughput(throughput) => {
            harness::hand_over_to_benchmark("throughput", &throughput.for_benchmark()?)
        }
        Measurement::Idle(idle) => harness::hand_over_to_benchmark("idle", &idle.for_benchmark()?),
        Measurement::Up(up) => harness::hand_over_to_benchmark("up", &up.for_benchmark()?),
    }
}

impl Attach {
    fn for_benchmark(&self) -> anyhow::Result<Vec<String>> {
        let pairs = self.pairs.to_string();
        let mut arguments: Vec<String> = [
            "--world",
            &self.world,
            "--pairs",
            &pairs,
            "--hotplug",
            &self.hotplug,
        ]
        .map(str::to_owned)
        .to_vec();
        arguments.extend(path_argument("--json", self.json.as_deref())?);
        Ok(arguments)
    }
}

impl Throughput {
    fn for_benchmark(&self) -> anyhow::Result<Vec<String>> {
        let mut arguments = vec!["--rounds".to_owned(), self.rounds.to_string()];
        arguments.extend(path_argument("--json", self.json.as_deref())?);
        arguments.extend(path_argument("--directory", self.directory.as_deref())?);
        Ok(arguments)
    }
}

impl Idle {
    fn for_benchmark(&self) -> anyhow::Result<Vec<String>> {
        let numbers = [
            ("--vms", self.vms),
            ("--nics-per-vm", self.nics_per_vm),
            ("--seconds", self.seconds),
        ];
        let words = |(name, number): (&str, u16)| [name.to_owned(), number.to_string()];
        let mut arguments: Vec<String> = numbers.into_iter().flat_map(words).collect();
        arguments.extend(["--ports".to_owned(), self.ports.clone()]);
        arguments.extend(path_argument("--json", self.json.as_deref())?);
        Ok(arguments)
    }
}

impl Up {
    fn for_benchmark(&self) -> anyhow::Result<Vec<String>> {
        let numbers = [("--rounds", self.rounds), ("--vms", self.vms)];
        let words = |(name, number): (&str, u16)| [name.to_owned(), number.to_string()];
        let mut arguments: Vec<String> = numbers.into_iter().flat_map(words).collect();
        arguments.extend(path_argument("--json", self.json.as_deref())?);
        Ok(arguments)
    }
}

/// Programs of the harness start in the root of the workspace, not where the command was typed.
fn path_argument(name: &str, path: Option<&Path>) -> anyhow::Result<Vec<String>> {
    let Some(path) = path else {
        return Ok(Vec::new());
    };
    let path = std::path::absolute(path)?;
    Ok(vec![name.to_owned(), path.display().to_string()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_means_one_where_the_command_was_typed() {
        let attach = Attach {
            world: "qemu".to_owned(),
            json: Some(PathBuf::from("result.json")),
            pairs: 10,
            hotplug: "acpi".to_owned(),
        };

        let arguments = attach
            .for_benchmark()
            .expect("there is a working directory");

        let here = std::env::current_dir().expect("there is a working directory");
        let file = here.join("result.json").display().to_string();
        assert_eq!(arguments.last(), Some(&file));
        assert_eq!(arguments[..4], ["--world", "qemu", "--pairs", "10"]);
    }
}
