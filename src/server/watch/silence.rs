//! Whether an HTTP/2 peer has given a sign of life since the goodbye.
//!
//! Nobody can look into hyper's connection. But a peer that is there answers the PING of the goodbye
//! at once, and whatever comes from it wakes the task that polls the connection.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use crate::shutdown::Core;
use crate::sync::{Arc, AtomicBool, Ordering};

/// The silence of a peer, from the goodbye on.
pub(super) struct Silence {
    sign: Arc<Sign>,
    /// Made of `sign`; the connection is polled with it.
    waker: Waker,
    time: Duration,
    /// Something was in flight at the last look.
    was_busy: bool,
    next_look: Pin<Box<Sleep>>,
}

/// Notes that the connection was woken, and wakes its task.
struct Sign {
    was_woken: Arc<AtomicBool>,
    task: Waker,
}

// ===== impl Silence =====

impl Silence {
    /// Begins with the goodbye; `time` is how long a peer may be silent.
    pub(super) fn new(core: &Core, time: Duration, cx: &Context<'_>) -> Self {
        let sign = Arc::new(Sign {
            was_woken: Arc::new(AtomicBool::new(false)),
            task: cx.waker().clone(),
        });
        Self {
            waker: Waker::from(Arc::clone(&sign)),
            sign,
            time,
            was_busy: is_busy(core),
            next_look: Box::pin(sleep(time)),
        }
    }

    /// Returns what to poll the connection with, in the task of `cx`.
    pub(super) fn waker(&mut self, cx: &Context<'_>) -> &Waker {
        if !self.sign.task.will_wake(cx.waker()) {
            self.sign = Arc::new(Sign {
                was_woken: Arc::clone(&self.sign.was_woken),
                task: cx.waker().clone(),
            });
            self.waker = Waker::from(Arc::clone(&self.sign));
        }
        &self.waker
    }

    /// Ready when the peer has been silent for the whole time, and nothing was in flight meanwhile:
    /// what ends then is on its way to the connection, and wakes it a moment later.
    pub(super) fn poll(&mut self, core: &Core, cx: &mut Context<'_>) -> Poll<()> {
        // Relaxed: nothing is published with it; whoever wakes orders it before this poll.
        while !self.sign.was_woken.load(Ordering::Relaxed) {
            ready!(self.next_look.as_mut().poll(cx));
            let is_busy = is_busy(core);
            if !is_busy && !self.was_busy {
                return Poll::Ready(());
            }
            self.was_busy = is_busy;
            self.next_look = Box::pin(sleep(self.time));
        }
        Poll::Pending
    }
}

fn is_busy(core: &Core) -> bool {
    core.gate.in_flight() > 0
}

// ===== impl Sign =====

impl Wake for Sign {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Relaxed: see `Silence::poll`.
        self.was_woken.store(true, Ordering::Relaxed);
        self.task.wake_by_ref();
    }
}
