//! Links that the host has not declared.
//!
//! A link in the holding namespace was put there by an earlier life of the agent; whose it is will
//! be told by a later declaration. Anything in the guest's own namespace may be the guest's own.

use crate::sight::{Admin, LinkPlace};

/// What to do with a link nobody declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UndeclaredAction {
    /// Nothing.
    LeaveAlone,
    /// Switch it off where it is.
    SetDown,
}

/// What to do with an undeclared link at `place`.
#[must_use]
pub fn undeclared(place: &LinkPlace) -> UndeclaredAction {
    match place {
        LinkPlace::Holding(link) if link.admin == Admin::Up => UndeclaredAction::SetDown,
        LinkPlace::Holding(_)
        | LinkPlace::Nowhere
        | LinkPlace::Hidden
        | LinkPlace::Guest(_)
        | LinkPlace::Target(_)
        | LinkPlace::Elsewhere(_) => UndeclaredAction::LeaveAlone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sight::LinkSeen;

    #[test]
    fn only_links_in_the_holding_namespace_are_switched_off() {
        let link = |admin| LinkSeen {
            name: "ens5".into(),
            mac: None,
            mtu: 1500,
            admin,
            addresses: vec![],
            routes: vec![],
        };
        let cases = [
            (
                LinkPlace::Holding(link(Admin::Up)),
                UndeclaredAction::SetDown,
            ),
            (
                LinkPlace::Holding(link(Admin::Down)),
                UndeclaredAction::LeaveAlone,
            ),
            (
                LinkPlace::Guest(link(Admin::Up)),
                UndeclaredAction::LeaveAlone,
            ),
        ];
        for (place, expected) in cases {
            assert_eq!(undeclared(&place), expected, "{place:?}");
        }
    }
}
