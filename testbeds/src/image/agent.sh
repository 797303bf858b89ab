#!/bin/busybox sh
# Keeps guest-agent running for as long as /run/agent/enabled exists, and starts it again at once
# when it dies: what systemd's Restart=always does on a real guest.
# /run/agent/pid is its process, /run/agent/log what it said.

port=/dev/virtio-ports/org.nicferry.agent.0
while :; do
    if [ -e /run/agent/enabled ] && [ -e "$port" ]; then
        RUST_LOG=info guest-agent >>/run/agent/log 2>&1 &
        echo $! >/run/agent/pid
        wait $!
        rm -f /run/agent/pid
    fi
    [ -e /run/agent/enabled ] || sleep 0.1
    # A program that fails at once must not take the guest's only CPU.
    sleep 0.02
done
