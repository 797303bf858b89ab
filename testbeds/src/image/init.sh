#!/bin/busybox sh
# Run once by busybox init, before the guest's services: mounts, modules, names of virtio ports.
# The kernel command line decides about faults:
#   nicferry.name=NAME           host name
#   nicferry.boot_delay=SECONDS  a guest that is still booting: hot-plug has no driver to answer it
#   nicferry.agent=start|absent|delayed:SECONDS
# It prints "booted" last: before that line the guest shell does not answer.

mount -t devtmpfs none /dev
mount -t proc none /proc
mount -t sysfs none /sys
mount -t tmpfs none /run
mount -t tmpfs none /tmp
mkdir -p /dev/pts /run/netns /run/agent
mount -t devpts none /dev/pts
exec </dev/console >/dev/console 2>&1

option() {
    tr ' ' '\n' </proc/cmdline | sed -n "s/^nicferry\.$1=//p"
}

hostname "$(option name)"
delay=$(option boot_delay)
[ -n "$delay" ] && sleep "$delay"

while read -r module; do
    insmod "/lib/modules/$module.ko" || echo "init: module $module is missing"
done </lib/modules/load-order

# What udev's 99-systemd.rules would do: a name for each virtio-serial port. The control device
# announces ports one by one after its driver is in, hence the wait for the one that must be there.
name_ports() {
    mkdir -p /dev/virtio-ports
    for port in /sys/class/virtio-ports/*; do
        read -r name <"$port/name" && ln -sf "../${port##*/}" "/dev/virtio-ports/$name"
    done 2>/dev/null
}
name_ports
while [ ! -e /dev/virtio-ports/org.nicferry.testbed.0 ]; do
    sleep 0.02
    name_ports
done

ip link set lo up

case $(option agent) in
absent) : ;;
delayed:*)
    seconds=$(option agent)
    (sleep "${seconds#delayed:}" && touch /run/agent/enabled) &
    ;;
*) touch /run/agent/enabled ;;
esac
echo booted
