//! A denial is a reason, not a failure: what was wrong, with which field, against which limit, and
//! what would help.

use crate::limits::LimitName;

/// Why a request is not admitted. Nothing has been changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Which kind of reason.
    pub kind: RefusalKind,
    /// A sentence for people.
    pub message: String,
    /// The field of the request that is to blame, as a dotted path.
    pub field: Option<&'static str>,
    /// The limit that was met.
    pub limit: Option<LimitRefusal>,
    /// What would help.
    pub hint: Option<String>,
}

/// Kinds of reasons, by what the caller can do about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// The request itself is wrong.
    Invalid,
    /// It names something that is not there.
    NotFound,
    /// It names something of somebody else's.
    Forbidden,
    /// It does not fit the present state of things.
    Conflict,
    /// It would go over a limit.
    LimitExceeded,
    /// Not now: something else has to come back first.
    Unavailable,
}

/// The limit that was met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitRefusal {
    /// Which.
    pub name: LimitName,
    /// Its value.
    pub value: u64,
    /// How much of it is used.
    pub usage: u64,
    /// What would free some of it.
    pub frees: String,
}

impl Refusal {
    pub(crate) fn invalid(field: &'static str, message: impl Into<String>) -> Self {
        Self::new(RefusalKind::Invalid, message).at(field)
    }

    pub(crate) fn new(kind: RefusalKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            field: None,
            limit: None,
            hint: None,
        }
    }

    pub(crate) fn at(mut self, field: &'static str) -> Self {
        self.field = Some(field);
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same reason for a field that lies deeper in the request.
    #[must_use]
    pub fn with_field(self, field: Option<&'static str>) -> Self {
        Self { field, ..self }
    }

    pub(crate) fn over_limit(limit: LimitRefusal) -> Self {
        let LimitRefusal {
            name,
            value,
            usage,
            frees,
        } = &limit;
        let message = format!("limit {name} is {value}, {usage} in use: {frees}");
        Self {
            limit: Some(limit),
            ..Self::new(RefusalKind::LimitExceeded, message)
        }
    }
}
