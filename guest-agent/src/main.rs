//! The program in the VM: moves each arriving NIC into its target and keeps it right.

fn main() {}
