//! The same faults, and some that are none of a cause alone, by the way in which each is brought
//! about.

use super::matrix::Met::{Scenario as In, Test};
use super::matrix::{Fault, fault};

const QMP_CLIENT: &str = "hostd/hypervisor-qmp/tests/client.rs";
const SCRIPTED: &str = "hostd/hypervisor-qmp/tests/scripted_qemu.rs";
const REAL_QEMU: &str = "hostd/hypervisor-qmp/tests/real_qemu.rs";
const HOSTILE: &str = "hostd/tests/worker/hostile_agent.rs";
const OUTAGES: &str = "hostd/hypervisor-libvirt/tests/live/outages.rs";
const PLUGGING: &str = "hostd/hypervisor-libvirt/tests/live/plugging.rs";
const PORTS: &str = "hostd/port/tests/kernel/failures.rs";

pub(super) const FAULTS: &[Fault] = &[
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
        &[
            Test(
                QMP_CLIENT,
                "events_between_replies_are_passed_on_raw_and_unknown_messages_are_counted",
            ),
            Test(
                QMP_CLIENT,
                "a_monitor_that_offers_nothing_is_as_good_as_one_that_offers_oob",
            ),
        ],
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
        "a port cannot be made: its name or its tap is another's, its bridge is gone, no room",
        &[
            In("a_link_with_the_name_of_a_port_is_left_alone"),
            In("a_network_without_its_bridge_takes_no_nic"),
            In("a_port_that_cannot_be_made_fails_the_attach"),
            In("a_port_that_cannot_be_removed_at_first_is_removed_later"),
            Test(
                "hostd/tests/worker/held_taps.rs",
                "a_detach_waits_for_whoever_holds_the_tap_and_says_so",
            ),
        ],
    ),
    fault(
        "18",
        "a rate cannot be set after the plug",
        &[
            In("a_port_whose_rates_cannot_be_restored_stays_closed_until_they_can"),
            In("a_port_that_cannot_be_restored_at_first_is_restored_later"),
            Test(PORTS, "nothing_is_left_when_a_rate_is_impossible"),
        ],
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
        "a namespace gone, a pid reused, a name taken or longer than 15 bytes",
        &[
            In("a_target_that_does_not_exist"),
            In("a_pid_that_was_reused"),
            In("a_link_name_that_is_taken_in_the_container"),
            In("a_link_name_of_fifteen_letters_is_used_and_a_longer_one_refused"),
        ],
    ),
    fault(
        "27",
        "udev renames the link between its being seen and its being moved",
        &[In(
            "a_link_that_is_renamed_after_it_was_seen_is_still_bound",
        )],
    ),
    fault(
        "28",
        "the link cannot be set up, the DHCP server is silent, an address is another's",
        &[
            In("a_step_that_is_refused_fails_the_attach_and_leaves_nothing"),
            In("a_silent_dhcp_server_fails_the_attach"),
            In("a_dhcp_server_that_loses_questions_is_asked_again"),
            In("an_address_that_another_nic_has_is_refused"),
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
