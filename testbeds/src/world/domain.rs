//! The XML of a VM, as an operator who prepares a VM for nicferry would write it: enough root
//! ports, a channel for the agent.

use nic_model::HotplugMode;

use crate::accelerator::Accelerator;
use crate::cache::content_key;
use crate::image::GuestImage;
use crate::vm::{MEMORY_MIB, VmFiles, VmOptions};

/// A persistent domain.
pub(super) fn xml(
    image: &GuestImage,
    accelerator: Accelerator,
    options: &VmOptions,
    files: &VmFiles,
) -> String {
    let (kind, processor) = match accelerator {
        Accelerator::Kvm => ("kvm", "host-passthrough"),
        Accelerator::Tcg => ("qemu", "maximum"),
    };
    let (kernel, initramfs) = (image.kernel.display(), image.initramfs.display());
    let (name, command_line) = (&options.id, options.kernel_command_line());
    let uuid = uuid(options.id.as_str());
    let (console, hotplug) = (files.console.display(), hotplug(options.hotplug));
    let (root_ports, channels) = (root_ports(options), channels(files));
    format!(
        "<domain type='{kind}' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
           <name>{name}</name>
           <uuid>{uuid}</uuid>
           <memory unit='MiB'>{MEMORY_MIB}</memory>
           <vcpu>1</vcpu>
           <os>
             <type arch='x86_64' machine='q35'>hvm</type>
             <kernel>{kernel}</kernel>
             <initrd>{initramfs}</initrd>
             <cmdline>{command_line}</cmdline>
           </os>
           <features><acpi/></features>
           <cpu mode='{processor}'/>
           <on_crash>destroy</on_crash>
           <devices>
             <emulator>/usr/bin/qemu-system-x86_64</emulator>
             <serial type='file'><source path='{console}'/></serial>
             <controller type='virtio-serial' index='0'/>
             <controller type='usb' model='none'/>
             {root_ports}{channels}
             <memballoon model='none'/>
           </devices>
           {hotplug}
         </domain>"
    )
}

/// The same for the same name, so that defining a VM again replaces its definition.
fn uuid(name: &str) -> String {
    let key = content_key([name.as_bytes()]);
    format!("{}-{}-4000-8000-{}", &key[..8], &key[8..12], &key[4..])
}

/// libvirt 9.0 has no element for q35's native hot-plug: QEMU's own switch is passed by hand.
fn hotplug(mode: HotplugMode) -> &'static str {
    match mode {
        HotplugMode::Acpi => "",
        HotplugMode::Native => {
            "<qemu:commandline><qemu:arg value='-global'/>\
             <qemu:arg value='ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off'/>\
             </qemu:commandline>"
        }
    }
}

fn root_ports(options: &VmOptions) -> String {
    let port = |(index, (slot, function)): (u32, (u8, u8))| {
        let multifunction = if function == 0 {
            " multifunction='on'"
        } else {
            ""
        };
        format!(
            "<controller type='pci' index='{index}' model='pcie-root-port'>\
             <address type='pci' domain='0' bus='0' slot='{slot:#04x}' function='{function:#x}'\
             {multifunction}/></controller>"
        )
    };
    (1..).zip(options.root_port_places()).map(port).collect()
}

fn channels(files: &VmFiles) -> String {
    let channel = |(name, socket): (&str, &std::path::Path)| {
        let socket = socket.display();
        format!(
            "<channel type='unix'><source mode='bind' path='{socket}'/>\
             <target type='virtio' name='{name}'/></channel>"
        )
    };
    files.ports().into_iter().map(channel).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_keeps_its_uuid_and_no_two_share_one() {
        assert_eq!(uuid("vm1"), uuid("vm1"));
        assert_ne!(uuid("vm1"), uuid("vm2"));
        assert_eq!(uuid("vm1").len(), 36);
    }
}
