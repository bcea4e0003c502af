//! Admission of requests: the readiness of the inner service, and the state of the gate.

use std::mem;
use std::task::{Context, Poll};

use crate::in_flight::{Entry, Slot, arrivals, interest, runtime_is_ending};
use crate::layers::facts::Facts;
use crate::layers::options::{DrainHandle, Options};
use crate::log::tell_here;

/// The admission state of one service. A clone starts afresh: it takes over neither the readiness of
/// the inner service nor the wait for it.
pub(super) struct Entrance {
    pub(super) handle: DrainHandle,
    readiness: Readiness,
    /// Wakes the task that waits for the inner service when the state of the gate changes. Registered
    /// from a `Pending` until the next `Ready`.
    slot: Slot,
    /// `true` if the waiting request is counted, because a shutdown has begun. Only while the slot is
    /// registered.
    is_counted: bool,
}

/// The result of `poll_ready`, until `call` uses it up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Readiness {
    None,
    /// The inner service is ready.
    Inner,
    /// The inner service is ready. The request has waited for it since before draining began.
    Awaited,
    /// The gate was closed, so the request is refused.
    Refusal,
}

/// How requests are treated that arrive while draining, or that have waited since before.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Late {
    /// Requests on a connection: new ones are served for a while, waiting ones until the drain ends.
    Served,
    /// Work without a connection: both are refused at once.
    Refused,
}

// ===== impl Entrance =====

impl Entrance {
    pub(super) fn new(handle: DrainHandle) -> Self {
        Self {
            handle,
            readiness: Readiness::None,
            slot: Slot::NONE,
            is_counted: false,
        }
    }

    /// Polls the inner service for readiness, unless the request will be refused anyway.
    #[inline]
    pub(super) fn poll_ready<E>(
        &mut self,
        cx: &mut Context<'_>,
        late: Late,
        poll_inner: impl FnOnce(&mut Context<'_>) -> Poll<Result<(), E>>,
    ) -> Poll<Result<(), E>> {
        if self.handle.shard.is_closed() {
            return self.poll_ready_closed(cx, late, poll_inner);
        }
        match poll_inner(cx) {
            Poll::Ready(result) => {
                if self.slot.is_registered() {
                    self.stop_waiting();
                }
                self.readiness = match result {
                    Ok(()) => Readiness::Inner,
                    Err(_) => Readiness::None,
                };
                Poll::Ready(result)
            }
            Poll::Pending => self.wait(cx, late),
        }
    }

    /// Makes a change of the gate wake the task too. A waiting request counts from the beginning of a
    /// shutdown on. While paused it is refused, which does not need the inner service.
    #[cold]
    fn wait<E>(&mut self, cx: &mut Context<'_>, late: Late) -> Poll<Result<(), E>> {
        self.readiness = Readiness::None;
        let interests = if late == Late::Refused || self.handle.shard.is_shedding() {
            interest::CLOSED
        } else {
            interest::SHEDDING | interest::CLOSED
        };
        if !self.register(cx, late, interests) {
            // The gate has changed in the meantime.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Registers the task for `interests`, and counts the waiting request if a shutdown has begun.
    /// Returns `false` if one of them has already come, or if requests may not wait any more.
    fn register(&mut self, cx: &Context<'_>, late: Late, interests: u32) -> bool {
        let shard = self.handle.shard;
        if !shard.register(&mut self.slot, cx.waker(), interests) {
            return false;
        }
        if late == Late::Served && !self.is_counted && shard.is_shedding() {
            self.is_counted = shard.begin_waiting();
            return self.is_counted;
        }
        true
    }

    /// Polls for readiness while no new requests are admitted. Most requests are refused, which does not
    /// need the inner service. It is polled only for requests that may still be served.
    #[cold]
    #[inline(never)]
    fn poll_ready_closed<E>(
        &mut self,
        cx: &mut Context<'_>,
        late: Late,
        poll_inner: impl FnOnce(&mut Context<'_>) -> Poll<Result<(), E>>,
    ) -> Poll<Result<(), E>> {
        let (shard, options) = (self.handle.shard, &self.handle.layer.options);
        let is_served = late == Late::Served && shard.is_draining();
        let has_waited = is_served && self.slot.is_registered() && !shard.has_ended();
        let may_wait = has_waited || (is_served && shard.serves_late());
        let asks_inner = may_wait || options.has_exempt_paths();
        let polled = if asks_inner {
            poll_inner(cx)
        } else {
            Poll::Pending
        };
        self.readiness = match polled {
            Poll::Ready(Ok(())) if has_waited => Readiness::Awaited,
            Poll::Ready(Ok(())) => Readiness::Inner,
            Poll::Pending if may_wait && self.register(cx, late, interest::FORCED) => {
                return Poll::Pending;
            }
            _ => Readiness::Refusal,
        };
        self.stop_waiting();
        Poll::Ready(Ok(()))
    }

    #[cold]
    fn stop_waiting(&mut self) {
        self.handle.shard.deregister(self.slot.take());
        if mem::take(&mut self.is_counted) {
            self.handle.shard.end_waiting();
        }
    }

    /// Stops waiting for a request that is dropped: cut after a force, or killed by the end of its runtime.
    #[cold]
    fn drop_waiting(&mut self) {
        let shard = self.handle.shard;
        if self.is_counted && !shard.is_forced() && runtime_is_ending() {
            self.is_counted = false;
            shard.end_waiting_killed();
        }
        self.stop_waiting();
    }

    /// Admits a request if the gate is open and the inner service was ready. Uses up the readiness.
    ///
    /// `is_exempt` is called only in a lame duck: exempt requests are not counted as late arrivals.
    #[inline]
    pub(super) fn admit(
        &mut self,
        is_exempt: impl FnOnce(&Options) -> bool,
    ) -> Result<Entry, Refusal> {
        // The inner service must not be called before it is ready, whatever the state of the gate.
        let readiness = mem::replace(&mut self.readiness, Readiness::None);
        if readiness != Readiness::Inner {
            return self.admit_special(readiness);
        }
        let inner_is_ready = true;
        let handle = &self.handle;
        let arrived = || {
            if !is_exempt(&handle.layer.options) {
                arrivals::note(handle.shard);
            }
        };
        let entry = Entry::admit(handle.shard, arrived);
        entry.ok_or(Refusal { inner_is_ready })
    }

    /// Admits a request that has waited since before draining began.
    #[cold]
    fn admit_special(&self, readiness: Readiness) -> Result<Entry, Refusal> {
        let inner_is_ready = readiness == Readiness::Awaited;
        if inner_is_ready {
            let entered = self.handle.shard.enter_awaited().map(Entry::entered);
            return entered.ok_or(Refusal { inner_is_ready });
        }
        if readiness == Readiness::None && !self.handle.shard.is_closed() {
            tell_here!(
                warn,
                "request refused: the service was not ready; call `poll_ready` before `call`"
            );
        }
        Err(Refusal { inner_is_ready })
    }

    /// Admits a request although the gate is closed. An exempt request is neither counted nor cut. A
    /// late request is treated like any other.
    #[cold]
    #[inline(never)]
    pub(super) fn admit_late_or_exempt(
        &self,
        refusal: Refusal,
        facts: Facts,
        path: &str,
    ) -> Option<Entry> {
        if !refusal.inner_is_ready {
            return None;
        }
        let (shard, options) = (self.handle.shard, &self.handle.layer.options);
        if !options.is_exempt(path) {
            let late_shard = shard.enter_late()?;
            arrivals::note(late_shard);
            return Some(facts.note(Entry::entered(late_shard)));
        }
        let facts = if shard.is_shedding() {
            facts
        } else {
            facts.keeping_connection() // paused: connections stay open
        };
        Some(facts.note(Entry::uncounted()))
    }
}

/// A request that was not admitted.
pub(super) struct Refusal {
    /// The inner service is ready, so the request can be served if it is exempt or late.
    pub(super) inner_is_ready: bool,
}

impl Clone for Entrance {
    #[inline]
    fn clone(&self) -> Self {
        Self::new(self.handle.clone())
    }
}

impl Drop for Entrance {
    #[inline]
    fn drop(&mut self) {
        if self.slot.is_registered() {
            self.drop_waiting();
        }
    }
}
