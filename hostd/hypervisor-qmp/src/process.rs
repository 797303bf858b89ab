//! Which QEMU process is behind a socket: the same one as before, or a new life of the VM.

use std::io;

use nic_model::VmRunId;

/// One life of a process: the kernel's boot, the process id, and when it started. The start time
/// tells reused process ids apart, the boot tells one uptime's start times from another's.
pub(crate) fn run_id(pid: i32) -> io::Result<VmRunId> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let started = start_ticks(&stat).ok_or(io::ErrorKind::InvalidData)?;
    Ok(VmRunId(format!("{}/{pid}/{started}", boot.trim())))
}

/// Field 22, `starttime`, in clock ticks since boot (proc(5)). The second field is the program's
/// name in brackets and may hold anything, brackets and spaces too.
fn start_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_behind_a_hostile_program_name() {
        let stat = "7 (a) 9 9 (b) S 1 7 7 0 -1 4194304 0 0 0 0 0 0 0 0 20 0 1 0 4242 9 9";

        assert_eq!(start_ticks(stat), Some(4242));
    }

    #[test]
    fn a_process_keeps_its_run_id_and_another_has_another() {
        let this = i32::try_from(std::process::id()).unwrap();

        assert_eq!(run_id(this).unwrap(), run_id(this).unwrap());
        assert_ne!(run_id(this).unwrap(), run_id(1).unwrap());
    }
}
