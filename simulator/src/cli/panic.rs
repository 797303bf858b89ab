//! What is said of a panic besides where it was. A released program aborts (`panic = "abort"`), so
//! nobody is left to report it: only the hook can tell how to see it again.

use std::panic;

use super::console::complain;

/// Has every panic tell the command that leads to it again, where there is one.
pub(crate) fn before_the_end(again: impl Fn() -> Option<String> + Send + Sync + 'static) {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        usual(info);
        if let Some(again) = again() {
            complain(format_args!("again: {again}"));
        }
    }));
}
