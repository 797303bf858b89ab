//! What can be typed.

use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueHint};
use clap_complete::Shell;
use host_api::{
    AddressingMode, AddressingRequest, AttachNic, Client, CreateNic, EventQuery, MoveNic, Wait,
};
use nic_model::{
    ClientToken, IpNet, LinkName, MacAddr, Mtu, NetworkName, NicId, RateLimit, RateLimits, Route,
    Target, TenantId, VmId,
};

use crate::failure::Failure;
use crate::mutate::Patience;
use crate::output::{Format, Output};
use crate::value::{address, bit_rate, packet_rate, random_token, route};

const EXIT_CODES: &str = "Exit codes:
  0  done
  1  failed for another reason
  2  wrong usage or an invalid request
  3  refused: a limit or a conflict
  4  no such NIC, VM or target
  5  blocked, or not done in time
  6  hostd cannot be reached
  130  interrupted; hostd goes on with what it has been asked";

const CREATE_EXAMPLES: &str = "Examples:
  nicctl nic create --network blue
  nicctl nic create --network blue --address 10.77.0.9/24 --bandwidth-in 100M
  nicctl nic create --network blue --dhcp --attach web-1 --target netns:shop";

const PLACE_EXAMPLES: &str = "Examples of targets:
  netns:shop            the namespace /run/netns/shop of the guest
  pid:4242              the namespace of a process of the guest
  pid:4242@4026532293   the same, unless the pid has been given to another process";

const GLOBAL: &str = "Global options";

/// Hot-plugs NICs into VMs and into containers inside them, through hostd.
#[derive(Debug, Parser)]
#[command(name = "nicctl", version, after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
pub(crate) struct Global {
    /// hostd's socket.
    #[arg(
        long,
        global = true,
        env = "NICFERRY_SOCKET",
        value_name = "PATH",
        value_hint = ValueHint::FilePath,
        help_heading = GLOBAL,
        default_value = "/run/nicferry/hostd.sock"
    )]
    socket: PathBuf,
    /// Print the API's own bodies as JSON, and everything else to the standard error.
    #[arg(long, global = true, help_heading = GLOBAL)]
    json: bool,
    /// Act for this tenant, as an operator may.
    #[arg(long, global = true, help_heading = GLOBAL)]
    tenant: Option<TenantId>,
}

/// How a change is sent, and how long nicctl stays with it.
#[derive(Debug, Args)]
pub(crate) struct Sending {
    /// How long to wait for the NIC to settle, e.g. 500ms, 30s, 2m; at most 10m.
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    wait: Wait,
    /// Return as soon as the request is admitted.
    #[arg(long, conflicts_with = "wait")]
    no_wait: bool,
    /// Make the request recognisable when it is sent again; random by default.
    #[arg(long)]
    token: Option<ClientToken>,
}

impl Global {
    pub(crate) fn format(&self) -> Format {
        if self.json {
            Format::Json
        } else {
            Format::People
        }
    }

    pub(crate) fn client(&self) -> Client {
        let client = Client::unix(&self.socket);
        match &self.tenant {
            Some(tenant) => client.for_tenant(tenant.clone()),
            None => client,
        }
    }
}

impl Sending {
    pub(crate) fn patience(self) -> Patience {
        Patience {
            token: self.token.unwrap_or_else(random_token),
            wait: if self.no_wait { Wait::NONE } else { self.wait },
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Virtual machines.
    #[command(subcommand)]
    Vm(VmCommand),
    /// NICs.
    #[command(subcommand)]
    Nic(NicCommand),
    /// Show what happens, as it happens.
    Events(EventFilter),
    /// Show every limit and what is used of it.
    Limits,
    /// Show whether hostd can do its work, and what is wrong if not.
    Health,
    /// Print a completion script.
    Completion {
        /// For which shell.
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum VmCommand {
    /// List the VMs.
    #[command(visible_alias = "ls")]
    List,
    /// Show one VM: its agent, its slots, its limits.
    Show {
        /// Its name.
        vm: VmId,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum NicCommand {
    /// Make a NIC, and with --attach put it into a VM at once.
    #[command(after_help = CREATE_EXAMPLES)]
    Create(Box<Create>),
    /// Put a NIC into a VM and carry it into its target there.
    #[command(after_help = PLACE_EXAMPLES)]
    Attach(Placing),
    /// Take a NIC out of its VM; it keeps id, MAC and addresses.
    Detach(Removing),
    /// Move a NIC to another target, in the same VM or another.
    #[command(after_help = PLACE_EXAMPLES)]
    Move(Placing),
    /// Delete a NIC that is in no VM.
    #[command(visible_alias = "rm")]
    Delete(Removing),
    /// List the NICs.
    #[command(visible_alias = "ls")]
    List {
        /// Only those of this VM, on their way to it included.
        #[arg(long)]
        vm: Option<VmId>,
    },
    /// Show one NIC: where it is, what stands in its way, how it got there.
    Show {
        /// Its id.
        nic: NicId,
    },
    /// Show one NIC and what happens to it, until it is deleted.
    Watch {
        /// Its id.
        nic: NicId,
    },
}

/// A NIC and where it is to go.
#[derive(Debug, Args)]
pub(crate) struct Placing {
    /// Its id.
    pub(crate) nic: NicId,
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) sending: Sending,
}

/// A NIC that is to go.
#[derive(Debug, Args)]
pub(crate) struct Removing {
    /// Its id.
    pub(crate) nic: NicId,
    #[command(flatten)]
    pub(crate) sending: Sending,
}

/// A place in a VM.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// Which VM.
    #[arg(long)]
    vm: VmId,
    /// Where in it: netns:NAME, pid:NUMBER or pid:NUMBER@NETNS_INODE.
    #[arg(long)]
    target: Target,
    /// What the link is called there; eth0 by default, and what it is called already for a move.
    #[arg(long, value_name = "LINK")]
    name: Option<LinkName>,
}

impl Place {
    pub(crate) fn attach(self) -> AttachNic {
        AttachNic {
            vm: self.vm,
            target: self.target,
            link_name: self.name,
        }
    }

    pub(crate) fn relocate(self) -> MoveNic {
        MoveNic {
            vm: self.vm,
            target: self.target,
            link_name: self.name,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// The network it is on.
    #[arg(long)]
    network: NetworkName,
    /// Its MAC address; a generated one by default.
    #[arg(long)]
    mac: Option<MacAddr>,
    /// An address with its prefix length; repeat for more. hostd allocates some by default.
    #[arg(long = "address", value_name = "CIDR", value_parser = address)]
    addresses: Vec<IpNet>,
    /// Get the IPv4 address by DHCP; --address then adds others.
    #[arg(long)]
    dhcp: bool,
    /// Largest packet in bytes; the network's own by default.
    #[arg(long, value_parser = crate::value::mtu)]
    mtu: Option<Mtu>,
    /// A route: DESTINATION, then ,via=GATEWAY and ,metric=NUMBER as needed; repeat for more.
    #[arg(long = "route", value_name = "ROUTE", value_parser = route)]
    routes: Vec<Route>,
    #[command(flatten)]
    rates: Rates,
    /// Queues of the device; 1 by default.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    queues: Option<u16>,
    /// Put it into this VM at once.
    #[arg(long, value_name = "VM", requires = "target")]
    attach: Option<VmId>,
    /// Where in it: netns:NAME, pid:NUMBER or pid:NUMBER@NETNS_INODE.
    #[arg(long, requires = "attach")]
    target: Option<Target>,
    /// What the link is called there; eth0 by default.
    #[arg(long, value_name = "LINK", requires = "attach")]
    name: Option<LinkName>,
    #[command(flatten)]
    sending: Sending,
}

#[derive(Debug, Args)]
pub(crate) struct Rates {
    /// Most bits per second towards the VM, e.g. 100M.
    #[arg(long, value_name = "RATE", value_parser = bit_rate)]
    bandwidth_in: Option<nic_model::BitRate>,
    /// Most bits per second out of the VM.
    #[arg(long, value_name = "RATE", value_parser = bit_rate)]
    bandwidth_out: Option<nic_model::BitRate>,
    /// Most packets per second towards the VM, e.g. 10k.
    #[arg(long, value_name = "RATE", value_parser = packet_rate)]
    packets_in: Option<nic_model::PacketRate>,
    /// Most packets per second out of the VM.
    #[arg(long, value_name = "RATE", value_parser = packet_rate)]
    packets_out: Option<nic_model::PacketRate>,
}

impl Rates {
    fn limits(&self) -> Option<RateLimits> {
        let limits = RateLimits {
            inbound: RateLimit {
                bandwidth: self.bandwidth_in,
                packets: self.packets_in,
            },
            outbound: RateLimit {
                bandwidth: self.bandwidth_out,
                packets: self.packets_out,
            },
        };
        (limits != RateLimits::default()).then_some(limits)
    }
}

impl Create {
    /// What is asked for, and how.
    pub(crate) fn request(self) -> (CreateNic, Patience) {
        let attach = self.attach.zip(self.target).map(|(vm, target)| AttachNic {
            vm,
            target,
            link_name: self.name,
        });
        let request = CreateNic {
            // Whose it is goes by --tenant, like everything else.
            tenant: None,
            network: self.network,
            mac: self.mac,
            addressing: addressing(self.dhcp, self.addresses),
            mtu: self.mtu,
            routes: (!self.routes.is_empty()).then_some(self.routes),
            limits: self.rates.limits(),
            queues: self.queues,
            attach,
        };
        (request, self.sending.patience())
    }
}

fn addressing(dhcp: bool, addresses: Vec<IpNet>) -> Option<AddressingRequest> {
    let mode = match (dhcp, addresses.is_empty()) {
        (true, _) => AddressingMode::Dhcp,
        (false, false) => AddressingMode::Static,
        (false, true) => return None,
    };
    Some(AddressingRequest { mode, addresses })
}

#[derive(Debug, Args)]
pub(crate) struct EventFilter {
    /// Only about this NIC.
    #[arg(long)]
    nic: Option<NicId>,
    /// Only about this VM.
    #[arg(long)]
    vm: Option<VmId>,
    /// Begin after the event with this id.
    #[arg(long, value_name = "ID")]
    pub(crate) after: Option<u64>,
}

impl EventFilter {
    pub(crate) fn query(self) -> EventQuery {
        EventQuery {
            nic: self.nic,
            vm: self.vm,
        }
    }
}

/// The script for `shell`, written at once: clap's own writer panics on a closed pipe.
pub(crate) fn print_completion(shell: Shell, output: &Output) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "nicctl", &mut script);
    output.raw(&script)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(words.split(' '))
    }

    #[test]
    fn the_definition_of_the_arguments_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_option_of_create_reaches_the_request() {
        let line = "nicctl nic create --network blue --mac 5a:00:00:00:00:01 --address 10.0.0.5/24 \
                    --mtu 1400 --route 0.0.0.0/0,via=10.0.0.1 --bandwidth-in 100M \
                    --packets-out 10k --queues 2 --attach web-1 --target netns:blue --name eth1";
        let Command::Nic(NicCommand::Create(create)) = parse(line).unwrap().command else {
            panic!("another command");
        };

        let body = serde_json::to_value(create.request().0).unwrap();

        let expected = serde_json::json!({
            "network": "blue", "mac": "5a:00:00:00:00:01",
            "addressing": {"mode": "static", "addresses": ["10.0.0.5/24"]},
            "mtu": 1400, "routes": [{"destination": "0.0.0.0/0", "gateway": "10.0.0.1"}],
            "limits": {"in": {"bandwidth": 100_000_000}, "out": {"packets": 10_000}},
            "queues": 2,
            "attach": {
                "vm": "web-1", "target": {"kind": "netns", "name": "blue"}, "link_name": "eth1",
            },
        });
        assert_eq!(body, expected);
    }

    #[test]
    fn impossible_arguments_are_refused_before_anything_is_sent() {
        for line in [
            "nicctl nic create",
            "nicctl nic create --network blue --attach web-1",
            "nicctl nic create --network blue --target netns:blue",
            "nicctl nic create --network blue --mac ff:ff:ff:ff:ff:ff",
            "nicctl nic create --network blue --mtu 100",
            "nicctl nic create --network blue --queues 0",
            "nicctl nic attach nic-abc0123xyz --vm web-1 --target netns:../x",
            "nicctl nic attach nic-abc0123xyz --vm web-1 --target netns:a --name sixteen-bytes-xx",
            "nicctl nic show eth0",
            "nicctl nic detach nic-abc0123xyz --wait 5s --no-wait",
            "nicctl nic detach nic-abc0123xyz --wait 1h",
            "nicctl nic list --wait 5s",
            "nicctl nic create --network blue --address 10.0.0.5",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
