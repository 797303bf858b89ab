//! `simulator rules` and `simulator pace`: what goes wrong, and how fast things go.

use anyhow::Context;
use misbehaviour::{Effect, Operation, Pace, PaceRule, Rule, Side, Span, Transition, When};
use nic_model::{NicId, VmId};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use simulator::netns::RulePage;

use super::{Which, console, finite};

/// What goes wrong.
#[derive(Debug, clap::Args)]
pub(crate) struct Rules {
    #[command(flatten)]
    which: Which,
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, clap::Subcommand)]
enum Order {
    /// Adds one
    Add(Box<Add>),
    /// Lists them, with how often each has taken effect
    List,
    /// Removes one
    Remove {
        /// Its name
        rule: String,
    },
    /// Removes all
    Clear,
}

/// A rule.
#[derive(Debug, clap::Args)]
struct Add {
    /// What it is to be called
    rule: String,
    /// At which operation: qmp.device_add, event.DEVICE_DELETED, guest.unplug, qmp.* …
    #[arg(long)]
    at: Operation,
    /// What happens: lose, refuse, ignore, delay=2s, error=TEXT, cut=before, crash=after …
    #[arg(long, value_parser = effect)]
    effect: Effect,
    /// In this VM alone
    #[arg(long)]
    vm: Option<VmId>,
    /// For this NIC alone
    #[arg(long)]
    nic: Option<NicId>,
    /// The one of this number alone, counted in each VM
    #[arg(long, conflicts_with_all = ["every", "probability"])]
    nth: Option<u64>,
    /// Each whose number is a multiple of this
    #[arg(long, conflicts_with = "probability")]
    every: Option<u64>,
    /// Each with this probability, 0 to 1
    #[arg(long, value_parser = finite)]
    probability: Option<f64>,
    /// At most so often in each VM
    #[arg(long)]
    times: Option<u64>,
}

/// How fast a transition goes.
#[derive(Debug, clap::Args)]
pub(crate) struct SetPace {
    #[command(flatten)]
    which: Which,
    /// Which transition: boot, plug or unplug
    #[arg(value_parser = transition)]
    transition: Transition,
    /// `instant`, `after 200ms`, `after 3 polls` or `manual`
    pace: Pace,
    /// In this VM alone
    #[arg(long)]
    vm: Option<VmId>,
}

impl Rules {
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        let control = self.which.control()?;
        match &self.order {
            Order::Add(add) => control.post("/v1/rules", &add.rule()).await?,
            Order::List => {
                let rules: Vec<RulePage> = control.get("/v1/rules").await?;
                for page in rules {
                    let rule = serde_json::to_string(&page.rule)?;
                    console::say(format_args!("{:>6} × {rule}", page.done));
                }
            }
            Order::Remove { rule } => {
                // A name may hold what means something in a path (RFC 3986, section 2.1).
                let name = utf8_percent_encode(rule, NON_ALPHANUMERIC);
                let removed = control.delete(&format!("/v1/rules/{name}")).await;
                removed.with_context(|| format!("no rule {rule:?} was removed"))?;
            }
            Order::Clear => control.delete("/v1/rules").await?,
        }
        Ok(())
    }
}

impl Add {
    fn rule(&self) -> Rule {
        Rule {
            name: self.rule.clone(),
            operation: self.at.clone(),
            vm: self.vm.clone(),
            nic: self.nic.clone(),
            when: match (self.nth, self.every, self.probability) {
                (Some(nth), _, _) => When::Nth(nth),
                (_, Some(every), _) => When::Every(every),
                (_, _, Some(probability)) => When::Probability(probability),
                (None, None, None) => When::Always,
            },
            times: self.times,
            effect: self.effect.clone(),
        }
    }
}

impl SetPace {
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        let rule = PaceRule {
            transition: self.transition,
            vm: self.vm.clone(),
            pace: self.pace,
        };
        Ok(self.which.control()?.post("/v1/paces", &rule).await?)
    }
}

fn transition(text: &str) -> Result<Transition, String> {
    match text {
        "boot" => Ok(Transition::Boot),
        "plug" => Ok(Transition::Plug),
        "unplug" => Ok(Transition::Unplug),
        _ => Err("there are boot, plug and unplug".to_owned()),
    }
}

/// `NAME` or `NAME=DETAIL`.
fn effect(text: &str) -> Result<Effect, String> {
    let (name, detail) = text.split_once('=').unwrap_or((text, ""));
    let span = || detail.parse::<Span>().map_err(|error| error.to_string());
    let side = || match detail {
        "" | "before" => Ok(Side::Before),
        "after" => Ok(Side::After),
        _ => Err(format!("{detail:?} is neither before nor after")),
    };
    match name {
        "delay" => span().map(Effect::Delay),
        "eject" => span().map(Effect::Eject),
        "cut" => side().map(Effect::Cut),
        "crash" => side().map(Effect::Crash),
        "error" => Ok(Effect::Error {
            class: "GenericError".to_owned(),
            text: detail.to_owned(),
        }),
        _ if !detail.is_empty() => Err(format!("{name} has no detail")),
        _ => serde_json::from_value(name.into()).map_err(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effects_are_written_with_and_without_a_detail() {
        assert_eq!(effect("refuse"), Ok(Effect::Refuse));
        assert_eq!(effect("disk-full"), Ok(Effect::DiskFull));
        assert_eq!(effect("delay=2s"), Ok(Effect::Delay("2s".parse().unwrap())));
        assert_eq!(effect("cut=after"), Ok(Effect::Cut(Side::After)));
        for text in [
            "",
            "explode",
            "refuse=1",
            "delay",
            "delay=soon",
            "cut=never",
        ] {
            assert!(effect(text).is_err(), "{text}");
        }
    }
}
