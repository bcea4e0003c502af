//! How a request gets in: the readiness of the inner service, and the answer of the gate.

use std::mem;
use std::task::{Context, Poll};

use tracing::warn;

use crate::arrivals;
use crate::facts::Facts;
use crate::gate::interest;
use crate::guard::Entry;
use crate::layer_shard::{LayerHandle, LayerShard};
use crate::reject::{Admission, Options};
use crate::wakers::Slot;

/// A service's own place at the gate. Not inherited by a clone: neither the inner's readiness nor
/// the wait for it are.
pub(super) struct Entrance {
    pub(super) handle: LayerHandle<Options>,
    readiness: Readiness,
    /// Where the task that waits for the inner's readiness is to be woken when draining begins.
    waiting: Slot,
}

/// What `poll_ready` has said, until the call uses it up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Readiness {
    None,
    /// The inner is ready.
    Inner,
    /// The gate was closed, and the request can be refused.
    Refusal,
}

// ===== impl Entrance =====

impl Entrance {
    pub(super) fn new(handle: LayerHandle<Options>) -> Self {
        Self {
            handle,
            readiness: Readiness::None,
            waiting: Slot::NONE,
        }
    }

    /// Asks for the readiness of the inner service, where it matters.
    ///
    /// While draining there is nothing to wait for: most requests are refused, which needs no inner
    /// service, and for the exempt ones it is noted whether the inner happens to be ready.
    #[inline]
    pub(super) fn poll_ready<E>(
        &mut self,
        cx: &mut Context<'_>,
        poll_inner: impl FnOnce(&mut Context<'_>) -> Poll<Result<(), E>>,
    ) -> Poll<Result<(), E>> {
        if self.handle.shard.is_closed() {
            let asks_inner = self.handle.options.has_exempt_paths();
            self.readiness = match asks_inner && matches!(poll_inner(cx), Poll::Ready(Ok(()))) {
                true => Readiness::Inner,
                false => Readiness::Refusal,
            };
            return Poll::Ready(Ok(()));
        }
        match poll_inner(cx) {
            Poll::Ready(result) => {
                self.readiness = match result {
                    Ok(()) => Readiness::Inner,
                    Err(_) => Readiness::None,
                };
                Poll::Ready(result)
            }
            Poll::Pending => self.wait(cx),
        }
    }

    /// Has the task woken also when draining begins, since a refusal needs no inner service.
    #[cold]
    fn wait<E>(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), E>> {
        self.readiness = Readiness::None;
        let Self {
            handle, waiting, ..
        } = self;
        if handle.shard.register(waiting, cx.waker(), interest::CLOSED) {
            return Poll::Pending;
        }
        self.readiness = Readiness::Refusal;
        Poll::Ready(Ok(()))
    }

    /// Admits one request, if the gate is open and the inner service was found ready. Uses the
    /// readiness up. Whether it `is_exempt` is asked in a lame duck only: probes do not come late.
    #[inline]
    pub(super) fn admit(
        &mut self,
        is_exempt: impl FnOnce(&Options) -> bool,
    ) -> Result<Admission, Refusal> {
        if self.waiting.is_registered() {
            self.handle.shard.deregister(self.waiting.take());
        }
        // The inner must not be called unready, whatever the gate says by now.
        let readiness = mem::replace(&mut self.readiness, Readiness::None);
        if readiness != Readiness::Inner {
            return Err(self.unready(readiness));
        }
        let inner_is_ready = true;
        let handle = &self.handle;
        let arrived = || {
            if !is_exempt(&handle.options) {
                arrivals::note(&handle.shard);
            }
        };
        let entry = Entry::admit(handle, LayerHandle::share, arrived);
        entry.ok_or(Refusal { inner_is_ready })
    }

    /// Lets an exempt request past the closed gate: uncounted and uncut.
    #[cold]
    #[inline(never)]
    pub(super) fn past_the_gate(
        &self,
        refusal: Refusal,
        facts: Facts,
        path: &str,
    ) -> Option<Admission> {
        let LayerShard { shard, options, .. } = &*self.handle;
        if !(refusal.inner_is_ready && options.is_exempt(path)) {
            return None;
        }
        let facts = match shard.is_shedding() {
            true => facts,
            false => facts.keeping_connection(), // paused: nobody is asked to leave
        };
        Some(facts.note(Entry::uncounted()))
    }

    #[cold]
    fn unready(&self, readiness: Readiness) -> Refusal {
        if readiness == Readiness::None && !self.handle.shard.is_closed() {
            warn!("called before it was ready, and refused: call `poll_ready` first");
        }
        let inner_is_ready = false;
        Refusal { inner_is_ready }
    }
}

/// A request was not admitted.
pub(super) struct Refusal {
    /// The inner could serve it, if it is exempt.
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
        if self.waiting.is_registered() {
            self.handle.shard.deregister(self.waiting.take());
        }
    }
}
