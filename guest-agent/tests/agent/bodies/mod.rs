//! The scenarios, each written once for every [`crate::bed::Bed`].

mod arrivals;
mod bindings;
mod leases;
mod releases;
mod restarts;
mod returns;

pub(crate) use arrivals::*;
pub(crate) use bindings::*;
pub(crate) use leases::*;
pub(crate) use releases::*;
pub(crate) use restarts::*;
pub(crate) use returns::*;

/// Makes tests of all scenarios on one bed: `scenarios!(Veth, tokio::test)`.
macro_rules! scenarios {
    ($bed:ty, $($test:tt)+) => {
        crate::bodies::tests_of! { $bed, [$($test)+],
            a_link_that_arrives_while_events_are_lost_is_bound,
            a_link_that_arrives_where_nobody_tells_of_it_is_bound,
            a_link_is_bound_with_both_families_and_reachable_at_once,
            a_bound_address_is_announced,
            a_taken_name_is_an_error_and_the_link_is_held,
            a_target_that_does_not_exist_is_an_error_until_a_new_generation,
            a_pid_in_another_namespace_than_declared_is_refused,
            the_guests_own_namespace_is_no_target,
            another_target_moves_the_link,
            a_link_nobody_declared_is_not_touched,
            a_forgotten_nic_is_left_where_it_is,
            a_lease_is_taken_and_given_back,
            no_dhcp_server_is_an_error_and_the_link_is_held,
            a_link_unplugged_in_mid_bind_is_an_error_and_the_next_one_is_bound,
            a_released_link_is_bare_and_down_and_absent_once_unplugged,
            a_released_link_that_is_not_unplugged_is_held,
            a_released_link_that_its_container_switches_on_again_is_held,
            a_released_link_leaves_a_container_that_dies,
            a_released_link_that_is_forgotten_is_held,
            a_released_link_is_bound_again_wherever_it_is_wanted,
            an_agent_killed_between_release_and_unplug_releases_again,
            a_host_that_restarts_is_told_everything_again,
            a_killed_agent_finds_a_bound_link_and_leaves_it_up,
            a_killed_agent_releases_a_link_it_was_never_told_the_place_of,
            a_container_that_died_while_no_agent_ran_is_told_as_one_that_died,
            a_process_that_bears_the_pid_of_a_dead_container_gets_nothing,
            an_agent_killed_in_mid_bind_carries_on_after_its_restart,
            a_killed_container_gives_its_link_back,
            a_deleted_namespace_gives_its_link_back,
            a_container_killed_in_mid_bind_is_an_error_and_the_link_is_held,
            a_namespace_deleted_in_mid_bind_is_an_error_and_the_link_is_held,
        }
    };
}

macro_rules! tests_of {
    ($bed:ty, $test:tt, $($name:ident,)+) => {
        $(crate::bodies::test_of! { $bed, $test, $name })+
    };
}

macro_rules! test_of {
    ($bed:ty, [$($test:tt)+], $name:ident) => {
        #[$($test)+]
        async fn $name() {
            crate::bodies::$name::<$bed>().await;
        }
    };
}

pub(crate) use {scenarios, test_of, tests_of};
