//! What was compared, and what came out.

use std::collections::BTreeSet;
use std::fmt;

use crate::difference::Difference;

/// Of all transcripts.
#[derive(Debug, Default)]
pub struct Report {
    /// One for each transcript.
    pub groups: Vec<GroupReport>,
}

/// Of one transcript.
#[derive(Debug)]
pub struct GroupReport {
    pub(crate) name: String,
    pub(crate) about: String,
    pub(crate) exchanges: usize,
    pub(crate) messages: usize,
    pub(crate) differences: Vec<Difference>,
    pub(crate) masks: BTreeSet<&'static str>,
}

impl GroupReport {
    /// How many exchanges were compared.
    #[must_use]
    pub fn exchanges(&self) -> usize {
        self.exchanges
    }

    /// Whether the two have said the same.
    #[must_use]
    pub fn agrees(&self) -> bool {
        self.differences.is_empty()
    }
}

impl Report {
    /// How many exchanges were compared.
    #[must_use]
    pub fn exchanges(&self) -> usize {
        self.groups.iter().map(GroupReport::exchanges).sum()
    }

    /// Whether the two have said the same everywhere, and something at all.
    #[must_use]
    pub fn agrees(&self) -> bool {
        self.exchanges() > 0 && self.groups.iter().all(GroupReport::agrees)
    }
}

impl fmt::Display for GroupReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            about,
            exchanges,
            messages,
            ..
        } = self;
        writeln!(
            f,
            "{name:16} {exchanges:4} exchanges, {messages:4} messages  {about}"
        )?;
        for difference in &self.differences {
            writeln!(f, "\n{difference}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for group in &self.groups {
            write!(f, "{group}")?;
        }
        let masks: BTreeSet<_> = self.groups.iter().flat_map(|group| &group.masks).collect();
        writeln!(f, "\nnot compared:")?;
        for mask in masks {
            writeln!(f, "  {mask}")?;
        }
        let differences: usize = self
            .groups
            .iter()
            .map(|group| group.differences.len())
            .sum();
        let exchanges = self.exchanges();
        match differences {
            0 => write!(f, "\n{exchanges} exchanges, no difference"),
            1 => write!(f, "\n{exchanges} exchanges, 1 difference"),
            count => write!(f, "\n{exchanges} exchanges, {count} differences"),
        }
    }
}
