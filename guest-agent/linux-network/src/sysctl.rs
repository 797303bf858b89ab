//! Settings under `/proc/sys/net`, which show and change the namespace of the thread that opens
//! them.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use nic_model::LinkName;

use crate::netns::{Netns, RunInNetnsError};

/// Setting one may wait for the RTNL lock (`disable_ipv6` and `forwarding` do,
/// net/ipv6/addrconf.c).
const DEADLINE: Duration = Duration::from_secs(2);

/// From [`set`].
#[derive(Debug, thiserror::Error)]
#[error("failed to set net.{setting} to {value}")]
pub struct SetSysctlError {
    /// Path below `/proc/sys/net`.
    pub setting: String,
    /// What it was to become.
    pub value: String,
    /// Why.
    #[source]
    pub cause: SysctlError,
}

/// From [`get`].
#[derive(Debug, thiserror::Error)]
#[error("failed to read net.{setting}")]
pub struct GetSysctlError {
    /// Path below `/proc/sys/net`.
    pub setting: String,
    /// Why.
    #[source]
    pub cause: SysctlError,
}

/// Why a setting could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// A component of the path is empty or leads upwards.
    #[error("the path leads out of /proc/sys/net")]
    Path,
    /// The namespace could not be entered.
    #[error("failed to enter the namespace")]
    Namespace(#[source] RunInNetnsError),
    /// The file could not be read or written.
    #[error(transparent)]
    File(io::Error),
    /// It took too long.
    #[error("not done within {0:?}")]
    Deadline(Duration),
}

/// Sets `setting`, a path below `/proc/sys/net` such as `ipv6/conf/eth0/accept_ra`, in `netns`.
///
/// # Errors
/// When there is no such setting, the kernel refuses the value, or `/proc/sys` is read-only.
pub async fn set(netns: &Netns, setting: &str, value: &str) -> Result<(), SetSysctlError> {
    let text = value.to_owned();
    let done = in_netns(netns, setting, move |path| fs::write(path, text)).await;
    done.map_err(|cause| SetSysctlError {
        setting: setting.to_owned(),
        value: value.to_owned(),
        cause,
    })
}

/// Reads `setting` in `netns`, without the line's end.
///
/// # Errors
/// When there is no such setting.
pub async fn get(netns: &Netns, setting: &str) -> Result<String, GetSysctlError> {
    let read = in_netns(netns, setting, fs::read_to_string).await;
    let text = read.map_err(|cause| GetSysctlError {
        setting: setting.to_owned(),
        cause,
    })?;
    Ok(text.trim_end().to_owned())
}

/// Keeps a link from ever having an IPv6 address: none of its own making, none from a router. To be
/// called before the link is up for the first time. That the kernel has no IPv6 is fine.
///
/// # Errors
/// When there is no such link, or `/proc/sys` is read-only.
pub async fn disable_ipv6(netns: &Netns, link: &LinkName) -> Result<(), SetSysctlError> {
    let settings = [("disable_ipv6", "1"), ("accept_ra", "0"), ("autoconf", "0")]
        .map(|(setting, value)| (format!("ipv6/conf/{link}/{setting}"), value));
    let written = netns.run("netns-sysctl", move || {
        if !Path::new("/proc/sys/net/ipv6").exists() {
            return Ok(());
        }
        settings.into_iter().try_for_each(|(setting, value)| {
            let done =
                path(&setting).and_then(|path| fs::write(path, value).map_err(SysctlError::File));
            done.map_err(|cause| SetSysctlError {
                setting,
                value: value.to_owned(),
                cause,
            })
        })
    });
    let failed = |cause| SetSysctlError {
        setting: format!("ipv6/conf/{link}"),
        value: "no IPv6".to_owned(),
        cause,
    };
    match tokio::time::timeout(DEADLINE, written).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(cause)) => Err(failed(SysctlError::Namespace(cause))),
        Err(_elapsed) => Err(failed(SysctlError::Deadline(DEADLINE))),
    }
}

async fn in_netns<T: Send + 'static>(
    netns: &Netns,
    setting: &str,
    work: impl FnOnce(String) -> io::Result<T> + Send + 'static,
) -> Result<T, SysctlError> {
    let path = path(setting)?;
    let done = netns.run("netns-sysctl", move || work(path));
    match tokio::time::timeout(DEADLINE, done).await {
        Ok(outcome) => outcome
            .map_err(SysctlError::Namespace)?
            .map_err(SysctlError::File),
        Err(_elapsed) => Err(SysctlError::Deadline(DEADLINE)),
    }
}

/// The file of a setting. Names of links are part of such paths and come from elsewhere.
pub(crate) fn path(setting: &str) -> Result<String, SysctlError> {
    let clean = |part: &str| !part.is_empty() && part != "." && part != "..";
    if !setting.split('/').all(clean) {
        return Err(SysctlError::Path);
    }
    Ok(format!("/proc/sys/net/{setting}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_leads_out_of_the_tree_is_refused() {
        for setting in [
            "../kernel/core_pattern",
            "ipv6//x",
            "",
            "/etc/passwd",
            "ipv6/..",
        ] {
            assert!(
                matches!(path(setting), Err(SysctlError::Path)),
                "{setting:?}"
            );
        }
    }
}
