//! How much memory a process takes, as the kernel sums it up.

use anyhow::{Context, Result};
use serde::Serialize;

/// Memory of one process, in KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Everything of it that is in memory, its program included.
    pub rss_kib: u64,
    /// The same, with each page that others map too divided by their number.
    pub pss_kib: u64,
    /// Of that what no file is behind: heap and stacks.
    pub anonymous_kib: u64,
}

impl Memory {
    /// Of a process, now.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of_process(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        Self::parse(&text).with_context(|| format!("{path}: {text}"))
    }

    /// Resident memory in MiB.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        reason = "KiB of a process are far below 2^52"
    )]
    pub fn rss_mib(&self) -> f64 {
        self.rss_kib as f64 / 1024.0
    }

    fn parse(text: &str) -> Option<Self> {
        let value = |name: &str| {
            let mut lines = text.lines();
            let rest = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            rest.trim().strip_suffix(" kB")?.parse().ok()
        };
        Some(Self {
            rss_kib: value("Rss")?,
            pss_kib: value("Pss")?,
            anonymous_kib: value("Anonymous")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_sum_is_read_by_name() {
        let text = "5600-7ffd ---p 00000000 00:00 0    [rollup]\n\
                    Rss:                2048 kB\nPss:                1000 kB\n\
                    Pss_Anon:            900 kB\nAnonymous:           800 kB\n";

        let memory = Memory::parse(text).unwrap();

        assert_eq!((memory.rss_kib, memory.pss_kib), (2048, 1000));
        assert_eq!((memory.anonymous_kib, memory.rss_mib()), (800, 2.0));
        assert_eq!(Memory::parse("Rss: 1 kB\n"), None);
    }

    #[test]
    fn this_process_has_some() {
        assert!(
            Memory::of_process(std::process::id())
                .unwrap()
                .anonymous_kib
                > 0
        );
    }
}
