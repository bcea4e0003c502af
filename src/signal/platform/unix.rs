//! Listening on Unix.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use signal_hook::consts::{SIGHUP, SIGTERM};
use signal_hook::iterator::Signals as SignalIterator;
use signal_hook::low_level::{emulate_default_handler, signal_name};
use tokio::runtime::Handle;

use crate::log::tell;
use crate::shutdown::Start;
use crate::signal::attention::{Attention, HangupWatch};
use crate::signal::choice::Signals;
use crate::signal::killing::killing;
use crate::signal::listener::Listener;
use crate::signal::registrations::register;
use crate::spawn;
use crate::sync::{Arc, Mutex, lock};

/// How long a SIGHUP waits for the signal that begins a shutdown.
const HANGUP_DELAY: Duration = Duration::from_millis(100);
/// How often signals are checked for while a SIGHUP waits.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Listens in a separate thread, so that signals are received even when the runtime is blocked.
///
/// It does not use tokio's signals, because tokio's handler may run before the handler for the default
/// action. If the second signal were handled in between, that same signal would kill the process.
pub(in crate::signal) fn listen(
    listener: Listener,
    signals: &Signals,
    runtime: &Handle,
) -> io::Result<Start> {
    // Registered before the iterator. Handlers run in the order of their registration, so the default
    // action of a signal has been decided on when the thread receives the signal.
    let attention = Attention::listen(&signals.numbers)?;
    let is_chosen = signals.numbers.contains(&SIGHUP);
    let watch = (!is_chosen).then(|| HangupWatch::begin(SIGTERM)).flatten();
    let mut numbers = signals.numbers.clone();
    numbers.extend(watch.is_some().then_some(SIGHUP));
    let received = register(numbers.len(), || SignalIterator::new(&numbers))?;
    let handle = received.handle();
    let (in_thread, in_task) = (listener.clone(), listener);
    let (triggers, absorb_handle) = (signals.numbers.clone(), handle.clone());
    let chosen = signals.numbers.clone();
    let registered = Mutex::new(numbers);
    spawn::thread("tower-lifecycle-signals", move || {
        let was_blocked = unblock(&triggers);
        dispatch(received, &triggers, &in_thread);
        drop(in_thread);
        // If all other threads block the signals, only this thread can receive a third one.
        if was_blocked {
            loop {
                thread::park();
            }
        }
    })?;
    spawn::task(runtime, async move { in_task.ctl.stopped().await });
    Ok(Start {
        stop: Box::new(move || {
            drop((attention, watch));
            handle.close();
        }),
        absorb: Arc::new(move || {
            let absorbed = killing().filter(|signal| !chosen.contains(signal));
            let attention = Attention::absorb(&absorbed.collect::<Vec<_>>());
            // Added only for the log. A signal that cannot be added is absorbed as well.
            let mut registered = lock(&registered);
            for signal in attention.signals() {
                if !registered.contains(&signal) {
                    registered.push(signal);
                    let _ = register(1, || absorb_handle.add_signal(signal));
                }
            }
            Some(Box::new(attention))
        }),
    })
}

/// Passes signals to `listener` until listening stops or the shutdown is forced.
fn dispatch(mut received: SignalIterator, triggers: &[i32], listener: &Listener) {
    let mut first = None;
    let mut hangup_at = None;
    while !received.is_closed() {
        let signals: Vec<i32> = if hangup_at.is_none() {
            received.wait().collect()
        } else {
            thread::sleep(POLL_INTERVAL);
            received.pending().collect()
        };
        // The signals that begin a shutdown come first, so that the others find the shutdown.
        for &signal in signals.iter().filter(|signal| triggers.contains(signal)) {
            if listener.received(name(signal), &mut first) {
                return;
            }
        }
        for &signal in signals.iter().filter(|signal| !triggers.contains(signal)) {
            if signal == SIGHUP {
                hangup_at.get_or_insert_with(Instant::now);
            } else {
                listener.log_ignored(name(signal));
            }
        }
        if HangupWatch::is_used() {
            if hangup_at.take().is_some() {
                listener.log_ignored("SIGHUP");
            }
        } else if hangup_at.is_some_and(|at| at.elapsed() >= HANGUP_DELAY) {
            hangup_at = None;
            hang_up();
        }
    }
}

/// Takes the default action of SIGHUP, unless other code may handle it.
fn hang_up() {
    if HangupWatch::may_be_handled() {
        tell!(debug, "SIGHUP left to another handler");
    } else {
        let _ = emulate_default_handler(SIGHUP);
    }
}

fn name(signal: i32) -> &'static str {
    signal_name(signal).unwrap_or("a signal")
}

/// Unblocks those of `signals` that are blocked in this thread. Returns whether there were any. Other
/// blocked signals stay blocked, because they may be meant for a `sigwait` or a signalfd of the user.
fn unblock(signals: &[i32]) -> bool {
    let Ok(mask) = SigSet::thread_get_mask() else {
        return false;
    };
    let mut own = SigSet::empty();
    for signal in signals.iter().copied().flat_map(Signal::try_from) {
        if mask.contains(signal) {
            own.add(signal);
        }
    }
    own.iter().next().is_some() && own.thread_unblock().is_ok()
}
