//! Why something could not be set up, in the form that every part of this world uses: what was
//! being done, with its operand, and the cause.

use std::error::Error;
use std::fmt::Display;

/// What could not be done; its cause is the source.
#[derive(Debug, thiserror::Error)]
#[error("failed to {doing}")]
pub struct Trouble {
    /// What was being done, and to what.
    pub doing: String,
    /// Why not.
    #[source]
    pub cause: Box<dyn Error + Send + Sync>,
}

impl Trouble {
    /// Something that cannot be done for this reason.
    pub fn new(doing: impl Display, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            doing: doing.to_string(),
            cause: cause.into(),
        }
    }
}

/// Says what was being done when something failed.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl Display) -> Result<T, Trouble>;
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl Display) -> Result<T, Trouble> {
        self.map_err(|cause| Trouble::new(what, cause))
    }
}

/// An error and its causes on one line.
pub(crate) fn in_full(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
