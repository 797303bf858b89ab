//! Files of rules and paces: read and checked before anything runs that would follow them.

use std::path::Path;

use anyhow::Context;
use misbehaviour::{Script, ScriptError};

/// Reads one.
///
/// # Errors
/// When it cannot be read, is none, or has something in it that could not be followed.
pub(super) fn read(
    file: &Path,
    check: impl FnOnce(&Script) -> Result<(), ScriptError>,
) -> anyhow::Result<Script> {
    let text = std::fs::read_to_string(file).with_context(|| about(file))?;
    let script: Script = toml::from_str(&text).with_context(|| about(file))?;
    check(&script).with_context(|| about(file))?;
    Ok(script)
}

/// What an error about one begins with.
fn about(file: &Path) -> String {
    format!("the rules in {}", file.display())
}
