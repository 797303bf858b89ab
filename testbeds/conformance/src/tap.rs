//! Taps to pass to a monitor, in a namespace of their own.

use std::fs::OpenOptions;
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use linux_network::Netns;
use linux_network::tap::TapSpec;

use crate::transcript::Descriptor;

/// Makes descriptors; what it has made goes with it.
pub(crate) struct Descriptors {
    runtime: tokio::runtime::Runtime,
    netns: Netns,
    made: u32,
    /// The second queue of a tap of two.
    spare: Option<OwnedFd>,
}

impl Descriptors {
    pub(crate) fn new() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(Self {
            runtime,
            netns: Netns::unnamed()?,
            made: 0,
            spare: None,
        })
    }

    pub(crate) fn make(&mut self, kind: Descriptor) -> Result<OwnedFd> {
        match kind {
            Descriptor::Null => {
                let null = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open("/dev/null")?;
                Ok(null.into())
            }
            Descriptor::Tap => self.tap(1)?.pop().context("a tap without a queue"),
            Descriptor::Multiqueue => match self.spare.take() {
                Some(queue) => Ok(queue),
                None => {
                    let mut queues = self.tap(2)?;
                    self.spare = queues.pop();
                    queues.pop().context("a tap with one queue")
                }
            },
        }
    }

    fn tap(&mut self, queues: u16) -> Result<Vec<OwnedFd>> {
        self.made += 1;
        let spec = TapSpec {
            name: format!("truth{}", self.made).parse()?,
            queue_count: NonZeroU16::new(queues).context("a tap has a queue")?,
            owner: None,
        };
        let attached = linux_network::tap::attach(&self.netns, spec);
        Ok(self.runtime.block_on(attached)?)
    }
}
