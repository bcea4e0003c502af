//! The only place that emits log events.
//!
//! A subscriber may panic (`tracing_subscriber::fmt` does when neither stdout nor stderr can be
//! written) or block (a full pipe). Neither may break or delay a shutdown. So events of the
//! controller, the sequence, the signals and the server go through a bounded queue to a separate
//! thread: [`tell!`]. Events of a layer inside a request's span are logged in place:
//! [`tell_here!`]. Panics are contained in both.

mod queue;
mod spans;

pub(crate) use self::queue::{Event, flush};
pub(crate) use self::spans::Spans;

use std::time::Duration;

use tracing::Level;
use tracing::level_filters::LevelFilter;

/// Logs an event on the log thread, with the subscriber of the calling thread.
///
/// The values of the event are moved to that thread. Inside [`Spans::in_scope`], its parent is the phase of
/// the shutdown. It is not created if no subscriber wants its level.
macro_rules! tell {
    ($level:ident, $($event:tt)+) => {
        if $crate::log::is_wanted($crate::log::level::$level) {
            const TARGET: &str = $crate::log::target(module_path!());
            // Not with the macro of the level: the lowest supported tracing does not accept every
            // field after a target there.
            $crate::log::enqueue(::std::boxed::Box::new(
                move || ::tracing::event!(target: TARGET, $crate::log::level::$level, $($event)+),
            ));
        }
    };
}

/// Logs an event in place, in the current span. The subscriber may block the caller.
macro_rules! tell_here {
    ($level:ident, $($event:tt)+) => {{
        const TARGET: &str = $crate::log::target(module_path!());
        $crate::panic::contained(|| ::tracing::event!(target: TARGET, $crate::log::level::$level, $($event)+));
    }};
}

pub(crate) use {tell, tell_here};

/// Returns the log target of a module. The targets are few, and do not change when a module is
/// moved.
pub(crate) const fn target(module: &str) -> &'static str {
    const TARGETS: &[(&str, &str)] = &[
        ("controller::supervised", "tower_lifecycle::tasks"),
        ("layers", "tower_lifecycle::layer"),
        ("restart", "tower_lifecycle::restart"),
        ("server", "tower_lifecycle::server"),
        ("shutdown::sequence::admin", "tower_lifecycle::tasks"),
        ("shutdown::sequence::workers", "tower_lifecycle::tasks"),
        ("shutdown::services", "tower_lifecycle::startup"),
        ("signal", "tower_lifecycle::signal"),
        ("startup", "tower_lifecycle::startup"),
        ("systemd", "tower_lifecycle::systemd"),
    ];
    let mut n = 0;
    while n < TARGETS.len() {
        if is_in(module, TARGETS[n].0) {
            return TARGETS[n].1;
        }
        n += 1;
    }
    "tower_lifecycle::shutdown"
}

/// Returns whether `path` is `tower_lifecycle::part`, or begins with that and `::`.
const fn is_in(path: &str, part: &str) -> bool {
    const ROOT: usize = "tower_lifecycle::".len();
    let (path, part) = (path.as_bytes(), part.as_bytes());
    let end = ROOT + part.len();
    if path.len() < end || (path.len() > end && path[end] != b':') {
        return false;
    }
    let mut n = 0;
    while n < part.len() {
        if path[ROOT + n] != part[n] {
            return false;
        }
        n += 1;
    }
    true
}

/// The levels, named as in the macros.
#[allow(non_upper_case_globals)]
pub(crate) mod level {
    use tracing::Level;

    pub(crate) const debug: Level = Level::DEBUG;
    pub(crate) const info: Level = Level::INFO;
    pub(crate) const warn: Level = Level::WARN;
    pub(crate) const error: Level = Level::ERROR;
}

/// Returns a duration as the log shows it: in milliseconds, to the microsecond.
pub(crate) fn millis(time: Duration) -> f64 {
    time.as_micros() as f64 / 1_000.0
}

/// Returns whether a subscriber may want an event. Without a subscriber, `tracing` may pass events
/// on to the `log` crate. `debug` events are not created for that, because there may be one for
/// each connection.
pub(crate) fn is_wanted(level: Level) -> bool {
    let wanted = LevelFilter::current();
    wanted >= level || (wanted == LevelFilter::OFF && level <= Level::INFO)
}

/// Logs an event on the log thread. Inside [`Spans::in_scope`], its parent is the phase of the shutdown.
///
/// The event is boxed by the caller, so that the code of the queue exists once, and not for each event.
pub(crate) fn enqueue(event: Event) {
    match Spans::current() {
        Some(spans) => queue::enqueue(Box::new(move || spans.log(event))),
        None => queue::enqueue(event),
    }
}

#[cfg(all(test, not(tower_lifecycle_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_module_logs_with_the_target_of_its_part() {
        for (module, part) in [
            ("tower_lifecycle::server::accept", "tower_lifecycle::server"),
            ("tower_lifecycle::layers::drain", "tower_lifecycle::layer"),
            (
                "tower_lifecycle::shutdown::services",
                "tower_lifecycle::startup",
            ),
            (
                "tower_lifecycle::shutdown::servers",
                "tower_lifecycle::shutdown",
            ),
            (
                "tower_lifecycle::controller::supervised",
                "tower_lifecycle::tasks",
            ),
            ("tower_lifecycle", "tower_lifecycle::shutdown"),
        ] {
            assert_eq!(target(module), part, "{module}");
        }
    }
}
