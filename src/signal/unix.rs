//! SIGTERM and SIGINT.

use std::io;
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag::register_conditional_default;
use signal_hook::iterator::Signals;
use tokio::runtime::Handle;

use super::{Listener, Stop};
use crate::sync::{Arc, AtomicBool, Ordering, PoisonError};

/// Listens in a thread of its own, so that signals are heard also when the runtime is blocked.
///
/// Not with tokio's signals: its handler may run before the one that asks for the default
/// action, and a second signal that is answered at once then kills the process by itself.
pub(super) fn listen(listener: Listener, runtime: &Handle) -> io::Result<Stop> {
    // Before `Signals`: handlers run in the order of their registration, so for each signal
    // the default action has been decided on when the thread hears of it.
    let attention = Attention::pay()?;
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let handle = signals.handle();
    let (in_thread, in_task) = (listener.clone(), listener);
    thread::Builder::new()
        .name("tower-lifecycle-signals".to_owned())
        .spawn(move || {
            let mut first = None;
            for signal in signals.forever() {
                if in_thread.heard(name(signal), &mut first) {
                    break;
                }
            }
        })?;
    runtime.spawn(async move { in_task.ctl.stopped().await });
    Ok(Box::new(move || {
        drop(attention);
        handle.close();
    }))
}

fn name(signal: i32) -> &'static str {
    match signal {
        SIGTERM => "SIGTERM",
        _ => "SIGINT",
    }
}

/// Somebody in this process still has a use for signals. When nobody has, they take their
/// default action, in the signal handler itself: that works also when every thread is blocked.
struct Attention;

/// How many pay attention, and what the signal handler looks at.
struct Attentive {
    count: usize,
    nobody: Option<Arc<AtomicBool>>,
}

static ATTENTIVE: std::sync::Mutex<Attentive> = std::sync::Mutex::new(Attentive {
    count: 0,
    nobody: None,
});

impl Attention {
    fn pay() -> io::Result<Self> {
        let mut attentive = ATTENTIVE.lock().unwrap_or_else(PoisonError::into_inner);
        if attentive.nobody.is_none() {
            let nobody = Arc::new(AtomicBool::new(false));
            for signal in [SIGTERM, SIGINT] {
                register_conditional_default(signal, Arc::clone(&nobody))?;
            }
            attentive.nobody = Some(nobody);
        }
        attentive.count += 1;
        attentive.tell();
        Ok(Self)
    }
}

impl Drop for Attention {
    fn drop(&mut self) {
        let mut attentive = ATTENTIVE.lock().unwrap_or_else(PoisonError::into_inner);
        attentive.count -= 1;
        attentive.tell();
    }
}

impl Attentive {
    fn tell(&self) {
        if let Some(nobody) = &self.nobody {
            // SeqCst: pairs with the load of the same strength in the signal handler.
            nobody.store(self.count == 0, Ordering::SeqCst);
        }
    }
}
