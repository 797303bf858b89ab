//! Lengths of time as people write them: `250ms`, `2s`, `1m 30s`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A length of time.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub Duration);

impl Span {
    /// The longest that is read: 100 years, so that sums of times have room.
    pub const LONGEST: Self = Self(Duration::from_secs(100 * 31_557_600));
}

/// A text that is no length of time, or none that is taken.
#[derive(Debug, thiserror::Error)]
pub enum SpanError {
    /// It is none.
    #[error("{text:?} is no length of time such as 250ms or 2s")]
    NoSpan {
        /// What it says.
        text: String,
        /// What is wrong with it.
        #[source]
        cause: humantime::DurationError,
    },
    /// It is beyond [`Span::LONGEST`].
    #[error("{0:?} is longer than {longest}", longest = Span::LONGEST)]
    TooLong(String),
}

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, SpanError> {
        let parsed = humantime::parse_duration(text);
        let parsed = parsed.map_err(|cause| SpanError::NoSpan {
            text: text.to_owned(),
            cause,
        })?;
        match Self(parsed) <= Self::LONGEST {
            true => Ok(Self(parsed)),
            false => Err(SpanError::TooLong(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Span {
    type Error = SpanError;

    fn try_from(text: String) -> Result<Self, SpanError> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_longer_than_a_century_is_refused_with_the_bound() {
        assert_eq!("100years".parse::<Span>().unwrap(), Span::LONGEST);
        for text in ["100years 1s", "500000000000years"] {
            let refused = text.parse::<Span>().unwrap_err().to_string();

            assert!(refused.ends_with("is longer than 100years"), "{refused}");
        }
        let refused = "soon".parse::<Span>().unwrap_err().to_string();
        assert!(refused.contains("no length of time"), "{refused}");
    }
}
