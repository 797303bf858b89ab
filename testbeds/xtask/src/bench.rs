//! Measurements: each a benchmark of the harness, built with optimisation and run with root's
//! rights.

use std::path::PathBuf;

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

/// `cargo xtask bench`
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Verdict> {
    match &arguments.measurement {
        Measurement::Attach(attach) => {
            harness::hand_over_to_benchmark("attach", &attach.for_benchmark()?)
        }
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
        if let Some(file) = &self.json {
            // Programs of the harness start in the root of the workspace.
            let file = std::path::absolute(file)?;
            arguments.extend(["--json".to_owned(), file.display().to_string()]);
        }
        Ok(arguments)
    }
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
