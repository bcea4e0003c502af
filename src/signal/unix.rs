//! Signals on Unix.

use std::collections::BTreeSet;
use std::io;
use std::thread;

use nix::sys::signal::{SigSet, Signal};
use signal_hook::iterator::Signals as Heard;
use signal_hook::low_level::signal_name;
use tokio::runtime::Handle;

use super::attention::Attention;
use super::killing::killing;
use super::{Listener, Signals, Start};
use crate::sync::Arc;

/// Listens in a thread of its own, so that signals are heard also when the runtime is blocked.
///
/// Not with tokio's signals: its handler may run before the one that asks for the default
/// action, and a second signal that is answered at once then kills the process by itself.
pub(super) fn listen(listener: Listener, signals: &Signals, runtime: &Handle) -> io::Result<Start> {
    // Before `Heard`: handlers run in the order of their registration, so for each signal
    // the default action has been decided on when the thread hears of it.
    let attention = Attention::pay(&signals.numbers)?;
    let mut heard = Heard::new(&signals.numbers)?;
    let handle = heard.handle();
    let (in_thread, in_task) = (listener.clone(), listener);
    let (begins, others) = (signals.numbers.clone(), handle.clone());
    let chosen = signals.numbers.clone();
    thread::Builder::new()
        .name("tower-lifecycle-signals".to_owned())
        .spawn(move || {
            let was_blocked = unblock(&begins);
            let mut first = None;
            for signal in heard.forever() {
                let name = signal_name(signal).unwrap_or("a signal");
                if !begins.contains(&signal) {
                    in_thread.ignored(name);
                } else if in_thread.heard(name, &mut first) {
                    break;
                }
            }
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
            drop(attention);
            handle.close();
        }),
        absorb: Arc::new(move || {
            let absorbed = killing().filter(|signal| !chosen.contains(signal));
            let attention = Attention::absorb(&absorbed.collect());
            // To be told of; one that cannot be added is absorbed all the same.
            for signal in attention.signals() {
                let _ = others.add_signal(signal);
            }
            Some(Box::new(attention))
        }),
    })
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
