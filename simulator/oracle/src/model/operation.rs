//! What can be asked for and what can happen, by number: which ids stand for them is the business
//! of whoever runs it.

use host_api::ProblemCode;

/// A NIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NicKey(pub u8);

/// A VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VmKey(pub u8);

/// A container of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerKey(pub u8);

/// Where a container is, or may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Spot {
    /// In which VM.
    pub vm: VmKey,
    /// Which of its containers.
    pub container: ContainerKey,
}

/// One operation; the next begins when all has come to rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A client asks for something.
    Ask(Request),
    /// Something happens that no client has asked for.
    Happen(Happening),
}

/// What a client can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// To create a NIC.
    Create(NicKey),
    /// To attach it.
    Attach(NicKey, Spot),
    /// To detach it.
    Detach(NicKey),
    /// To move it.
    Move(NicKey, Spot),
    /// To delete it.
    Delete(NicKey),
}

/// What can happen in VMs and guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happening {
    /// A container begins, as a process; nothing happens when it lives.
    StartContainer(Spot),
    /// A container's process is killed.
    KillContainer(Spot),
    /// The agent ends and is not started again.
    StopAgent(VmKey),
    /// It is started again.
    StartAgent(VmKey),
    /// The guest kernel ignores being asked to let go of devices from now on.
    KeepDevices(VmKey),
    /// It heeds it again.
    LetGo(VmKey),
    /// The guest takes a device out by itself.
    Eject(NicKey),
    /// The guest is reset.
    Reset(VmKey),
    /// QEMU ends.
    PowerOff(VmKey),
    /// It is started, and the guest boots.
    PowerOn(VmKey),
}

/// What a client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The NIC is in use as asked.
    InUse,
    /// It is available.
    Available,
    /// Its record is gone.
    Deleted,
    /// It is not done, and hostd goes on trying.
    UnderWay,
    /// It was refused, or was undone.
    Problem(ProblemCode),
}
