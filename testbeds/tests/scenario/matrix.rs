//! Every fault that hostd is built against, and where it is shown to withstand it: in scenarios,
//! in tests of one part, or not yet.
//!
//! `--list-faults` prints it; a trial checks that what it names exists.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use testbeds::scenario::Scenario;

/// One fault and where it is met.
struct Fault {
    id: &'static str,
    what: &'static str,
    met: &'static [Met],
}

enum Met {
    /// By scenarios whose names begin like this.
    Scenario(&'static str),
    /// By a test: its file, from the top of the tree, and its name.
    Test(&'static str, &'static str),
    /// Not yet, for this reason.
    NotYet(&'static str),
}

use Met::{NotYet, Scenario as In, Test};

const QMP_CLIENT: &str = "hostd/hypervisor-qmp/tests/client.rs";
const SCRIPTED: &str = "hostd/hypervisor-qmp/tests/scripted_qemu.rs";
const REAL_QEMU: &str = "hostd/hypervisor-qmp/tests/real_qemu.rs";
const JOURNAL: &str = "hostd/journal/tests/sqlite.rs";
const HOSTILE: &str = "hostd/tests/worker/hostile_agent.rs";
const OUTAGES: &str = "hostd/hypervisor-libvirt/tests/live/outages.rs";
const PLUGGING: &str = "hostd/hypervisor-libvirt/tests/live/plugging.rs";
const PORTS: &str = "hostd/port/tests/kernel/failures.rs";
const ONE_HOST: &str = "there is no store that hosts share yet";

const fn fault(id: &'static str, what: &'static str, met: &'static [Met]) -> Fault {
    Fault { id, what, met }
}

/// By letter what goes wrong with what: A hostd, B libvirt, C guests, D monitors, E disks, S stores
/// shared by hosts, T time, G agents, N namespaces, X limits and filters, L load. By number, after
/// that, each way to bring it about.
const FAULTS: &[Fault] = &[
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
    fault(
        "1",
        "a reply comes after its deadline",
        &[In("reply_late::")],
    ),
    fault("2", "a reply is lost", &[In("reply_lost::")]),
    fault(
        "3",
        "the connection ends before or after each command",
        &[In("connection_cut_before::"), In("connection_cut_after::")],
    ),
    fault(
        "4",
        "DEVICE_DELETED comes early, late, twice, never, or for another device",
        &[
            In("device_deleted::"),
            In("an_event_about_another_device_ends_no_detach"),
        ],
    ),
    fault(
        "5",
        "DEVICE_DELETED comes unasked",
        &[In("a_guest_that_ejects_a_nic_by_itself")],
    ),
    fault(
        "6",
        "DEVICE_UNPLUG_GUEST_ERROR",
        &[In("a_guest_that_refuses_an_unplug_is_asked_again")],
    ),
    fault(
        "7",
        "an unplug is already under way",
        &[
            In("device_del_while_an_unplug_is_pending"),
            Test(PLUGGING, "a_second_request_while_one_is_open_is_pending"),
        ],
    ),
    fault(
        "8",
        "the slot is busy",
        &[
            In("device_del_while_the_slot_is_busy"),
            In("native_detach_waits_for_a_busy_slot"),
        ],
    ),
    fault(
        "9",
        "an id is taken, or is not there",
        &[
            Test(REAL_QEMU, "a_plug_that_is_repeated_changes_nothing"),
            Test(
                SCRIPTED,
                "an_id_that_an_old_qemu_has_not_released_yet_is_tried_again",
            ),
            In("connection_cut_after::device_add"),
            In("connection_cut_after::device_del"),
        ],
    ),
    fault(
        "10",
        "not allowed while migrating",
        &[In("a_vm_that_migrates_takes_no_nic_and_keeps_those_it_has")],
    ),
    fault("11", "no slot is free", &[In("slots_used_up")]),
    fault(
        "12",
        "an unknown event, other fields, a greeting without oob",
        &[Test(
            QMP_CLIENT,
            "events_between_replies_are_passed_on_raw_and_unknown_messages_are_counted",
        )],
    ),
    fault(
        "13",
        "a reset or an end between device_del and DEVICE_DELETED",
        &[
            In("a_reset_completes_a_detach"),
            In("a_vm_that_ends_completes_a_detach"),
        ],
    ),
    fault(
        "14",
        "libvirt is early, late, wrong or gone",
        &[
            Test(
                PLUGGING,
                "an_unplug_that_no_guest_answers_is_completed_by_a_reset",
            ),
            Test(OUTAGES, "a_call_in_flight_survives_the_death_of_libvirtd"),
        ],
    ),
    fault(
        "15",
        "a NIC is gone seconds after it came",
        &[In("a_guest_that_ejects_a_nic_by_itself")],
    ),
    fault(
        "16",
        "hostd is killed at every step",
        &[
            In("hostd_killed_at::"),
            In("hostd_killed_moving_at::"),
            In("hostd_killed_at_every_effect_of_an_attach"),
            In("hostd_killed_at_every_effect_of_a_detach"),
        ],
    ),
    fault(
        "17",
        "a port cannot be made",
        &[
            In("a_port_that_cannot_be_made_fails_the_attach"),
            In("a_port_that_cannot_be_removed_at_first_is_removed_later"),
        ],
    ),
    fault(
        "18",
        "a rate cannot be set after the plug",
        &[Test(PORTS, "nothing_is_left_when_a_rate_is_impossible")],
    ),
    fault("19", "the disk is full", &[In("a_full_disk_")]),
    fault(
        "20",
        "two clients with one token, one address, one slot",
        &[
            In("one_token_sent_by_many_at_once_has_one_effect"),
            In("a_mac_that_is_taken"),
            In("eight_nics_into_one_vm_at_once"),
        ],
    ),
    fault(
        "21",
        "the clock jumps",
        &[In("a_wall_clock_that_jumps_changes_nothing")],
    ),
    fault(
        "22",
        "a limit is reached between check and use",
        &[In("a_thousand_attaches_against_a_limit_of_eight")],
    ),
    fault(
        "23",
        "a link's event is lost",
        &[In("a_lost_link_event_is_made_up_for")],
    ),
    fault(
        "24",
        "the agent dies in mid-bind",
        &[In("agent_killed_at_every_step_of_a_bind")],
    ),
    fault(
        "25",
        "another protocol, half frames, stale bytes",
        &[
            In("channel_to-guest::"),
            In("channel_to-host::"),
            Test(HOSTILE, "half_a_frame_and_then_silence_within_a_session"),
            Test(
                "guest-agent/agent-protocol/src/agent_session_tests.rs",
                "a_host_without_a_common_version_is_told_what_the_agent_speaks",
            ),
        ],
    ),
    fault(
        "26",
        "a namespace gone, a pid reused, a name taken",
        &[
            In("a_target_that_does_not_exist"),
            In("a_pid_that_was_reused"),
            In("a_link_name_that_is_taken_in_the_container"),
        ],
    ),
    fault(
        "27",
        "udev renames the link meanwhile",
        &[
            In("attach_static_v4_v6"),
            In("a_nic_that_leaves_while_it_is_being_bound"),
        ],
    ),
    fault(
        "28",
        "the link cannot be set up, the DHCP server is silent",
        &[
            In("a_step_that_is_refused_fails_the_attach_and_leaves_nothing"),
            In("a_silent_dhcp_server_fails_the_attach"),
            In("a_dhcp_server_that_loses_questions_is_asked_again"),
        ],
    ),
    fault(
        "29",
        "two NICs have one MAC address",
        &[In("a_device_with_the_same_address_is_left_alone")],
    ),
    fault(
        "30",
        "a container dies with a NIC in it",
        &[In("a_container_killed_with_the_nic_inside")],
    ),
    fault(
        "31",
        "the NIC goes while it is being bound",
        &[In("a_nic_that_leaves_while_it_is_being_bound")],
    ),
    fault(
        "32",
        "the agent is done and hostd dies before it records that",
        &[
            In("hostd_killed_at::attach.bind.after"),
            In("hostd_killed_at::attach.record.before"),
        ],
    ),
];

/// Fails where the table names what is not there.
pub(crate) fn check(scenarios: &[Scenario]) -> Result<()> {
    for Fault { id, met, .. } in FAULTS {
        ensure!(!met.is_empty(), "{id}: nothing is said of it");
        for way in *met {
            match way {
                In(name) => {
                    let mut names = scenarios.iter().map(Scenario::name);
                    ensure!(
                        names.any(|known| known.starts_with(name)),
                        "{id}: there is no scenario {name}"
                    );
                }
                Test(file, name) => {
                    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
                    let text = std::fs::read_to_string(&path);
                    let text = text.with_context(|| format!("{id}: reading {file}"))?;
                    let is_there = text.contains(&format!("fn {name}("));
                    ensure!(is_there, "{id}: there is no test {name} in {file}");
                }
                NotYet(_) => {}
            }
        }
    }
    Ok(())
}

/// One line for each fault.
pub(crate) fn listed() -> String {
    let mut text = String::new();
    for Fault { id, what, met } in FAULTS {
        let ways = met.iter().map(|way| match way {
            In(name) => (*name).to_owned(),
            Test(file, name) => format!("{name} ({file})"),
            NotYet(reason) => format!("not yet: {reason}"),
        });
        let ways: Vec<String> = ways.collect();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{id:<4}{what}: {}", ways.join(", "));
    }
    text
}
