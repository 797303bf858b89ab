//! How long a mutation may take before it is answered: `500ms`, `30s`, `2m`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A time to wait, at most [`Wait::MAX`]. Zero answers at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Wait(Duration);

impl Wait {
    /// Longest time that a request may be held open, 10 minutes: a guest that takes longer is
    /// blocked, and watching its events is the better way.
    pub const MAX: Duration = Duration::from_secs(600);
    /// Answer at once.
    pub const NONE: Self = Self(Duration::ZERO);

    /// The time.
    #[must_use]
    pub fn duration(self) -> Duration {
        self.0
    }
}

/// A text that is no time to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a time to wait is a whole number and ms, s or m, at most 10m")]
pub struct InvalidWait;

impl FromStr for Wait {
    type Err = InvalidWait;

    fn from_str(text: &str) -> Result<Self, InvalidWait> {
        let unit_at = text
            .find(|character: char| !character.is_ascii_digit())
            .ok_or(InvalidWait)?;
        let (number, unit) = text.split_at(unit_at);
        let number: u64 = number.parse().map_err(|_| InvalidWait)?;
        let milliseconds = match unit {
            "ms" => Some(number),
            "s" => number.checked_mul(1_000),
            "m" => number.checked_mul(60_000),
            _ => None,
        };
        let duration = Duration::from_millis(milliseconds.ok_or(InvalidWait)?);
        if duration > Self::MAX {
            return Err(InvalidWait);
        }
        Ok(Self(duration))
    }
}

impl TryFrom<String> for Wait {
    type Error = InvalidWait;

    fn try_from(text: String) -> Result<Self, InvalidWait> {
        text.parse()
    }
}

impl From<Wait> for String {
    fn from(wait: Wait) -> Self {
        wait.to_string()
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_millis() {
            milliseconds if milliseconds % 1_000 == 0 => write!(f, "{}s", milliseconds / 1_000),
            milliseconds => write!(f, "{milliseconds}ms"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_each_unit_and_written_in_the_shortest() {
        let cases = [
            ("500ms", 500, "500ms"),
            ("30s", 30_000, "30s"),
            ("2m", 120_000, "120s"),
            ("10m", 600_000, "600s"),
            ("0s", 0, "0s"),
            ("1000ms", 1_000, "1s"),
        ];
        for (text, milliseconds, written) in cases {
            let wait: Wait = text.parse().unwrap();
            assert_eq!(
                wait.duration(),
                Duration::from_millis(milliseconds),
                "{text}"
            );
            assert_eq!(wait.to_string(), written);
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "30",
            "s",
            "1h",
            "-1s",
            "1.5s",
            "11m",
            "30 s",
            "99999999999999999999s",
        ] {
            assert_eq!(text.parse::<Wait>(), Err(InvalidWait), "{text:?}");
        }
    }
}
