//! The calls of libvirt that the `virt` crate (0.4.3) does not wrap: callbacks for events and for
//! the end of a connection, and detaching by alias.
//!
//! ```text
//!   subscribe ──► libvirt's event thread calls the listener ──► drop: deregistered
//!                          (never an RPC in there)
//! ```
//!
//! libvirt owns each callback's data from registration on and frees it when it is done, which may
//! be after deregistration when an event is being delivered (`virFreeCallback`).
#![expect(
    unsafe_code,
    reason = "the only code that calls libvirt's C functions itself"
)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::Arc;

use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::Error;
use virt_sys as sys;

/// What libvirt tells about a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DomainEvent {
    /// It was defined or undefined.
    Defined,
    /// It started or stopped, which makes a transient domain appear or disappear.
    RunChanged,
    /// It paused, resumed or crashed.
    Power,
    /// It was reset, from inside or outside.
    Reboot,
    /// The device with this alias is gone, everything libvirt did for it undone.
    DeviceRemoved(String),
    /// The guest refused to let go of the device with this alias.
    DeviceRemovalFailed(String),
}

/// Hears what happens on a connection, on libvirt's event thread: it must neither block nor call
/// libvirt.
pub(crate) trait Listener: Send + Sync + 'static {
    /// Something happened to the domain with this name.
    fn happened(&self, domain: &str, event: DomainEvent);
    /// The connection ended, for this reason.
    fn closed(&self, reason: &'static str);
}

type Shared = Arc<dyn Listener>;
type GenericCallback = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *mut c_void);

/// The callbacks of one connection; dropping it takes them back.
pub(crate) struct Subscription<'a> {
    connect: &'a Connect,
    ids: Vec<c_int>,
}

impl<'a> Subscription<'a> {
    /// Tells `listener` about every domain and about the end of the connection.
    pub(crate) fn new(connect: &'a Connect, listener: &Shared) -> Result<Self, Error> {
        register_close(connect, listener)?;
        let mut subscription = Self {
            connect,
            ids: Vec::new(),
        };
        for (event, callback) in domain_callbacks() {
            let id = register(connect, event, callback, listener)?;
            subscription.ids.push(id);
        }
        Ok(subscription)
    }
}

impl Drop for Subscription<'_> {
    /// On a broken connection the remote half of each call fails. The local half, which frees our
    /// data and the callback's reference to the connection, comes first, so errors do not matter
    /// (`remoteConnectDomainEventDeregisterAny` in libvirt's src/remote/remote_driver.c).
    fn drop(&mut self) {
        for id in &self.ids {
            // SAFETY: the connection is open until `self.connect` is closed, which the borrow
            // forbids, and the id is one that this connection gave.
            unsafe { sys::virConnectDomainEventDeregisterAny(self.connect.as_ptr(), *id) };
        }
        // SAFETY: as above; the function is the one registered.
        unsafe { sys::virConnectUnregisterCloseCallback(self.connect.as_ptr(), Some(on_close)) };
    }
}

/// Asks the guest to let go of the device with this alias, and does not wait.
pub(crate) fn detach_by_alias(domain: &Domain, alias: &str) -> Result<(), Error> {
    let alias = CString::new(alias).expect("an alias of ours has no NUL: it is made of a NIC id");
    // SAFETY: the domain is a live handle, the alias a NUL-terminated string that outlives the
    // call.
    let result = unsafe {
        sys::virDomainDetachDeviceAlias(
            domain.as_ptr(),
            alias.as_ptr(),
            sys::VIR_DOMAIN_AFFECT_LIVE,
        )
    };
    if result < 0 {
        Err(Error::last_error())
    } else {
        Ok(())
    }
}

fn register_close(connect: &Connect, listener: &Shared) -> Result<(), Error> {
    let data = into_raw(listener);
    // SAFETY: the connection is open; `data` is a boxed `Shared`, which `on_close` reads and
    // `release` frees, and belongs to libvirt once this succeeds.
    let result = unsafe {
        sys::virConnectRegisterCloseCallback(connect.as_ptr(), Some(on_close), data, Some(release))
    };
    if result < 0 {
        let error = Error::last_error();
        // SAFETY: libvirt did not take `data`.
        unsafe { release(data) };
        return Err(error);
    }
    Ok(())
}

fn register(
    connect: &Connect,
    event: sys::virDomainEventID,
    callback: GenericCallback,
    listener: &Shared,
) -> Result<c_int, Error> {
    let event = c_int::try_from(event).expect("libvirt's event ids are below 100");
    let data = into_raw(listener);
    // SAFETY: the connection is open; no domain means all of them; `callback` has in truth the
    // type that libvirt documents for this event; `data` as in `register_close`.
    let id = unsafe {
        sys::virConnectDomainEventRegisterAny(
            connect.as_ptr(),
            std::ptr::null_mut(),
            event,
            Some(callback),
            data,
            Some(release),
        )
    };
    if id < 0 {
        let error = Error::last_error();
        // SAFETY: libvirt did not take `data`.
        unsafe { release(data) };
        return Err(error);
    }
    Ok(id)
}

/// Every event with the function for it, all cast to the one type by which libvirt takes them
/// (`VIR_DOMAIN_EVENT_CALLBACK` in its header does the same).
fn domain_callbacks() -> [(sys::virDomainEventID, GenericCallback); 4] {
    type Lifecycle = unsafe extern "C" fn(
        sys::virConnectPtr,
        sys::virDomainPtr,
        c_int,
        c_int,
        *mut c_void,
    ) -> c_int;
    type Device =
        unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *const c_char, *mut c_void);
    // SAFETY: function pointers of equal size; libvirt casts each back to the type of its event
    // before it calls it.
    let generic_device =
        |callback: Device| unsafe { std::mem::transmute::<Device, GenericCallback>(callback) };
    // SAFETY: as above.
    let lifecycle =
        unsafe { std::mem::transmute::<Lifecycle, GenericCallback>(on_lifecycle as Lifecycle) };
    [
        (sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle),
        (sys::VIR_DOMAIN_EVENT_ID_REBOOT, on_reboot),
        (
            sys::VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED,
            generic_device(on_device_removed),
        ),
        (
            sys::VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED,
            generic_device(on_device_removal_failed),
        ),
    ]
}

fn into_raw(listener: &Shared) -> *mut c_void {
    Box::into_raw(Box::new(Arc::clone(listener))).cast()
}

/// libvirt is done with a callback's data.
unsafe extern "C" fn release(data: *mut c_void) {
    // SAFETY: libvirt calls this once for each `data`, which came from `into_raw`.
    drop(unsafe { Box::from_raw(data.cast::<Shared>()) });
}

/// # Safety
/// `data` must come from [`into_raw`] and not be released, `domain` be a live handle.
unsafe fn tell(domain: sys::virDomainPtr, data: *mut c_void, event: DomainEvent) {
    // SAFETY: the caller's promise; the name lives as long as the handle.
    let (listener, name) = unsafe { (&*data.cast::<Shared>(), sys::virDomainGetName(domain)) };
    // SAFETY: a non-null answer is a NUL-terminated string.
    if let Some(name) = unsafe { text(name) } {
        listener.happened(&name, event);
    }
}

/// # Safety
/// `pointer` must be null or a NUL-terminated string.
unsafe fn text(pointer: *const c_char) -> Option<String> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    Some(
        unsafe { CStr::from_ptr(pointer) }
            .to_string_lossy()
            .into_owned(),
    )
}

unsafe extern "C" fn on_lifecycle(
    _connect: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    event: c_int,
    _detail: c_int,
    data: *mut c_void,
) -> c_int {
    let event = match sys::virDomainEventType::try_from(event) {
        Ok(sys::VIR_DOMAIN_EVENT_DEFINED | sys::VIR_DOMAIN_EVENT_UNDEFINED) => DomainEvent::Defined,
        Ok(sys::VIR_DOMAIN_EVENT_STARTED | sys::VIR_DOMAIN_EVENT_STOPPED) => {
            DomainEvent::RunChanged
        }
        _ => DomainEvent::Power,
    };
    // SAFETY: libvirt gives back the data registered and the domain it speaks of.
    unsafe { tell(domain, data, event) };
    0
}

unsafe extern "C" fn on_reboot(
    _connect: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    data: *mut c_void,
) {
    // SAFETY: libvirt gives back the data registered and the domain it speaks of.
    unsafe { tell(domain, data, DomainEvent::Reboot) };
}

unsafe extern "C" fn on_device_removed(
    _connect: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    alias: *const c_char,
    data: *mut c_void,
) {
    // SAFETY: libvirt gives back the data registered, the domain it speaks of and an alias.
    unsafe {
        if let Some(alias) = text(alias) {
            tell(domain, data, DomainEvent::DeviceRemoved(alias));
        }
    }
}

unsafe extern "C" fn on_device_removal_failed(
    _connect: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    alias: *const c_char,
    data: *mut c_void,
) {
    // SAFETY: libvirt gives back the data registered, the domain it speaks of and an alias.
    unsafe {
        if let Some(alias) = text(alias) {
            tell(domain, data, DomainEvent::DeviceRemovalFailed(alias));
        }
    }
}

unsafe extern "C" fn on_close(_connect: sys::virConnectPtr, reason: c_int, data: *mut c_void) {
    let reason = match sys::virConnectCloseReason::try_from(reason) {
        Ok(sys::VIR_CONNECT_CLOSE_REASON_EOF) => "libvirtd closed the connection",
        Ok(sys::VIR_CONNECT_CLOSE_REASON_KEEPALIVE) => "libvirtd did not answer its keepalives",
        _ => "the connection to libvirtd broke",
    };
    // SAFETY: libvirt gives back the data registered.
    unsafe { &*data.cast::<Shared>() }.closed(reason);
}
