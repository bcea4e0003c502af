//! The only place that emits log events.
//!
//! A subscriber may panic (`tracing_subscriber::fmt` does when neither stdout nor stderr can be
//! written) or block (a full pipe). Neither may break or delay a shutdown. So events of the
//! controller, the sequence, the signals and the server go through a bounded queue to a separate
//! thread: [`tell!`]. Events of a layer inside a request's span are logged in place:
//! [`tell_here!`]. Panics are contained in both.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use tracing::dispatcher::{self, Dispatch};
use tracing::level_filters::LevelFilter;
use tracing::{Level, warn};

use crate::panic;
use crate::sync::PoisonError;

/// How many events are queued at most; more are dropped and counted.
const CAPACITY: usize = 1024;
/// How long the end of a shutdown waits for queued events.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(100);
/// How long the thread waits for another event before it ends.
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// Logs an event on the log thread, with the subscriber of the calling thread.
///
/// The values of the event are moved to that thread. The event has no parent span. It is not
/// created if no subscriber wants its level.
macro_rules! tell {
    ($level:ident, $($event:tt)+) => {
        if $crate::log::is_wanted($crate::log::level::$level) {
            const TARGET: &str = $crate::log::target(module_path!());
            // Not with the macro of the level: the lowest supported tracing does not accept every
            // field after a target there.
            $crate::log::enqueue(move || ::tracing::event!(target: TARGET, $crate::log::level::$level, $($event)+));
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

struct Line {
    dispatch: Dispatch,
    event: Box<dyn FnOnce() + Send>,
}

struct Queue {
    waiting: VecDeque<Line>,
    /// How many events were dropped since the last one was taken.
    dropped: u64,
    /// When the thread began to log the current line.
    logging_since: Option<Instant>,
    has_thread: bool,
}

static QUEUE: Mutex<Queue> = Mutex::new(Queue {
    waiting: VecDeque::new(),
    dropped: 0,
    logging_since: None,
    has_thread: false,
});
/// Notified when a line was added.
static ADDED: Condvar = Condvar::new();
/// Notified when a line has been logged.
static LOGGED: Condvar = Condvar::new();

thread_local! {
    static IS_LOGGING: Cell<bool> = const { Cell::new(false) };
}

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

pub(crate) fn enqueue(event: impl FnOnce() + Send + 'static) {
    let line = Line {
        dispatch: dispatcher::get_default(Dispatch::clone),
        event: Box::new(event),
    };
    let mut queue = queue();
    if queue.waiting.len() >= CAPACITY {
        queue.dropped += 1;
        drop(queue);
        // It holds foreign values.
        panic::dropped(line);
        return;
    }
    queue.waiting.push_back(line);
    if !queue.has_thread {
        // Without a thread the lines wait for the next attempt.
        queue.has_thread = start_thread().is_ok();
    }
    drop(queue);
    ADDED.notify_one();
}

/// Waits until the queued events have been logged: at most 100 ms, and not behind a line that has
/// already taken longer. Called at the end of a shutdown, after which the process may exit.
pub(crate) fn flush() {
    if IS_LOGGING.get() {
        return;
    }
    let began = Instant::now();
    let mut queue = queue();
    while queue.has_thread && !(queue.waiting.is_empty() && queue.logging_since.is_none()) {
        let since = queue.logging_since.map_or(began, |since| since.min(began));
        let Some(left) = FLUSH_TIMEOUT.checked_sub(since.elapsed()) else {
            return;
        };
        let waited = LOGGED.wait_timeout(queue, left);
        queue = waited.unwrap_or_else(PoisonError::into_inner).0;
    }
}

fn queue() -> MutexGuard<'static, Queue> {
    QUEUE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn start_thread() -> io::Result<()> {
    // Linux truncates names to 15 bytes, so `tower-lifecycle-log` would look like a thread that
    // drives a shutdown.
    let thread = thread::Builder::new().name("lifecycle-log".to_owned());
    thread.spawn(log_lines).map(drop)
}

fn log_lines() {
    IS_LOGGING.set(true);
    while let Some((line, dropped)) = next_line() {
        let Line { dispatch, event } = line;
        if dropped > 0 {
            let warning = || warn!(target: "tower_lifecycle::log", dropped, "the log did not keep up: events were dropped");
            panic::contained(|| dispatcher::with_default(&dispatch, warning));
        }
        panic::contained(|| dispatcher::with_default(&dispatch, event));
        panic::dropped(dispatch);
    }
}

/// Waits for the next line, and returns it with the number of lines dropped before it. Returns
/// `None` if there was no line for a while.
fn next_line() -> Option<(Line, u64)> {
    let mut queue = queue();
    queue.logging_since = None;
    LOGGED.notify_all();
    loop {
        if let Some(line) = queue.waiting.pop_front() {
            queue.logging_since = Some(Instant::now());
            return Some((line, mem::take(&mut queue.dropped)));
        }
        let waited = ADDED.wait_timeout(queue, KEEP_ALIVE);
        let (guard, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        queue = guard;
        if timeout.timed_out() && queue.waiting.is_empty() {
            queue.has_thread = false;
            return None;
        }
    }
}

#[cfg(all(test, not(tower_lifecycle_loom)))]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;
    use crate::sync::{Arc, lock};

    /// All tests share one queue.
    static SERIAL: crate::sync::Mutex<()> = crate::sync::Mutex::new(());

    /// Keeps the thread busy with one line until the sender is dropped.
    fn block() -> mpsc::Sender<()> {
        let (release, blocked) = mpsc::channel::<()>();
        let (started, has_started) = mpsc::channel();
        enqueue(move || {
            started.send(()).ok();
            blocked.recv().ok();
        });
        has_started.recv().expect("the thread has taken the line");
        release
    }

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

    #[test]
    fn what_the_queue_cannot_hold_is_dropped_and_counted() {
        let _serial = lock(&SERIAL);
        let release = block();
        let logged = Arc::new(AtomicUsize::new(0));
        for _ in 0..CAPACITY + 10 {
            let logged = Arc::clone(&logged);
            enqueue(move || {
                // AcqRel: pairs with the Acquire of the assertion below, in addition to the queue's
                // lock.
                logged.fetch_add(1, Ordering::AcqRel);
            });
        }
        assert_eq!(queue().dropped, 10);
        drop(release);
        while !queue().waiting.is_empty() {
            thread::yield_now();
        }
        flush();
        assert_eq!(logged.load(Ordering::Acquire), CAPACITY);
        assert_eq!(queue().dropped, 0, "the number has been logged");
    }

    #[test]
    fn the_end_does_not_wait_behind_a_line_that_blocks() {
        let _serial = lock(&SERIAL);
        let release = block();
        flush();
        let began = Instant::now();
        flush();
        assert!(began.elapsed() < FLUSH_TIMEOUT, "it was waited for already");
        drop(release);
        while queue().logging_since.is_some() {
            thread::yield_now();
        }
    }

    #[test]
    fn the_thread_outlives_lines_that_panic() {
        let _serial = lock(&SERIAL);
        let (logged, is_logged) = mpsc::channel();
        enqueue(|| std::panic::resume_unwind(Box::new("a line")));
        enqueue(move || logged.send(()).expect("the test waits for it"));
        is_logged.recv().expect("the second line is logged");
    }
}
