//! Being told of links, and being told too much.
//!
//! The kernel keeps what a listener has not read up to a size, then says so once and drops
//! everything until the listener has read what is there (`NETLINK_S_CONGESTED` in
//! net/netlink/af_netlink.c).

use std::collections::VecDeque;

use guest_agent::kernel::{LinkEvent, LinkIndex, LinkView};
use nic_model::NetnsInode;

use super::link::LinkId;
use super::{Kernel, Output};

/// One subscription of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SubscriptionId(u64);

/// What waits for a listener.
#[derive(Debug)]
pub(super) struct Subscription {
    netns: NetnsInode,
    queue: VecDeque<LinkEvent>,
    reading: Reading,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    Follows,
    /// There was no room: everything is dropped until the listener has been told.
    Overrun,
}

impl Kernel {
    /// Subscribes to the links of a namespace.
    pub fn subscribe(&mut self, netns: NetnsInode) -> SubscriptionId {
        let id = SubscriptionId(self.next_number());
        let subscription = Subscription {
            netns,
            queue: VecDeque::new(),
            reading: Reading::Follows,
        };
        self.subscriptions.insert(id, subscription);
        id
    }

    /// Ends a subscription.
    pub fn unsubscribe(&mut self, id: SubscriptionId) {
        self.subscriptions.remove(&id);
    }

    /// The next event; `None` when there is none yet.
    pub fn next_event(&mut self, id: SubscriptionId) -> Option<LinkEvent> {
        let subscription = self.subscriptions.get_mut(&id)?;
        if subscription.reading == Reading::Overrun {
            subscription.reading = Reading::Follows;
            subscription.queue.clear();
            return Some(LinkEvent::Overrun);
        }
        subscription.queue.pop_front()
    }

    /// Loses so many of the next events, without a word to anybody.
    pub fn lose_events(&mut self, number: u32) {
        self.events_to_lose = self.events_to_lose.saturating_add(number);
    }

    /// Has no room for more events, as if a listener had not read for long.
    pub fn overrun(&mut self) {
        let ids = Vec::from_iter(self.subscriptions.keys().copied());
        for subscription in self.subscriptions.values_mut() {
            subscription.reading = Reading::Overrun;
        }
        self.outputs.extend(ids.into_iter().map(Output::LinkEvents));
    }

    pub(super) fn tell_changed(&mut self, id: LinkId) {
        let Some(link) = self.links.get(&id) else {
            return;
        };
        if self.is_listened_to(link.netns) {
            let (netns, view) = (link.netns, link.view());
            self.tell(netns, &LinkEvent::Changed(view));
        }
    }

    pub(super) fn tell_gone(&mut self, netns: NetnsInode, index: LinkIndex) {
        if self.is_listened_to(netns) {
            self.tell(netns, &LinkEvent::Gone(index));
        }
    }

    fn is_listened_to(&self, netns: NetnsInode) -> bool {
        let mut subscriptions = self.subscriptions.values();
        subscriptions.any(|subscription| subscription.netns == netns)
    }

    fn tell(&mut self, netns: NetnsInode, event: &LinkEvent) {
        if self.events_to_lose > 0 {
            self.events_to_lose -= 1;
            return;
        }
        let room = self.settings.events_kept;
        for (id, subscription) in &mut self.subscriptions {
            if subscription.netns != netns || subscription.reading == Reading::Overrun {
                continue;
            }
            if subscription.queue.len() < room {
                subscription.queue.push_back(event.clone());
            } else {
                subscription.reading = Reading::Overrun;
            }
            self.outputs.push(Output::LinkEvents(*id));
        }
    }

    /// Every link of a namespace, the loopback one first.
    #[must_use]
    pub fn links(&self, netns: NetnsInode) -> Vec<LinkView> {
        let Some(namespace) = self.namespaces.get(&netns) else {
            return Vec::new();
        };
        let others = namespace.links.values();
        let others = others.filter_map(|id| self.links.get(id).map(super::link::Link::view));
        std::iter::once(super::link::loopback(namespace.loopback))
            .chain(others)
            .collect()
    }
}
