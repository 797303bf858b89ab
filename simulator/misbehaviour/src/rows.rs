//! The rows of the table: what is simulated asks at these operations.
//!
//! Apart from what asks it, since it grows with every operation, and nothing else does.

use crate::effect::EffectKind::{
    self, Corrupt, Crash, Cut, Delay, DiskFull, Duplicate, Eject, Error, FsyncError, Ignore, Lose,
    Refuse, Reorder, Reset, Stall,
};
use crate::effect::Side::{After, Before};
use crate::table::{About, Except, Row, World};

const fn except(worlds: &'static [World], why: &'static str) -> Except {
    Except {
        worlds,
        effects: &[],
        why,
    }
}

const COMMAND: &[EffectKind] = &[
    Delay,
    Error,
    Lose,
    Cut(Before),
    Cut(After),
    Stall,
    Crash(Before),
    Crash(After),
    Reset,
];
const EVENT: &[EffectKind] = &[
    Delay,
    Lose,
    Duplicate,
    Reorder,
    Cut(Before),
    Cut(After),
    Crash(Before),
    Crash(After),
];
const CHANNEL: &[EffectKind] = &[
    Delay,
    Lose,
    Duplicate,
    Corrupt,
    Cut(Before),
    Cut(After),
    Stall,
];
const PORT: &[EffectKind] = &[Delay, Error, Stall, Crash(Before), Crash(After)];

const EVERYWHERE: &[World] = &World::ALL;
const NO_GUEST: Except = except(&[World::Qemu], "a fake QEMU by itself has no such guest");
const NO_HOST: Except = except(&[World::Qemu], "a fake QEMU by itself has no host");
const REAL_PORTS: Except = except(&[World::Netns], "ports are links of the real kernel there");
const REAL_CHANNEL: Except = except(
    &[World::Netns],
    "hostd and the agents are real programs there, on a real socket",
);
const REAL_AGENT: Except = except(&[World::Netns], "the agent is a real program there");
const NO_DHCP: Except = except(
    &[World::Fleet, World::Netns],
    "no DHCP server is simulated there",
);
const UNASKED: Except = except(&[World::Fleet], "nobody asks for it there");

/// All of them.
pub(crate) const ROWS: &[Row] = &[
    Row {
        family: "qmp",
        members: &[
            "device_add",
            "device_del",
            "netdev_add",
            "netdev_del",
            "set_link",
        ],
        effects: COMMAND,
        about: About::VmAndNic,
        except: &[],
    },
    Row {
        family: "qmp",
        members: &["announce-self", "query-rx-filter"],
        effects: COMMAND,
        about: About::VmAndNic,
        except: &[UNASKED],
    },
    Row {
        family: "qmp",
        members: &[
            "closefd",
            "getfd",
            "human-monitor-command",
            "qmp_capabilities",
            "qom-get",
            "qom-list",
            "query-migrate",
            "query-status",
        ],
        effects: COMMAND,
        about: About::Vm,
        except: &[],
    },
    Row {
        family: "qmp",
        members: &[
            "add-fd",
            "cont",
            "migrate",
            "migrate-set-parameters",
            "migrate_cancel",
            "query-chardev",
            "query-commands",
            "query-fdsets",
            "query-kvm",
            "query-name",
            "query-pci",
            "query-qmp-schema",
            "query-uuid",
            "query-version",
            "quit",
            "remove-fd",
            "stop",
            "system_powerdown",
            "system_reset",
            "system_wakeup",
        ],
        effects: COMMAND,
        about: About::Vm,
        except: &[UNASKED],
    },
    Row {
        family: "event",
        members: &["DEVICE_DELETED"],
        effects: EVENT,
        about: About::VmAndNic,
        except: &[],
    },
    Row {
        family: "event",
        members: &["DEVICE_UNPLUG_GUEST_ERROR"],
        effects: EVENT,
        about: About::VmAndNic,
        except: &[NO_GUEST],
    },
    Row {
        family: "event",
        members: &["NIC_RX_FILTER_CHANGED"],
        effects: EVENT,
        about: About::VmAndNic,
        except: &[except(
            EVERYWHERE,
            "no simulated guest gives a NIC another address",
        )],
    },
    Row {
        family: "event",
        members: &["RESET", "STOP"],
        effects: EVENT,
        about: About::Vm,
        except: &[],
    },
    Row {
        family: "event",
        members: &["POWERDOWN", "RESUME", "SHUTDOWN"],
        effects: EVENT,
        about: About::Vm,
        except: &[UNASKED],
    },
    Row {
        family: "event",
        members: &["GUEST_PANICKED"],
        effects: EVENT,
        about: About::Vm,
        except: &[NO_GUEST],
    },
    Row {
        // A guest's kernel probes a device.
        family: "guest",
        members: &["plug"],
        effects: &[Delay, Lose, Refuse, Ignore, Eject, Reset, Crash(Before)],
        about: About::VmAndNic,
        except: &[NO_GUEST],
    },
    Row {
        // It lets go of one.
        family: "guest",
        members: &["unplug"],
        effects: &[Delay, Lose, Refuse, Ignore, Reset, Crash(Before)],
        about: About::VmAndNic,
        except: &[NO_GUEST],
    },
    Row {
        // It tells the agent of a link.
        family: "guest",
        members: &["link-event"],
        effects: &[Lose],
        about: About::VmAndNic,
        except: &[
            NO_GUEST,
            except(
                &[World::Netns],
                "the real kernel tells the agent of links there",
            ),
        ],
    },
    Row {
        family: "guest",
        members: &["boot"],
        effects: &[Delay, Lose, Ignore, Reset, Crash(Before)],
        about: About::Vm,
        except: &[NO_GUEST],
    },
    Row {
        // A step of the agent, by its name in the protocol.
        family: "agent",
        members: &[
            "enter",
            "hold",
            "release",
            "set-addresses",
            "set-up",
            "verify",
        ],
        effects: &[Delay, Error, Crash(Before), Crash(After)],
        about: About::VmAndNic,
        except: &[NO_GUEST, REAL_AGENT],
    },
    Row {
        // Nothing is asked of the kernel that could fail.
        family: "agent",
        members: &["announce"],
        effects: &[Delay, Crash(Before), Crash(After)],
        about: About::VmAndNic,
        except: &[NO_GUEST, REAL_AGENT],
    },
    Row {
        family: "agent",
        members: &["set-mtu", "set-routes"],
        effects: &[Delay, Error, Crash(Before), Crash(After)],
        about: About::VmAndNic,
        except: &[NO_GUEST, REAL_AGENT, UNASKED],
    },
    Row {
        family: "agent",
        members: &["lease"],
        effects: &[Delay, Crash(Before), Crash(After)],
        about: About::VmAndNic,
        except: &[NO_GUEST, NO_DHCP],
    },
    Row {
        // The DHCP server.
        family: "dhcp",
        members: &["discover", "request"],
        effects: &[Delay, Lose, Refuse],
        about: About::VmAndNic,
        except: &[NO_GUEST, NO_DHCP],
    },
    Row {
        // Nobody waits for an answer to this.
        family: "dhcp",
        members: &["release"],
        effects: &[Lose],
        about: About::VmAndNic,
        except: &[NO_GUEST, NO_DHCP],
    },
    Row {
        // A frame between hostd and an agent.
        family: "channel",
        members: &["to-guest", "to-host"],
        effects: CHANNEL,
        about: About::Vm,
        except: &[NO_HOST, REAL_CHANNEL],
    },
    Row {
        // hostd's store.
        family: "journal",
        members: &["commit"],
        effects: &[
            Delay,
            DiskFull,
            FsyncError,
            Corrupt,
            Crash(Before),
            Crash(After),
        ],
        about: About::Host,
        except: &[
            NO_HOST,
            Except {
                worlds: &[World::Fleet],
                effects: &[Corrupt],
                why: "hostd does not start over a row that it cannot read, and nobody repairs it \
                      there",
            },
            Except {
                worlds: &[World::Netns],
                effects: &[FsyncError],
                why: "the kernel syncs hostd's file there, and for an ordinary user there is no \
                      file system that could be told to fail at it",
            },
            Except {
                worlds: &[World::Netns],
                effects: &[Delay, Corrupt, Crash(Before), Crash(After)],
                why: "hostd is a real program there, which writes a real file by itself",
            },
        ],
    },
    Row {
        // The host ends of NICs.
        family: "port",
        members: &["make", "isolate", "list", "remove"],
        effects: PORT,
        about: About::HostAndNic,
        except: &[NO_HOST, REAL_PORTS],
    },
];
