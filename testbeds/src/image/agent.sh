#!/bin/busybox sh
# Keeps guest-agent running for as long as /run/agent/enabled exists, and starts it again at once
# when it dies: what systemd's Restart=always does on a real guest.
# /run/agent/pid is its process, /run/agent/log what it said.
# /run/agent/ended has the exit status of its last life. Where /run/agent/failpoints exists it
# looks, at each of its steps, whether /run/agent/failpoint names that as the one to die at.

port=/dev/virtio-ports/org.nicferry.agent.0
while :; do
    if [ -e /run/agent/enabled ] && [ -e "$port" ]; then
        [ ! -e /run/agent/failpoints ] || export NICFERRY_FAILPOINT_FILE=/run/agent/failpoint
        echo "a life begins" >>/run/agent/log
        guest-agent >>/run/agent/log 2>&1 &
        echo $! >/run/agent/pid
        wait $!
        echo $? >/run/agent/ended
        rm -f /run/agent/pid
    fi
    [ -e /run/agent/enabled ] || sleep 0.1
    # A program that fails at once must not take the guest's only CPU.
    sleep 0.02
done
