//! Panics that are part of a plan.

use std::fmt;
use std::sync::Once;

/// What is planned is not worth a word on stderr. The hook is the whole program's, and leaves all
/// other panics as they are.
pub fn hush_scripted_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.payload().downcast_ref() != Some(&"scripted") {
                hook(info);
            }
        }));
    });
}

/// An error that cannot be shown.
#[derive(Debug)]
pub struct Unspeakable;

impl fmt::Display for Unspeakable {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("unspeakable")
    }
}

impl std::error::Error for Unspeakable {}
