//! Steps as they happen: one line each, none twice. And what stands in the way, as soon as it does.

use std::io;

use host_api::{Event, Nic, StepName, StepTiming};

use crate::output::Output;
use crate::view;

/// What is shown so far. Events tell steps early, the final answer tells all of them.
pub(crate) struct Steps<'a> {
    output: &'a Output,
    name_width: usize,
    told_by_events: Vec<StepTiming>,
    in_the_way: Option<String>,
}

impl<'a> Steps<'a> {
    pub(crate) fn new(output: &'a Output) -> Self {
        Self {
            output,
            name_width: view::widest(StepName::KNOWN),
            told_by_events: Vec::new(),
            in_the_way: None,
        }
    }

    /// A line for the step that is done, or for what stands in the way now.
    pub(crate) fn happened(&mut self, event: &Event) -> io::Result<()> {
        if let Some(step) = &event.step {
            self.line(step)?;
            self.told_by_events.push(step.clone());
        }
        let Some(nic) = &event.body else {
            return Ok(());
        };
        let reason = nic.blocked.as_ref().map(|blocked| blocked.reason.clone());
        if reason.is_some() && reason != self.in_the_way {
            self.output.people(&view::condition(nic))?;
        }
        self.in_the_way = reason;
        Ok(())
    }

    /// The steps that no event has told. Two may be alike, so each event accounts for one.
    pub(crate) fn finish(&mut self, nic: &Nic) -> io::Result<()> {
        let mut told = std::mem::take(&mut self.told_by_events);
        for step in &nic.timings {
            match told.iter().position(|one| one == step) {
                Some(index) => drop(told.swap_remove(index)),
                None => self.line(step)?,
            }
        }
        Ok(())
    }

    fn line(&self, step: &StepTiming) -> io::Result<()> {
        self.output.people(&view::step(step, self.name_width))
    }
}
