//! What runs the guests' code: KVM where a guest really boots under it, else emulation.
//!
//! Build machines often have `/dev/kvm` and still no KVM that works: a stock kernel hangs under
//! it. So a guest is booted once, with a short deadline, and the outcome is kept.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::cache::{Cache, content_key};
use crate::guest::shell::{SerialShell, Shell};
use crate::image::GuestImage;
use crate::qemu::{Qemu, QemuStart};
use crate::vm::{VmFiles, VmOptions};

/// Under KVM a guest is up in a second or two; one that is not up by now hangs.
const KVM_BOOT_DEADLINE: Duration = Duration::from_secs(15);

/// What runs the guests' code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor itself.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

impl Accelerator {
    /// The fastest that works on this machine: found out once per kernel, QEMU and guest kernel.
    ///
    /// # Errors
    /// When the decision cannot be kept.
    pub async fn of_this_machine(cache: &Cache, image: &GuestImage) -> Result<Self> {
        if !Path::new("/dev/kvm").exists() {
            return Ok(Self::Tcg);
        }
        let qemu = fs::metadata("/usr/bin/qemu-system-x86_64")?.modified()?;
        let about = [
            fs::read_to_string("/proc/version")?,
            format!("{qemu:?}"),
            image.kernel_version.clone(),
        ];
        let key = format!(
            "accelerator-{}",
            content_key(about.iter().map(String::as_bytes))
        );
        let kept = cache.text(&key);
        let accelerator = match kept.as_deref() {
            Some("kvm") => Self::Kvm,
            Some("tcg") => Self::Tcg,
            _ if boots_under_kvm(image).await => Self::Kvm,
            _ => Self::Tcg,
        };
        cache.keep(&key, accelerator.to_string().as_bytes())?;
        Ok(accelerator)
    }
}

async fn boots_under_kvm(image: &GuestImage) -> bool {
    let boot = async {
        let directory = tempfile::tempdir()?;
        let options = VmOptions::named("probe")?;
        let files = VmFiles::of(directory.path(), &options.id);
        let qemu = Qemu::start(QemuStart {
            image,
            accelerator: Accelerator::Kvm,
            options: &options,
            files: &files,
            netns: None,
        })?;
        let shell = SerialShell::connect(&files.shell).await?;
        let ready = shell.ready(KVM_BOOT_DEADLINE).await;
        qemu.kill().await?;
        ready
    };
    let outcome: Result<()> = boot.await;
    outcome.is_ok()
}
