//! How a request gets in: the readiness of the inner service, and the answer of the gate.

use std::mem;
use std::task::{Context, Poll};

use crate::in_flight::{Entry, LayerHandle, Slot, arrivals, interest};
use crate::layers::admission::{self, Admission, DrainHandle};
use crate::layers::facts::Facts;
use crate::layers::options::Options;
use crate::log::tell_here;

/// A service's own place at the gate. A clone does not inherit it: neither the readiness of the inner
/// service nor the wait for it are the clone's.
pub(super) struct Entrance {
    pub(super) handle: DrainHandle,
    readiness: Readiness,
    /// Where the task that waits for the inner's readiness is woken when the gate turns. Registered
    /// from a `Pending` to the next `Ready`.
    slot: Slot,
    /// The request that waits is counted, since a shutdown has begun. Only while the slot is registered.
    is_counted: bool,
}

/// What `poll_ready` has said, until the call uses it up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Readiness {
    None,
    /// The inner is ready.
    Inner,
    /// The inner is ready, and the request has waited for that since before draining began.
    Awaited,
    /// The gate was closed, and the request can be refused.
    Refusal,
}

/// What is done while draining with what arrives, and with what has waited since before.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Late {
    /// Requests on a connection: what arrives is served for a while, what has waited to the end.
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

    /// Asks for the readiness of the inner service, where it matters.
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

    /// Has the task woken also when the gate turns: a request that waits counts from the beginning of
    /// a shutdown on, and while paused it is refused, which needs no inner service.
    #[cold]
    fn wait<E>(&mut self, cx: &mut Context<'_>, late: Late) -> Poll<Result<(), E>> {
        self.readiness = Readiness::None;
        let turns = match late == Late::Refused || self.handle.shard.is_shedding() {
            true => interest::CLOSED,
            false => interest::SHEDDING | interest::CLOSED,
        };
        if !self.register(cx, late, turns) {
            // It has turned in between.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Has the task woken at any of `turns`, and counts the request that waits if a shutdown has begun;
    /// `false` if one of them has come already, or nothing is waited for any more.
    fn register(&mut self, cx: &Context<'_>, late: Late, turns: u32) -> bool {
        let shard = &self.handle.shard;
        if !shard.register(&mut self.slot, cx.waker(), turns) {
            return false;
        }
        if late == Late::Served && !self.is_counted && shard.is_shedding() {
            self.is_counted = shard.begin_waiting();
            return self.is_counted;
        }
        true
    }

    /// Asks for readiness while no new request is admitted. Most are refused, which needs no inner
    /// service. It is asked for the requests that are served all the same.
    #[cold]
    #[inline(never)]
    fn poll_ready_closed<E>(
        &mut self,
        cx: &mut Context<'_>,
        late: Late,
        poll_inner: impl FnOnce(&mut Context<'_>) -> Poll<Result<(), E>>,
    ) -> Poll<Result<(), E>> {
        let (shard, options) = (&self.handle.shard, &self.handle.layer.options);
        let is_served = late == Late::Served && shard.is_draining();
        let has_waited = is_served && self.slot.is_registered() && !shard.has_ended();
        let may_wait = has_waited || (is_served && shard.serves_late());
        let asks_inner = may_wait || options.has_exempt_paths();
        let polled = match asks_inner {
            true => poll_inner(cx),
            false => Poll::Pending,
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

    /// Admits one request, if the gate is open and the inner service was found ready. Uses the
    /// readiness up. Whether it `is_exempt` is asked in a lame duck only: probes do not come late.
    #[inline]
    pub(super) fn admit(
        &mut self,
        is_exempt: impl FnOnce(&Options) -> bool,
    ) -> Result<Admission, Refusal> {
        // The inner must not be called unready, whatever the gate says by now.
        let readiness = mem::replace(&mut self.readiness, Readiness::None);
        if readiness != Readiness::Inner {
            return self.admit_special(readiness);
        }
        let inner_is_ready = true;
        let handle = &self.handle;
        let arrived = || {
            if !is_exempt(&handle.layer.options) {
                arrivals::note(&handle.shard);
            }
        };
        let entry = Entry::admit(handle, LayerHandle::share, arrived);
        entry.ok_or(Refusal { inner_is_ready })
    }

    /// Admits a request that has waited since before draining began.
    #[cold]
    fn admit_special(&self, readiness: Readiness) -> Result<Admission, Refusal> {
        let inner_is_ready = readiness == Readiness::Awaited;
        if inner_is_ready {
            let entered = self.handle.shard.enter_awaited();
            let entry = entered.map(|late| Entry::entered(admission::entered(&self.handle, late)));
            return entry.ok_or(Refusal { inner_is_ready });
        }
        if readiness == Readiness::None && !self.handle.shard.is_closed() {
            tell_here!(
                warn,
                "called before it was ready, and refused: call `poll_ready` first"
            );
        }
        Err(Refusal { inner_is_ready })
    }

    /// Lets a request past the closed gate: an exempt one uncounted and uncut, a late one as any other.
    #[cold]
    #[inline(never)]
    pub(super) fn past_the_gate(
        &self,
        refusal: Refusal,
        facts: Facts,
        path: &str,
    ) -> Option<Admission> {
        if !refusal.inner_is_ready {
            return None;
        }
        let (shard, options) = (&self.handle.shard, &self.handle.layer.options);
        if !options.is_exempt(path) {
            let late = shard.enter_late()?;
            arrivals::note(&late);
            return Some(facts.note(Entry::entered(admission::entered(&self.handle, late))));
        }
        let facts = match shard.is_shedding() {
            true => facts,
            false => facts.keeping_connection(), // paused: nobody is asked to leave
        };
        Some(facts.note(Entry::uncounted()))
    }
}

/// A request was not admitted.
pub(super) struct Refusal {
    /// The inner could serve it, if it is exempt or late.
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
            self.stop_waiting();
        }
    }
}
