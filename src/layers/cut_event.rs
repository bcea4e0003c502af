//! The one event for each request that is cut, although two layers see it: with its name, if it has one.

use std::cell::Cell;

use crate::in_flight::{InFlightStage, Listed};
use crate::log::{millis, tell_here};

thread_local! {
    /// How many of those that were cut have been logged by name on this thread.
    static NAMED: Cell<usize> = const { Cell::new(0) };
}

/// Drops what is cut, and logs that it was, unless that logs it by name.
#[cold]
pub(crate) fn drop_and_tell(stage: InFlightStage, drop: impl FnOnce()) {
    let before = NAMED.get();
    drop();
    if NAMED.get() == before {
        tell_here!(warn, stage = stage.name(), "request cut by the shutdown");
    }
}

/// Notes that a listed request was cut, and logs it by name.
#[cold]
#[inline(never)]
pub(crate) fn tell_by_name(listed: &Listed) {
    if let Some(item) = listed.cut() {
        NAMED.set(NAMED.get().wrapping_add(1));
        tell_here!(
            warn,
            request = &*item.name,
            stage = item.stage.name(),
            age_ms = millis(item.age),
            "request cut by the shutdown"
        );
    }
}
