//! The queue of events, and the thread that logs them.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tracing::dispatcher::{self, Dispatch};
use tracing::warn;

use crate::panic;
use crate::spawn;
use crate::sync::PoisonError;

/// How many events are queued at most; more are dropped and counted.
const CAPACITY: usize = 1024;
/// How long the end of a shutdown waits for queued events.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(100);
/// How long the thread waits for another event before it ends.
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// Logs one event.
pub(crate) type Event = Box<dyn FnOnce() + Send>;

struct Line {
    dispatch: Dispatch,
    event: Event,
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

/// Calls `event` on the log thread, with the subscriber of the calling thread.
pub(super) fn enqueue(event: Event) {
    let line = Line {
        dispatch: dispatcher::get_default(Dispatch::clone),
        event,
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
    spawn::thread("lifecycle-log", log_lines).map(drop)
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
    use std::thread;

    use super::*;
    use crate::sync::{Arc, lock};

    /// All tests share one queue.
    static SERIAL: crate::sync::Mutex<()> = crate::sync::Mutex::new(());

    /// Keeps the thread busy with one line until the sender is dropped.
    fn block() -> mpsc::Sender<()> {
        let (release, blocked) = mpsc::channel::<()>();
        let (started, has_started) = mpsc::channel();
        enqueue(Box::new(move || {
            started.send(()).ok();
            blocked.recv().ok();
        }));
        has_started.recv().expect("the thread has taken the line");
        release
    }

    #[test]
    fn what_the_queue_cannot_hold_is_dropped_and_counted() {
        let _serial = lock(&SERIAL);
        let release = block();
        let logged = Arc::new(AtomicUsize::new(0));
        for _ in 0..CAPACITY + 10 {
            let logged = Arc::clone(&logged);
            enqueue(Box::new(move || {
                // AcqRel: pairs with the Acquire of the assertion below, in addition to the queue's
                // lock.
                logged.fetch_add(1, Ordering::AcqRel);
            }));
        }
        // More if other tests log meanwhile.
        let dropped = usize::try_from(queue().dropped).expect("a small number");
        assert!(dropped >= 10, "{dropped}");
        drop(release);
        while !queue().waiting.is_empty() {
            thread::yield_now();
        }
        flush();
        let logged = logged.load(Ordering::Acquire);
        assert!(
            logged <= CAPACITY && logged + dropped >= CAPACITY + 10,
            "{logged}"
        );
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
        enqueue(Box::new(|| std::panic::resume_unwind(Box::new("a line"))));
        enqueue(Box::new(move || {
            logged.send(()).expect("the test waits for it")
        }));
        is_logged.recv().expect("the second line is logged");
    }
}
