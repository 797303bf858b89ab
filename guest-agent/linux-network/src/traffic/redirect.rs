//! The filter that sends everything elsewhere: `cls_u32` with nothing to match, and `act_mirred`.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionMirror, TcActionMirrorOption, TcActionOption,
    TcActionType, TcAttribute, TcFilterU32, TcFilterU32Option, TcHandle, TcMirror,
    TcMirrorActionType, TcOption, TcU32Selector, TcU32SelectorFlags,
};

use super::{INGRESS, message};
use crate::netlink::link_view::LinkIndex;

/// `ETH_P_ALL`, in network byte order as the header wants it.
const EVERY_PROTOCOL: u16 = 0x0003_u16.to_be();

/// The only filter of ours.
const PRIORITY: u16 = 1;

/// The first entry of the first hash table, where the kernel would put it too; naming it makes the
/// request repeatable.
const ENTRY: TcHandle = TcHandle {
    major: 0x8000,
    minor: 0x0800,
};

pub(super) fn everything(from: LinkIndex, to: LinkIndex) -> RouteNetlinkMessage {
    let mut filter = message(from, INGRESS);
    filter.header.handle = ENTRY;
    filter.header.info = u32::from(TcHandle {
        major: PRIORITY,
        minor: EVERY_PROTOCOL,
    });
    // No key at all: a key reads the frame, and a frame too short for it would slip through.
    let mut selector = TcU32Selector::default();
    selector.flags = TcU32SelectorFlags::Terminal;
    let options = [
        TcFilterU32Option::Selector(selector),
        TcFilterU32Option::Action(vec![redirection(to)]),
    ];
    filter.attributes = vec![
        TcAttribute::Kind(TcFilterU32::KIND.to_owned()),
        TcAttribute::Options(options.map(TcOption::U32).into()),
    ];
    RouteNetlinkMessage::NewTrafficFilter(filter)
}

fn redirection(to: LinkIndex) -> TcAction {
    let mut parameters = TcMirror::default();
    parameters.generic.action = TcActionType::Stolen;
    parameters.eaction = TcMirrorActionType::EgressRedir;
    parameters.ifindex = to.0;
    let option = TcActionOption::Mirror(TcActionMirrorOption::Parms(parameters));
    let mut action = TcAction::default();
    action.attributes = vec![
        TcActionAttribute::Kind(TcActionMirror::KIND.to_owned()),
        TcActionAttribute::Options(vec![option]),
    ];
    action
}

/// Where a filter of `from` sends everything, if that is what it does.
pub(super) fn target(message: RouteNetlinkMessage, from: LinkIndex) -> Option<LinkIndex> {
    let RouteNetlinkMessage::NewTrafficFilter(filter) = message else {
        return None;
    };
    if filter.header.index != from.0.cast_signed() {
        return None;
    }
    let options = filter.attributes.into_iter().find_map(|attribute| {
        if let TcAttribute::Options(options) = attribute {
            Some(options)
        } else {
            None
        }
    })?;
    let actions = options.into_iter().find_map(|option| {
        if let TcOption::U32(TcFilterU32Option::Action(actions)) = option {
            Some(actions)
        } else {
            None
        }
    })?;
    let attributes = actions.into_iter().flat_map(|action| action.attributes);
    attributes.filter_map(redirection_target).next()
}

fn redirection_target(attribute: TcActionAttribute) -> Option<LinkIndex> {
    let TcActionAttribute::Options(options) = attribute else {
        return None;
    };
    options.into_iter().find_map(|option| {
        let TcActionOption::Mirror(TcActionMirrorOption::Parms(parameters)) = option else {
            return None;
        };
        let redirects = parameters.eaction == TcMirrorActionType::EgressRedir;
        redirects.then_some(LinkIndex(parameters.ifindex))
    })
}
