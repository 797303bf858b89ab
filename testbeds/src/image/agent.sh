#!/bin/busybox sh
# Keeps guest-agent, with the arguments that this is given, running for as long as
# /run/agent/enabled exists, and starts it again at once when it dies: what systemd's Restart=always
# does on a real guest. /run/agent/pid is its process, /run/agent/log what it said. /run/agent/ended
# has the exit status of its last life. Where /run/agent/failpoints exists it looks, at each of its
# steps, whether /run/agent/failpoint names that as the one to die at.
#
# What a guest that is not booted by init.sh says in the environment:
#   NICFERRY_AGENT_START=start|absent|delayed:SECONDS   as on the kernel's command line there
#   NICFERRY_AGENT_PORT=                                it has no virtio port to wait for
#   NICFERRY_AGENT_PROGRAM=PATH                         guest-agent is not in the usual place

mkdir -p /run/agent
case $NICFERRY_AGENT_START in
start) touch /run/agent/enabled ;;
delayed:*) (sleep "${NICFERRY_AGENT_START#delayed:}" && touch /run/agent/enabled) & ;;
esac
port=${NICFERRY_AGENT_PORT-/dev/virtio-ports/org.nicferry.agent.0}
program=${NICFERRY_AGENT_PROGRAM-guest-agent}
while :; do
    if [ -e /run/agent/enabled ] && { [ -z "$port" ] || [ -e "$port" ]; }; then
        [ ! -e /run/agent/failpoints ] || export NICFERRY_FAILPOINT_FILE=/run/agent/failpoint
        echo "a life begins" >>/run/agent/log
        "$program" "$@" >>/run/agent/log 2>&1 &
        echo $! >/run/agent/pid
        wait $!
        echo $? >/run/agent/ended
        rm -f /run/agent/pid
    fi
    [ -e /run/agent/enabled ] || sleep 0.1
    # A program that fails at once must not take the guest's only CPU.
    sleep 0.02
done
