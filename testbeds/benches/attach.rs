//! How long it takes until a NIC is usable in a container, and until it is gone again, beside the
//! floor and beside the same by hand.
//!
//! ```text
//!   cargo xtask bench attach --world qemu --json FILE
//! ```
//!
//! What is measured and how: `testbeds::bench`. Ends badly when a pair failed, when something was
//! left behind, or when nothing could be measured; a goal that was missed is a result like others.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Parser;
use nic_model::HotplugMode;
use testbeds::bed::Bed;
use testbeds::bench::{ByHand, HandTimes, HostdSide, HostdTimes, Machine, Setting, Summary};
use testbeds::report::report;
use testbeds::scenario::no_leaks;
use testbeds::site::Foundation;
use testbeds::vm::VmOptions;
use testbeds::world::WorldKind;

/// Failed pairs after which a run is given up.
const ERRORS_MAX: usize = 3;

/// Measures attach and detach.
#[derive(Debug, Parser)]
struct Arguments {
    /// hostd's way to QEMU
    #[arg(long, value_parser = ["qemu", "libvirt"])]
    world: String,
    /// Where the result goes
    #[arg(long)]
    json: Option<PathBuf>,
    /// Pairs of attach and detach that count
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pairs: u16,
    /// Pairs before those
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(..=1_000))]
    warm_up: u16,
    /// How guests are asked to let go of a device; natively it takes them six seconds each time
    #[arg(long, default_value = "acpi", value_parser = ["acpi", "native"])]
    hotplug: String,
    /// Cargo says this to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

impl Arguments {
    fn world(&self) -> WorldKind {
        match self.world.as_str() {
            "libvirt" => WorldKind::Libvirt,
            _ => WorldKind::Qemu,
        }
    }

    fn hotplug(&self) -> HotplugMode {
        match self.hotplug.as_str() {
            "native" => HotplugMode::Native,
            _ => HotplugMode::Acpi,
        }
    }
}

/// Pairs of both sides, and how many failed.
#[derive(Debug, Default)]
struct Measured {
    hostd: Vec<HostdTimes>,
    by_hand: Vec<HandTimes>,
    errors: usize,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let summary = run(&arguments).await?;
    writeln!(std::io::stdout().lock(), "{}", summary.table())?;
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&summary)? + "\n";
        std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(if summary.errors == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn run(arguments: &Arguments) -> Result<Summary> {
    for world in [arguments.world(), WorldKind::Libvirt] {
        world.runs_here()?;
    }
    say("building what is measured, and the guest image");
    let foundation = Foundation::lay()?;
    let guests = foundation.guests().await?;
    foundation.programs().await?;
    say("booting a VM for hostd, and one for the recipe by hand");
    let by_hand = ByHand::set(Arc::clone(&foundation), arguments.hotplug()).await?;
    let bed = Bed::make(arguments.world(), Arc::clone(&foundation)).await?;
    let mut machine = Machine::observe(&guests.image.kernel_version).await?;
    let measured = match measure(arguments, &bed, &by_hand).await {
        Ok(measured) => measured,
        Err(error) => bail!("{error:#}\n{}", report(&bed).await),
    };
    machine.computer.observe_end()?;
    let setting = Setting {
        world: arguments.world.clone(),
        accel: guests.accelerator.to_string(),
        hotplug: arguments.hotplug.clone(),
        warm_up: arguments.warm_up.into(),
    };
    let Measured {
        hostd,
        by_hand,
        errors,
    } = measured;
    Summary::of(setting, machine, &hostd, &by_hand, errors)
}

async fn measure(arguments: &Arguments, bed: &Bed, by_hand: &ByHand) -> Result<Measured> {
    let options = VmOptions {
        hotplug: arguments.hotplug(),
        ..VmOptions::named("vm1")?
    };
    let vm = bed.boot(options).await?;
    bed.agent_is_ready(&vm.id).await?;
    let hostd = HostdSide::set(bed, vm).await?;
    let mut measured = Measured::default();
    for number in 0..arguments.warm_up + arguments.pairs {
        round(number, &hostd, by_hand, &mut measured).await?;
        if number + 1 == arguments.warm_up {
            measured.hostd.clear();
            measured.by_hand.clear();
        }
        let counted = (number + 1).saturating_sub(arguments.warm_up);
        if counted % 10 == 0 && counted > 0 {
            say(&format!("{counted} of {} pairs", arguments.pairs));
        }
    }
    hostd.clear().await?;
    no_leaks(bed).await?;
    Ok(measured)
}

/// A pair of each side. A failed one is told and counted, too many end the run.
async fn round(
    number: u16,
    hostd: &HostdSide<'_>,
    by_hand: &ByHand,
    measured: &mut Measured,
) -> Result<()> {
    match hostd.pair(number).await {
        Ok(times) => measured.hostd.push(times),
        Err(error) => {
            measured.failed(&error)?;
            hostd.recover().await?;
        }
    }
    match by_hand.pair(number).await {
        Ok(times) => measured.by_hand.push(times),
        Err(error) => {
            measured.failed(&error)?;
            by_hand.recover().await?;
        }
    }
    Ok(())
}

impl Measured {
    fn failed(&mut self, error: &anyhow::Error) -> Result<()> {
        self.errors += 1;
        say(&format!("a pair failed: {error:#}"));
        anyhow::ensure!(
            self.errors < ERRORS_MAX,
            "too many pairs failed, the last: {error:#}"
        );
        Ok(())
    }
}

/// To standard error: standard output is for the table alone.
fn say(line: &str) {
    // A terminal that has gone away is no reason to stop measuring.
    writeln!(std::io::stderr().lock(), "{line}").ok();
}
