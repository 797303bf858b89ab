//! One QEMU process, started as an operator without libvirt would.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use nic_model::HotplugMode;
use tokio::process::{Child, Command};

use crate::accelerator::Accelerator;
use crate::image::GuestImage;
use crate::netns::HostNetns;
use crate::vm::{MEMORY_MIB, VmFiles, VmOptions};

/// A killed process is gone in milliseconds; its memory takes a little longer.
const EXIT_DEADLINE: Duration = Duration::from_secs(20);

/// What a QEMU is started with.
#[derive(Debug, Clone, Copy)]
pub struct QemuStart<'a> {
    /// What boots.
    pub image: &'a GuestImage,
    /// What runs it.
    pub accelerator: Accelerator,
    /// The machine.
    pub options: &'a VmOptions,
    /// Its sockets and logs.
    pub files: &'a VmFiles,
    /// The network namespace it runs in; the caller's own if none.
    pub netns: Option<&'a HostNetns>,
}

/// A running QEMU; killed when dropped.
#[derive(Debug)]
pub struct Qemu {
    child: Child,
}

impl Qemu {
    /// Starts it.
    ///
    /// # Errors
    /// When the program is missing or its log cannot be made.
    pub fn start(start: QemuStart<'_>) -> Result<Self> {
        const PROGRAM: &str = "qemu-system-x86_64";
        let mut command = match start.netns {
            Some(netns) => netns.command(PROGRAM),
            None => Command::new(PROGRAM),
        };
        let log = File::create(&start.files.log)?;
        machine(&mut command, &start);
        ports(&mut command, start.files);
        root_ports(&mut command, start.options);
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("starting qemu-system-x86_64")?;
        Ok(Self { child })
    }

    /// Kills it as the kernel's OOM killer would, and waits until it is gone.
    ///
    /// # Errors
    /// When it does not go, or ended otherwise before.
    pub async fn kill(mut self) -> Result<()> {
        self.child.start_kill()?;
        let status = tokio::time::timeout(EXIT_DEADLINE, self.child.wait())
            .await
            .context("QEMU does not die")??;
        anyhow::ensure!(
            status.signal().is_some(),
            "QEMU had ended by itself: {status}"
        );
        Ok(())
    }
}

fn machine(command: &mut Command, start: &QemuStart<'_>) {
    let options = start.options;
    command
        .args([
            "-name",
            options.id.as_str(),
            "-nodefaults",
            "-no-user-config",
        ])
        .args([
            "-display",
            "none",
            "-smp",
            "1",
            "-m",
            &MEMORY_MIB.to_string(),
        ])
        .arg("-machine")
        .arg(format!("q35,accel={}", start.accelerator))
        .args(["-cpu", "max"])
        .arg("-kernel")
        .arg(&start.image.kernel)
        .arg("-initrd")
        .arg(&start.image.initramfs)
        .args(["-append", &options.kernel_command_line()])
        .arg("-serial")
        .arg(format!("file:{}", start.files.console.display()));
    if options.hotplug == HotplugMode::Native {
        command.args([
            "-global",
            "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off",
        ]);
    }
    for socket in [&start.files.qmp, &start.files.sabotage] {
        let socket = format!("unix:{},server=on,wait=off", socket.display());
        command.args(["-qmp", &socket]);
    }
}

fn ports(command: &mut Command, files: &VmFiles) {
    command.args(["-device", "virtio-serial-pci,id=serial0"]);
    for (number, (name, socket)) in files.ports().into_iter().enumerate() {
        let socket = socket.display();
        command
            .arg("-chardev")
            .arg(format!(
                "socket,id=port{number},path={socket},server=on,wait=off"
            ))
            .arg("-device")
            .arg(format!("virtserialport,chardev=port{number},name={name}"));
    }
}

fn root_ports(command: &mut Command, options: &VmOptions) {
    for (number, (slot, function)) in (1..).zip(options.root_port_places()) {
        let multifunction = if function == 0 {
            ",multifunction=on"
        } else {
            ""
        };
        command.arg("-device").arg(format!(
            "pcie-root-port,id=rp{number},chassis={number},slot={number},\
             bus=pcie.0,addr={slot:#x}.{function}{multifunction}"
        ));
    }
}
