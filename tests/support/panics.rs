//! Panics that tests cause on purpose.

use std::fmt;
use std::sync::Once;

/// Hides panics that tests cause from stderr. The hook is global, and leaves all other panics
/// alone.
pub fn silence_scripted_panics() {
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

/// An error whose `Display` panics.
#[derive(Debug)]
pub struct Unspeakable;

impl fmt::Display for Unspeakable {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("unspeakable")
    }
}

impl std::error::Error for Unspeakable {}
