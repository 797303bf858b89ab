//! Schemas of the shared nouns, for the API document: nothing here is ever made.
//!
//! The nouns themselves know nothing of HTTP and refuse impossible values in code; these mirrors
//! tell the reader of the document the same. A test holds each mirror against its noun.

use std::borrow::Cow;

use utoipa::openapi::schema::{KnownFormat, Object, ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{IntoParams, PartialSchema, ToSchema};

/// A schema by the name of `$name`, with `$make` for its content.
macro_rules! schema {
    ($(#[$doc:meta])* $name:ident, $make:expr) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub enum $name {}

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                $make.into()
            }
        }

        impl ToSchema for $name {
            fn name() -> Cow<'static, str> {
                Cow::Borrowed(stringify!($name))
            }
        }
    };
}

/// Text with a rule and an example.
fn text(description: &str, pattern: &str, example: &str) -> Object {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some(description))
        .pattern(Some(pattern))
        .examples([example])
        .build()
}

/// A whole number of something, with its least and greatest value.
fn number(description: &str, least: u32, greatest: Option<u32>) -> Object {
    ObjectBuilder::new()
        .schema_type(Type::Integer)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
        .description(Some(description))
        .minimum(Some(least))
        .maximum(greatest)
        .build()
}

const NAME: &str = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$";

schema!(/// Of [`nic_model::VmId`].
    VmId, text("Name of a VM, as its hypervisor knows it.", NAME, "web-1"));
schema!(/// Of [`nic_model::TenantId`].
    TenantId, text("Whose a NIC is.", NAME, "acme"));
schema!(/// Of [`nic_model::NetworkName`].
    NetworkName, text("A network of hostd's configuration.", NAME, "blue"));
schema!(/// Of [`nic_model::VmClassName`].
    VmClassName, text("A class of VM in hostd's configuration.", NAME, "small"));
schema!(/// Of [`nic_model::NicId`].
    NicId, text("A NIC's id.", "^nic-[a-z0-9]{10}$", "nic-abc0123xyz"));
schema!(/// Of [`nic_model::MacAddr`].
MacAddr, text(
    "A unicast MAC address.",
    "^[0-9A-Fa-f][02468ACEace](:[0-9A-Fa-f]{2}){5}$",
    "5a:00:12:ab:cd:ef",
));
schema!(/// Of [`nic_model::IpNet`].
IpNet, text(
    "An IPv4 or IPv6 address with the prefix length of its subnet.",
    "^[0-9A-Fa-f:.]+/[0-9]{1,3}$",
    "10.0.0.5/24",
));
schema!(/// Of [`std::net::IpAddr`].
    IpAddr, text("An IPv4 or IPv6 address.", "^[0-9A-Fa-f:.]+$", "10.0.0.1"));
schema!(/// Of [`nic_model::LinkName`].
LinkName, text(
    "Name of a link in the guest: printable ASCII without '/', ':' and '%'.",
    "^[!-$&-.0-9;-~]{1,15}$",
    "eth0",
));
schema!(/// Of [`nic_model::SlotId`].
    SlotId, text("A hot-plug slot, by its hypervisor's name for it.", "^.+$", "rp1"));
schema!(/// Of [`nic_model::PciPath`].
PciPath, text(
    "The way from the root bus to a device: DEVICE.FUNCTION in hex, bridge by bridge.",
    "^[01]?[0-9a-f]\\.[0-7](/[01]?[0-9a-f]\\.[0-7]){0,7}$",
    "02.0/00.0",
));
schema!(/// Of [`nic_model::NetnsName`].
NetnsName, text(
    "A file name under /run/netns of the guest.",
    "^[!--0-~][!-.0-~]{0,254}$",
    "blue",
));
schema!(/// Of [`nic_model::Mtu`].
    Mtu, number("Largest packet in bytes, Ethernet header not counted.", 1280, Some(65_535)));
schema!(/// Of [`nic_model::BitRate`].
    BitRate, number("Bits per second on the wire, Ethernet header counted.", 0, None));
schema!(/// Of [`nic_model::PacketRate`].
    PacketRate, number("Packets per second.", 0, None));

/// Of [`nic_model::Target`]: where in the guest a NIC belongs.
#[derive(Debug, ToSchema)]
#[schema(example = json!({"kind": "netns", "name": "blue"}))]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Target {
    /// The namespace of a process, as a container runtime reports it.
    Pid {
        /// Process id in the guest's own pid namespace.
        pid: u32,
        /// The namespace the caller saw that process in.
        netns_inode: Option<u64>,
    },
    /// A namespace with a name under `/run/netns`.
    Netns {
        /// Its name.
        name: NetnsName,
    },
}

/// Of [`nic_model::Addressing`]: how a NIC gets its addresses.
#[derive(Debug, ToSchema)]
#[schema(example = json!({"mode": "static", "addresses": ["10.0.0.5/24"]}))]
#[serde(tag = "mode", rename_all = "snake_case", deny_unknown_fields)]
pub enum Addressing {
    /// Exactly these.
    Static {
        /// Host addresses with the prefix length of their subnet.
        addresses: Vec<IpNet>,
    },
    /// IPv4 by DHCP, these besides.
    Dhcp {
        /// Static addresses beside the leased one.
        addresses: Vec<IpNet>,
    },
}

/// Of [`nic_model::Route`].
#[derive(Debug, ToSchema)]
pub struct Route {
    /// Where to, in CIDR form; `0.0.0.0/0` and `::/0` are the default routes.
    pub destination: IpNet,
    /// Next hop; without one the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Preference: the lower wins; the kernel's own default when absent.
    pub metric: Option<u32>,
}

/// Of [`nic_model::RateLimits`]: limits of both directions as seen from the VM.
#[derive(Debug, ToSchema)]
pub struct RateLimits {
    /// Towards the VM.
    #[schema(rename = "in")]
    pub inbound: Option<RateLimit>,
    /// Out of the VM.
    #[schema(rename = "out")]
    pub outbound: Option<RateLimit>,
}

/// Of [`nic_model::RateLimit`]: limits of one direction; what is absent is unlimited.
#[derive(Debug, ToSchema)]
pub struct RateLimit {
    /// Most bits per second.
    pub bandwidth: Option<BitRate>,
    /// Most packets per second.
    pub packets: Option<PacketRate>,
}

/// Of [`nic_model::PowerState`]: what the virtual CPUs do.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum PowerState {
    /// Executing.
    Running,
    /// Stopped for a while.
    Paused,
    /// Being moved to another host.
    Migrating,
    /// No process.
    Off,
}

/// Of [`nic_model::HotplugMode`]: how the guest is asked to let go of a device.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum HotplugMode {
    /// Through ACPI.
    Acpi,
    /// PCI Express native.
    Native,
}

/// The NIC that a path names.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct NicInPath {
    /// Which NIC.
    pub id: NicId,
}

/// The VM that a path names.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct VmInPath {
    /// Which VM.
    pub id: VmId,
}

/// Headers of every request that concerns a tenant.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
pub struct CallerHeaders {
    /// Act for this tenant, as an operator may.
    pub tenant: Option<TenantId>,
}

/// Headers of every mutation.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
pub struct MutationHeaders {
    /// Act for this tenant, as an operator may.
    pub tenant: Option<TenantId>,
    /// Recognises a repeat of the same request, which then has no effect of its own: 1 to 64
    /// printable ASCII characters without spaces.
    #[param(rename = "client-token", example = "order-17")]
    pub client_token: Option<String>,
}

/// Headers of a follower of events.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
pub struct FollowerHeaders {
    /// Act for this tenant, as an operator may.
    pub tenant: Option<TenantId>,
    /// The id of the last event seen: what followed it comes first.
    #[param(rename = "last-event-id")]
    pub last_event_id: Option<u64>,
}
