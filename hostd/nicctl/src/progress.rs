//! Steps as they happen: one line each, none twice.

use std::io;

use host_api::{Nic, StepTiming};

use crate::output::Output;
use crate::view;

/// The steps shown so far. Events tell them early, the final answer tells all of them.
pub(crate) struct Steps<'a> {
    output: &'a Output,
    shown: Vec<StepTiming>,
}

impl<'a> Steps<'a> {
    pub(crate) fn new(output: &'a Output) -> Self {
        Self {
            output,
            shown: Vec::new(),
        }
    }

    /// A line for each step that has none yet.
    pub(crate) fn show(&mut self, steps: &[StepTiming]) -> io::Result<()> {
        for step in steps {
            if !self.shown.contains(step) {
                self.output.people(&view::step(step))?;
                self.shown.push(step.clone());
            }
        }
        Ok(())
    }

    /// The steps that no event has told.
    pub(crate) fn finish(&mut self, nic: &Nic) -> io::Result<()> {
        self.show(&nic.timings)
    }
}
