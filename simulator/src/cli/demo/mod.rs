//! `simulator demo`: two VMs, a NIC into a container of each, a ping, a move, a ping, and nothing
//! left behind. Everything is asked of hostd over its API, as an operator would ask.
//!
//! ```text
//!   up ─► containers ─► attach ─► ping ─► move ─► ping ─► detach ─► leak check
//!    └────────────── an error or Ctrl-C, anywhere ─────────────► cloud gone
//! ```

mod census;
mod story;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use simulator::demo::Screen;
use simulator::netns::Started;
use tokio::signal::unix::{SignalKind, signal};

use story::Story;

/// What a shell reports for a program that an interrupt ended: 128 and the signal's number.
const INTERRUPTED: u8 = 130;

/// The demonstration.
#[derive(Debug, clap::Args)]
pub(crate) struct Demo {}

/// How it ended when nothing went wrong.
enum End {
    Shown,
    Interrupted,
}

impl Demo {
    #[expect(clippy::unused_self, reason = "as with every command")]
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let screen = Screen::of_this_terminal(story::STAGES);
        let began = Instant::now();
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build()?;
        match runtime.block_on(until_interrupted(&screen))? {
            End::Shown => {
                let seconds = began.elapsed().as_secs_f64();
                screen.good(&format!("All of it took {seconds:.1} s."));
                Ok(ExitCode::SUCCESS)
            }
            End::Interrupted => {
                screen.bad("interrupted: the cloud is gone");
                Ok(ExitCode::from(INTERRUPTED))
            }
        }
    }
}

/// Whatever it ends by: the cloud is gone when this returns, since it is dropped with it.
async fn until_interrupted(screen: &Screen) -> Result<End> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    tokio::select! {
        biased;
        _ = interrupt.recv() => Ok(End::Interrupted),
        _ = terminate.recv() => Ok(End::Interrupted),
        _ = hang_up.recv() => Ok(End::Interrupted),
        shown = show(screen) => shown.map(|()| End::Shown),
    }
}

async fn show(screen: &Screen) -> Result<()> {
    screen
        .heading("A cloud of its own: hostd, two VMs behind QMP, an agent in each; nobody is root");
    let simulator = std::env::current_exe().context("finding this program")?;
    let name = format!("demo-{}", std::process::id());
    let topology = std::env::temp_dir().join(format!("nicferry-{name}.toml"));
    std::fs::write(&topology, story::TOPOLOGY)?;
    let file = topology
        .to_str()
        .context("the directory for temporary files is UTF-8")?;
    let started = Started::start(&simulator, &["--name", &name, file]).await;
    std::fs::remove_file(&topology)?;
    let cloud = started?;
    Story::on(&cloud, screen)?.tell().await?;
    Ok(cloud.end().await?)
}
