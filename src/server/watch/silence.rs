//! Detects HTTP/2 peers that do not respond after the GOAWAY.
//!
//! hyper does not expose the state of its connection. But a live peer answers the PING that follows the
//! GOAWAY at once, and any bytes from it wake the task that polls the connection.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use crate::shutdown::Core;
use crate::sync::{Arc, AtomicBool, Ordering};

/// Tracks whether a peer has been silent since the GOAWAY.
pub(super) struct Silence {
    flag: Arc<WakeFlag>,
    /// The waker of `flag`. The connection is polled with it.
    waker: Waker,
    time: Duration,
    /// This is the first period.
    is_first: bool,
    /// Something was in flight at the beginning of this period, or later when the connection was woken.
    was_busy: bool,
    has_responded: bool,
    next_check: Pin<Box<Sleep>>,
}

/// Records that the connection was woken, and wakes its task.
struct WakeFlag {
    was_woken: Arc<AtomicBool>,
    task: Waker,
}

// ===== impl Silence =====

impl Silence {
    /// Starts at the GOAWAY. `time` is how long a peer may be silent.
    pub(super) fn new(core: &Core, time: Duration, cx: &Context<'_>) -> Self {
        let flag = Arc::new(WakeFlag {
            was_woken: Arc::new(AtomicBool::new(false)),
            task: cx.waker().clone(),
        });
        Self {
            waker: Waker::from(Arc::clone(&flag)),
            flag,
            time,
            is_first: true,
            has_responded: false,
            was_busy: is_busy(core),
            next_check: Box::pin(sleep(time)),
        }
    }

    /// Returns the waker to poll the connection with in the task of `cx`.
    pub(super) fn waker(&mut self, cx: &Context<'_>) -> &Waker {
        if !self.flag.task.will_wake(cx.waker()) {
            self.flag = Arc::new(WakeFlag {
                was_woken: Arc::clone(&self.flag.was_woken),
                task: cx.waker().clone(),
            });
            self.waker = Waker::from(Arc::clone(&self.flag));
        }
        &self.waker
    }

    /// Ready when the peer has been silent for a whole period with nothing in flight.
    ///
    /// Work in flight may wake the connection, too, until shortly after its end. So that counts only in the
    /// first period, in which a live peer responds.
    pub(super) fn poll(&mut self, core: &Core, cx: &mut Context<'_>) -> Poll<()> {
        while !self.has_responded {
            let is_busy = is_busy(core);
            // Relaxed: pairs with the store in `WakeFlag::wake_by_ref`. It publishes nothing else, and the
            // wakeup orders it before this poll.
            if self.flag.was_woken.swap(false, Ordering::Relaxed) {
                self.was_busy |= is_busy;
                self.has_responded = self.is_first || !self.was_busy;
                continue;
            }
            ready!(self.next_check.as_mut().poll(cx));
            if !is_busy && !self.was_busy {
                return Poll::Ready(());
            }
            self.is_first = false;
            self.was_busy = is_busy;
            self.next_check = Box::pin(sleep(self.time));
        }
        Poll::Pending
    }
}

fn is_busy(core: &Core) -> bool {
    core.gate.in_flight() > 0
}

// ===== impl WakeFlag =====

impl Wake for WakeFlag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Relaxed: see `Silence::poll`.
        self.was_woken.store(true, Ordering::Relaxed);
        self.task.wake_by_ref();
    }
}
