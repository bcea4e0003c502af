//! Signals on Unix.

use std::collections::BTreeSet;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use signal_hook::consts::{SIGHUP, SIGTERM};
use signal_hook::iterator::Signals as Heard;
use signal_hook::low_level::{emulate_default_handler, signal_name};
use tokio::runtime::Handle;

use crate::log::tell;
use crate::shutdown::Start;
use crate::signal::attention::{Attention, HangupWatch};
use crate::signal::choice::Signals;
use crate::signal::killing::killing;
use crate::signal::listener::Listener;
use crate::signal::registrations::ours;
use crate::sync::{Arc, Mutex, lock};

/// How soon a stop has to come after a SIGHUP that is to be a part of it.
const TOGETHER: Duration = Duration::from_millis(100);
const LOOK: Duration = Duration::from_millis(5);

/// Listens in a thread of its own, so that signals are heard also when the runtime is blocked.
///
/// Not with tokio's signals: its handler may run before the one that asks for the default
/// action, and a second signal that is answered at once then kills the process by itself.
pub(in crate::signal) fn listen(
    listener: Listener,
    signals: &Signals,
    runtime: &Handle,
) -> io::Result<Start> {
    // Before `Heard`: handlers run in the order of their registration, so for each signal
    // the default action has been decided on when the thread hears of it.
    let attention = Attention::pay(&signals.numbers)?;
    let is_chosen = signals.numbers.contains(&SIGHUP);
    let watch = (!is_chosen).then(|| HangupWatch::begin(SIGTERM)).flatten();
    let mut numbers = signals.numbers.clone();
    numbers.extend(watch.is_some().then_some(SIGHUP));
    let heard = ours(numbers.len(), || Heard::new(&numbers))?;
    let handle = heard.handle();
    let (in_thread, in_task) = (listener.clone(), listener);
    let (begins, others) = (signals.numbers.clone(), handle.clone());
    let chosen = signals.numbers.clone();
    let heeded = Mutex::new(numbers);
    thread::Builder::new()
        .name("tower-lifecycle-signals".to_owned())
        .spawn(move || {
            let was_blocked = unblock(&begins);
            hear(heard, &begins, &in_thread);
            drop(in_thread);
            // Where all other threads block them, a third signal has only this one to come to.
            if was_blocked {
                loop {
                    thread::park();
                }
            }
        })?;
    runtime.spawn(async move { in_task.ctl.stopped().await });
    Ok(Start {
        stop: Box::new(move || {
            drop((attention, watch));
            handle.close();
        }),
        absorb: Arc::new(move || {
            let absorbed = killing().filter(|signal| !chosen.contains(signal));
            let attention = Attention::absorb(&absorbed.collect());
            // To be told of; one that cannot be added is absorbed all the same.
            let mut heeded = lock(&heeded);
            for signal in attention.signals() {
                if heeded.insert(signal) {
                    let _ = ours(1, || others.add_signal(signal));
                }
            }
            Some(Box::new(attention))
        }),
    })
}

/// Passes on what is heard, until nobody listens any more or the shutdown is forced.
fn hear(mut heard: Heard, begins: &BTreeSet<i32>, listener: &Listener) {
    let mut first = None;
    let mut hangup_at = None;
    while !heard.is_closed() {
        let signals: BTreeSet<i32> = if hangup_at.is_none() {
            heard.wait().collect()
        } else {
            thread::sleep(LOOK);
            heard.pending().collect()
        };
        // A stop first, so that what has come with it finds a shutdown.
        for &signal in signals.intersection(begins) {
            if listener.heard(name(signal), &mut first) {
                return;
            }
        }
        for &signal in signals.difference(begins) {
            if signal == SIGHUP {
                hangup_at.get_or_insert_with(Instant::now);
            } else {
                listener.ignored(name(signal));
            }
        }
        if HangupWatch::is_used() {
            if hangup_at.take().is_some() {
                listener.ignored("SIGHUP");
            }
        } else if hangup_at.is_some_and(|at| at.elapsed() >= TOGETHER) {
            hangup_at = None;
            hang_up();
        }
    }
}

/// Has SIGHUP do what it does to a program that does not listen.
fn hang_up() {
    if HangupWatch::may_be_handled() {
        tell!(debug, "SIGHUP left to whoever may handle it");
    } else {
        let _ = emulate_default_handler(SIGHUP);
    }
}

fn name(signal: i32) -> &'static str {
    signal_name(signal).unwrap_or("a signal")
}

/// Has this thread take those of `signals` that its parent had blocked; returns whether there were any.
/// What else is blocked may be meant for a `sigwait` or a signalfd of the user's.
fn unblock(signals: &BTreeSet<i32>) -> bool {
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
