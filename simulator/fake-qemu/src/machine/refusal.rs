//! Why a command is refused: QEMU's class and QEMU's words.

use serde_json::{Value, json};

/// The classes of QEMU's `QapiErrorClass` (`qapi/error.json`) that occur here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Generic,
    CommandNotFound,
    DeviceNotFound,
}

/// An error as a monitor tells it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Refusal {
    class: Class,
    text: String,
}

impl Refusal {
    pub(crate) fn generic(text: impl Into<String>) -> Self {
        Self {
            class: Class::Generic,
            text: text.into(),
        }
    }

    pub(crate) fn no_command(text: impl Into<String>) -> Self {
        Self {
            class: Class::CommandNotFound,
            text: text.into(),
        }
    }

    /// `QERR_DEVICE_NOT_FOUND` and its many spellings.
    pub(crate) fn no_device(id: &str) -> Self {
        Self {
            class: Class::DeviceNotFound,
            text: format!("Device '{id}' not found"),
        }
    }

    /// `QERR_MISSING_PARAMETER` in QEMU's `include/qapi/qmp/qerror.h`.
    pub(crate) fn missing(parameter: &str) -> Self {
        Self::generic(format!("Parameter '{parameter}' is missing"))
    }

    /// `QERR_INVALID_PARAMETER_VALUE` there.
    pub(crate) fn expects(parameter: &str, what: &str) -> Self {
        Self::generic(format!("Parameter '{parameter}' expects {what}"))
    }

    pub(crate) fn is_no_command(&self) -> bool {
        self.class == Class::CommandNotFound
    }

    pub(crate) fn message(&self) -> Value {
        let class = match self.class {
            Class::Generic => "GenericError",
            Class::CommandNotFound => "CommandNotFound",
            Class::DeviceNotFound => "DeviceNotFound",
        };
        json!({"class": class, "desc": self.text})
    }
}
