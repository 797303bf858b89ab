#!/bin/busybox sh
# The host's shell into the guest, over a virtio-serial port: the world's way to look into a guest
# and to break things in it, independent of everything under test.
#
#   host to guest   ID SECONDS SCRIPT\n      SCRIPT in the escapes of printf '%b': one line
#   guest to host   ready\n                  once, when it starts
#                   ID STATUS OUT_BYTES ERR_BYTES\n and that many bytes of either stream
#
# Requests run at once, beside each other; an answer is written under a lock, in one piece.

# busybox sh prefers its own applets, and its "ip" knows neither namespaces nor JSON.
prelude='ip() { /sbin/ip "$@"; }
'
mkdir -p /run/shell
exec 3<>/dev/virtio-ports/org.nicferry.testbed.0

serve() {
    files=/run/shell/$1
    timeout -s KILL "$2" sh -c "$prelude$(printf '%b' "$3")" \
        </dev/null >"$files.out" 2>"$files.err" 3>&-
    status=$?
    head -c 262144 "$files.out" >"$files.o"
    head -c 65536 "$files.err" >"$files.e"
    {
        flock 9
        echo "$1 $status $(stat -c %s "$files.o") $(stat -c %s "$files.e")"
        cat "$files.o" "$files.e"
    } 9>/run/shell/lock >&3
    rm -f "$files.out" "$files.err" "$files.o" "$files.e"
}

echo ready >&3
# Reading ends whenever no host is connected (virtio_console's port_fops_read returns 0 then).
while :; do
    while read -r id seconds script <&3; do
        serve "$id" "$seconds" "$script" &
    done
    sleep 0.1
done
