//! Rows and claims: what the journal keeps, without a thought about what it means.

use std::fmt;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What it is about.
    pub kind: RowKind,
    /// Its name among those of its kind.
    pub key: String,
    /// JSON, at most [`Row::BODY_MAX_BYTES`]. The journal never looks inside.
    pub body: String,
    /// What nobody else may hold while this row exists: a set, kept sorted.
    pub claims: Vec<Claim>,
}

impl Row {
    /// Longest body in bytes. A NIC with every list at its cap is a tenth of it.
    pub const BODY_MAX_BYTES: usize = 64 * 1024;

    /// CRC-32 over every field, each with its length, so that no two rows read alike.
    pub(crate) fn checksum(&self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        let mut field = |text: &str| {
            hasher.update(&u64::try_from(text.len()).unwrap_or(u64::MAX).to_le_bytes());
            hasher.update(text.as_bytes());
        };
        field(self.kind.as_str());
        field(&self.key);
        field(&self.body);
        for claim in &self.claims {
            field(&claim.scope);
            field(&claim.value);
        }
        hasher.finalize()
    }
}

/// What a row is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RowKind {
    /// A NIC.
    Nic,
    /// A client's token and the answer it got.
    Token,
    /// hostd itself.
    Meta,
}

impl RowKind {
    /// As it is stored.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nic => "nic",
            Self::Token => "token",
            Self::Meta => "meta",
        }
    }

    /// The kind stored as `text`; `None` when this version knows no such kind.
    pub(crate) fn from_stored(text: &str) -> Option<Self> {
        [Self::Nic, Self::Token, Self::Meta]
            .into_iter()
            .find(|kind| kind.as_str() == text)
    }
}

impl fmt::Display for RowKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Something that one row of the whole journal at most may hold, e.g. scope `mac` and value
/// `5a:00:00:00:00:01`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Claim {
    /// Where the value must be unique.
    pub scope: String,
    /// What is held.
    pub value: String,
}

impl Claim {
    /// A claim on `value` within `scope`.
    pub fn new(scope: impl Into<String>, value: impl Into<String>) -> Self {
        Self {
            scope: scope.into(),
            value: value.into(),
        }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.scope, self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_moved_between_fields_changes_the_checksum() {
        let row = |key: &str, body: &str, claims: Vec<Claim>| Row {
            kind: RowKind::Nic,
            key: key.to_owned(),
            body: body.to_owned(),
            claims,
        };
        let base = row("ab", "c", vec![Claim::new("d", "e")]).checksum();

        for other in [
            row("a", "bc", vec![Claim::new("d", "e")]),
            row("ab", "cd", vec![Claim::new("", "e")]),
            row("ab", "c", vec![Claim::new("de", "")]),
            row("ab", "c", vec![]),
        ] {
            assert_ne!(other.checksum(), base, "{other:?}");
        }
    }
}
