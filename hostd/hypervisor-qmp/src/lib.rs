//! Hypervisor back end over a QMP socket.
