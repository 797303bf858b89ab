//! The faults by what goes wrong with what: A hostd, B libvirt, C guests, D monitors, E disks, S
//! stores shared by hosts, T time, G agents, N namespaces, X limits and filters, L load.

use super::matrix::Met::{NotYet, Scenario as In, Test};
use super::matrix::{Fault, fault};

const QMP_CLIENT: &str = "hostd/hypervisor-qmp/tests/client.rs";
const REAL_QEMU: &str = "hostd/hypervisor-qmp/tests/real_qemu.rs";
const JOURNAL: &str = "hostd/journal/tests/sqlite.rs";
const OUTAGES: &str = "hostd/hypervisor-libvirt/tests/live/outages.rs";
const PORTS: &str = "hostd/port/tests/kernel/failures.rs";
const ONE_HOST: &str = "there is no store that hosts share yet";

pub(super) const FAULTS: &[Fault] = &[
    fault(
        "A1",
        "hostd dies before its intent is durable",
        &[
            In("hostd_killed_at_every_effect_of_an_attach"),
            In("hostd_killed_at::attach.admit.after"),
        ],
    ),
    fault(
        "A2",
        "hostd dies between intent and tap",
        &[In("hostd_killed_at::attach.make-port.before")],
    ),
    fault(
        "A3",
        "hostd dies with a tap that nobody has been given",
        &[In("hostd_killed_at::attach.make-port.after")],
    ),
    fault(
        "A4",
        "hostd dies between netdev_add and device_add",
        &[
            In("hostd_killed_at_every_effect_of_an_attach"),
            Test(
                REAL_QEMU,
                "a_backend_that_an_earlier_run_left_gets_its_device",
            ),
        ],
    ),
    fault(
        "A5",
        "hostd dies with a device that is not recorded",
        &[
            In("hostd_killed_at::attach.plug.after"),
            In("hostd_killed_at::attach.record.before"),
        ],
    ),
    fault(
        "A6",
        "hostd dies after device_del and misses its event",
        &[
            In("hostd_killed_at::detach.unplug.after"),
            In("a_blocked_detach_outlives_hostd"),
        ],
    ),
    fault(
        "A7",
        "hostd dies after DEVICE_DELETED",
        &[
            In("hostd_killed_at::detach.guest-unplug.after"),
            In("hostd_killed_at::detach.remove-port.before"),
        ],
    ),
    fault(
        "A8",
        "hostd dies again and again",
        &[In("hostd_that_dies_again_and_again_gets_there")],
    ),
    fault(
        "A9",
        "hostd is upgraded",
        &[
            Test(
                JOURNAL,
                "a_newer_schema_is_refused_and_both_versions_are_named",
            ),
            NotYet("there is one version of hostd so far"),
        ],
    ),
    fault(
        "B1",
        "libvirtd is restarted",
        &[
            In("libvirtd_restarted_in_mid_attach"),
            Test(
                OUTAGES,
                "events_and_calls_work_again_after_libvirtd_was_killed",
            ),
        ],
    ),
    fault(
        "B2",
        "libvirt calls a detach done that is not",
        &[In("a_guest_whose_driver_is_gone_blocks_the_detach_visibly")],
    ),
    fault(
        "B3",
        "libvirt hangs",
        &[
            Test(OUTAGES, "vms_that_hang_do_not_hold_up_another"),
            In("a_stalled_monitor_delays_no_other_vm"),
        ],
    ),
    fault(
        "B4",
        "somebody changes a VM behind hostd's back",
        &[In("a_nic_detached_behind_hostds_back")],
    ),
    fault(
        "C1",
        "a QEMU crashes",
        &[In("qemu_killed_"), In("a_vm_that_ends_completes_a_detach")],
    ),
    fault(
        "C2",
        "a guest panics or hangs",
        &[In("a_guest_that_panics_gives_its_nic_back_with_its_end")],
    ),
    fault(
        "C3",
        "a guest refuses or ignores an unplug",
        &[
            In("a_guest_that_refuses_an_unplug_is_asked_again"),
            In("a_guest_whose_driver_is_gone_blocks_the_detach_visibly"),
        ],
    ),
    fault(
        "C4",
        "a guest ejects a NIC by itself",
        &[In("a_guest_that_ejects_a_nic_by_itself")],
    ),
    fault(
        "C5",
        "a reset comes between device_del and its event",
        &[In("a_reset_completes_a_detach")],
    ),
    fault(
        "C6",
        "a VM migrates",
        &[
            In("a_vm_that_migrates_takes_no_nic_and_keeps_those_it_has"),
            NotYet("no other host adopts what has arrived, for want of one that knows of it"),
        ],
    ),
    fault(
        "D1",
        "an event is lost, late, twice, early, or about another device",
        &[
            In("device_deleted::"),
            In("an_event_about_another_device_ends_no_detach"),
        ],
    ),
    fault(
        "D2",
        "a reply is late, half, huge or deep",
        &[
            In("reply_late::"),
            Test(
                QMP_CLIENT,
                "a_large_reply_is_read_and_an_endless_one_breaks_the_connection",
            ),
            Test(QMP_CLIENT, "a_line_that_is_not_json_breaks_the_connection"),
        ],
    ),
    fault(
        "D3",
        "another client holds the monitor",
        &[Test(
            QMP_CLIENT,
            "a_socket_without_a_process_is_told_from_one_that_another_client_holds",
        )],
    ),
    fault(
        "D4",
        "the clock of events is wrong",
        &[NotYet(
            "hostd reads no time out of events, so there is nothing to be told wrongly",
        )],
    ),
    fault(
        "E1",
        "the disk is full",
        &[
            In("a_full_disk_refuses_new_work_before_anything_is_done"),
            In("a_full_disk_lets_a_detach_finish"),
        ],
    ),
    fault(
        "E2",
        "fsync fails",
        &[In("a_disk_that_cannot_be_synced_ends_hostd")],
    ),
    fault(
        "E3",
        "a record is torn",
        &[Test(JOURNAL, "a_damaged_row_is_named_with_its_file")],
    ),
    fault(
        "E4",
        "the power is lost",
        &[In("what_was_acknowledged_survives_a_power_loss")],
    ),
    fault(
        "E5",
        "the journal is newer than hostd",
        &[Test(
            JOURNAL,
            "a_newer_schema_is_refused_and_both_versions_are_named",
        )],
    ),
    fault(
        "S1",
        "the shared store loses its leader",
        &[NotYet(ONE_HOST)],
    ),
    fault(
        "S2",
        "a transaction's outcome is unknown",
        &[NotYet(ONE_HOST)],
    ),
    fault(
        "S3",
        "a watch is cancelled by compaction",
        &[NotYet(ONE_HOST)],
    ),
    fault("S4", "the shared store is full", &[NotYet(ONE_HOST)]),
    fault("S5", "a lease is lost", &[NotYet(ONE_HOST)]),
    fault(
        "S6",
        "two hostds have one journal",
        &[Test(JOURNAL, "a_second_opener_learns_who_holds_it")],
    ),
    fault(
        "S7",
        "the shared store comes from a backup",
        &[NotYet(ONE_HOST)],
    ),
    fault(
        "S8",
        "the store is slow",
        &[In("a_slow_disk_slows_and_breaks_nothing")],
    ),
    fault(
        "T1",
        "the clock jumps",
        &[In("a_wall_clock_that_jumps_changes_nothing")],
    ),
    fault(
        "G1",
        "the channel has stale bytes, other ones, or ends",
        &[
            In("channel_to-guest::"),
            In("channel_to-host::"),
            In("a_hostile_agent_harms_nobody_else"),
        ],
    ),
    fault(
        "G2",
        "the agent dies in mid-bind",
        &[In("agent_killed_at_every_step_of_a_bind")],
    ),
    fault(
        "G3",
        "there is no agent",
        &[
            In("an_attach_waits_for_the_agent"),
            In("a_detach_without_an_agent"),
        ],
    ),
    fault(
        "G4",
        "a link's event is lost",
        &[In("a_lost_link_event_is_made_up_for")],
    ),
    fault(
        "N1",
        "the target vanishes, or its pid is another's",
        &[
            In("a_target_that_does_not_exist"),
            In("a_pid_that_was_reused"),
            In("a_pid_of_an_earlier_boot_is_another_process"),
        ],
    ),
    fault(
        "N2",
        "a container dies with a NIC in it",
        &[
            In("a_container_killed_with_the_nic_inside"),
            In("agent_killed_while_taking_back_a_link"),
        ],
    ),
    fault(
        "N3",
        "the link's name is taken",
        &[In("a_link_name_that_is_taken_in_the_container")],
    ),
    fault(
        "N4",
        "the NIC goes while it is being bound",
        &[In("a_nic_that_leaves_while_it_is_being_bound")],
    ),
    fault(
        "X1",
        "a MAC address is taken",
        &[
            In("a_mac_that_is_taken"),
            In("a_device_with_the_same_address_is_left_alone"),
        ],
    ),
    fault(
        "X2",
        "a guest takes another address",
        &[
            Test(
                "hostd/port/tests/kernel/spoofing.rs",
                "frames_from_a_foreign_address_are_dropped_and_those_from_the_own_one_pass",
            ),
            NotYet("nothing is said of it to anybody"),
        ],
    ),
    fault(
        "X3",
        "a port is left over",
        &[In("only_a_tap_of_ours_without_an_owner_is_removed")],
    ),
    fault(
        "X4",
        "a filter or a rate cannot be set",
        &[
            Test(PORTS, "nothing_is_left_when_a_rate_is_impossible"),
            In("a_port_that_cannot_be_made_fails_the_attach"),
        ],
    ),
    fault(
        "X5",
        "many race for the last of something",
        &[In("a_thousand_attaches_against_a_limit_of_eight")],
    ),
    fault(
        "L1",
        "ten thousand hostds come back at once",
        &[NotYet(ONE_HOST)],
    ),
];
