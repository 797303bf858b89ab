#!/bin/busybox sh
# Keeps guest-agent running for as long as /run/agent/enabled exists, and starts it again at once
# when it dies: what systemd's Restart=always does on a real guest.
# /run/agent/pid is its process, /run/agent/log what it said.
# /run/agent/failpoint names a step at which its next life is to end, and is gone once that life has
# begun; /run/agent/ended then has that name and the exit status.

port=/dev/virtio-ports/org.nicferry.agent.0
while :; do
    if [ -e /run/agent/enabled ] && [ -e "$port" ]; then
        failpoint=
        [ ! -e /run/agent/failpoint ] || read -r failpoint </run/agent/failpoint
        echo "a life begins" >>/run/agent/log
        NICFERRY_FAILPOINT=$failpoint guest-agent >>/run/agent/log 2>&1 &
        echo $! >/run/agent/pid
        [ -z "$failpoint" ] || rm /run/agent/failpoint
        wait $!
        status=$?
        rm -f /run/agent/pid
        [ -z "$failpoint" ] || echo "$failpoint $status" >/run/agent/ended
    fi
    [ -e /run/agent/enabled ] || sleep 0.1
    # A program that fails at once must not take the guest's only CPU.
    sleep 0.02
done
