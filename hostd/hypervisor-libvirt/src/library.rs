//! libvirt.so, loaded by whoever connects to a libvirtd.
//!
//! ```text
//!   load ──► libvirt.so and sixty libraries behind it ──► each function found ──► calls reach it
//! ```
//!
//! Linked as usual, it would be loaded with every hostd: 11 MiB of memory (9.0.0, measured) also
//! where each VM is reached over QMP, and no start on a host without libvirt. So what is called of
//! it is defined here and passes the call on; with that the linker needs the library no more. What
//! is forgotten here the linker takes from the library itself, which `tests/loading.rs` would see.
#![expect(unsafe_code, reason = "functions of C are found by name and called")]
#![expect(non_snake_case, reason = "they are called as in libvirt")]

use std::error::Error;
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use virt_sys::{
    virConnectCloseFunc, virConnectDomainEventGenericCallback, virConnectPtr, virDomainPtr,
    virErrorFunc, virErrorPtr, virFreeCallback,
};

/// Its name since its first release; a new one would mean another binary interface.
const NAME: &str = "libvirt.so.0";

/// Has the library use its own functions, not those that are called as they are here
/// (`RTLD_DEEPBIND` of dlopen(3)): it must not need what is only just being found.
const ITS_OWN_FIRST: c_int = 0x8;

static FUNCTIONS: OnceLock<Result<Functions, String>> = OnceLock::new();

/// Loads libvirt unless it is loaded: before anything else of it is called.
///
/// # Errors
/// When it is not installed, or is older than what is called of it.
pub(crate) fn load() -> Result<(), String> {
    let loaded = FUNCTIONS.get_or_init(|| find(NAME).map_err(|error| in_full(&error)));
    loaded.as_ref().map(drop).map_err(Clone::clone)
}

/// The cause alone names the library, and what it does not have.
fn in_full(error: &libloading::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

fn find(name: &str) -> Result<Functions, libloading::Error> {
    // SAFETY: what libvirt and the libraries behind it do when they are loaded may be done at any
    // time and on any thread: programs load it as a plugin (Python's bindings do).
    let library = unsafe { Library::open(Some(name), RTLD_NOW | RTLD_LOCAL | ITS_OWN_FIRST) }?;
    let functions = Functions::find_in(&library);
    // Never unloaded: it has threads, and its functions are kept.
    std::mem::forget(library);
    functions
}

fn functions() -> &'static Functions {
    let found = FUNCTIONS.get().and_then(|found| found.as_ref().ok());
    found.expect("libvirt is loaded before the first connection")
}

macro_rules! passed_on {
    ($(fn $name:ident($($argument:ident: $kind:ty),*) $(-> $result:ty)?;)*) => {
        struct Functions {
            $($name: unsafe extern "C" fn($($kind),*) $(-> $result)?,)*
        }

        impl Functions {
            fn find_in(library: &Library) -> Result<Self, libloading::Error> {
                Ok(Self {
                    // SAFETY: of that name libvirt has a function of that type.
                    $($name: unsafe { *library.get(stringify!($name).as_bytes())? },)*
                })
            }
        }

        $(
            const _: unsafe extern "C" fn($($kind),*) $(-> $result)? = virt_sys::$name;

            // SAFETY: it is what libvirt itself defines by that name.
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name($($argument: $kind),*) $(-> $result)? {
                // SAFETY: whoever calls it keeps what libvirt demands.
                unsafe { (functions().$name)($($argument),*) }
            }
        )*
    };
}

passed_on! {
    fn virConnectClose(connect: virConnectPtr) -> c_int;
    fn virConnectDomainEventDeregisterAny(connect: virConnectPtr, id: c_int) -> c_int;
    fn virConnectDomainEventRegisterAny(
        connect: virConnectPtr, domain: virDomainPtr, event: c_int,
        callback: virConnectDomainEventGenericCallback, data: *mut c_void, free: virFreeCallback
    ) -> c_int;
    fn virConnectIsAlive(connect: virConnectPtr) -> c_int;
    fn virConnectListAllDomains(
        connect: virConnectPtr, domains: *mut *mut virDomainPtr, flags: c_uint
    ) -> c_int;
    fn virConnectOpen(name: *const c_char) -> virConnectPtr;
    fn virConnectRegisterCloseCallback(
        connect: virConnectPtr, callback: virConnectCloseFunc, data: *mut c_void,
        free: virFreeCallback
    ) -> c_int;
    fn virConnectSetKeepAlive(connect: virConnectPtr, interval: c_int, count: c_uint) -> c_int;
    fn virConnectUnregisterCloseCallback(
        connect: virConnectPtr, callback: virConnectCloseFunc
    ) -> c_int;
    fn virDomainAttachDeviceFlags(
        domain: virDomainPtr, xml: *const c_char, flags: c_uint
    ) -> c_int;
    fn virDomainDetachDeviceAlias(
        domain: virDomainPtr, alias: *const c_char, flags: c_uint
    ) -> c_int;
    fn virDomainFree(domain: virDomainPtr) -> c_int;
    fn virDomainGetName(domain: virDomainPtr) -> *const c_char;
    fn virDomainGetState(
        domain: virDomainPtr, state: *mut c_int, reason: *mut c_int, flags: c_uint
    ) -> c_int;
    fn virDomainGetXMLDesc(domain: virDomainPtr, flags: c_uint) -> *mut c_char;
    fn virDomainLookupByName(connect: virConnectPtr, name: *const c_char) -> virDomainPtr;
    fn virDomainSetMetadata(
        domain: virDomainPtr, kind: c_int, metadata: *const c_char, key: *const c_char,
        uri: *const c_char, flags: c_uint
    ) -> c_int;
    fn virDomainUpdateDeviceFlags(
        domain: virDomainPtr, xml: *const c_char, flags: c_uint
    ) -> c_int;
    fn virEventRegisterDefaultImpl() -> c_int;
    fn virEventRunDefaultImpl() -> c_int;
    fn virGetLastError() -> virErrorPtr;
    fn virSetErrorFunc(data: *mut c_void, handler: virErrorFunc);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_loaded_is_named() {
        for (name, missing) in [
            ("libnosuchthing.so.0", "libnosuchthing.so.0"),
            ("libc.so.6", "virConnectClose"),
        ] {
            let error = find(name).err().expect("it is not libvirt");

            let told = in_full(&error);
            assert!(told.contains(missing), "{told}");
        }
    }
}
