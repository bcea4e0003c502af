//! The guard: one unit of work in flight.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::arrivals;
use crate::gate::{Book, Shard, interest};
use crate::sync::Arc;
use crate::wakers::Slot;

/// Keeps one unit of work in flight until it is dropped.
///
/// The layers take one for each request; [`ShutdownController::track`] and
/// [`ShutdownController::try_admit`] hand one out for work that is not a tower call: a consumer
/// loop, a WebSocket task, a job. Dropping it is the only way to end it, and happens once on every
/// path, a panic included.
///
/// A guard may be sent to other threads, and may outlive every service and every clone of the
/// controller. It is not promised that the work has left the machine when its guard is dropped: a
/// server may still be flushing (see [`ShutdownController::run`]).
///
/// # Examples
///
/// ```
/// use tower_lifecycle::ShutdownController;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let ctl = ShutdownController::new();
/// let guard = ctl.track();
/// let consumer = tokio::spawn(async move {
///     let mut tick = tokio::time::interval(std::time::Duration::from_millis(1));
///     loop {
///         tokio::select! {
///             () = guard.draining() => break, // finish the batch, then let the guard go
///             _ = tick.tick() => { /* take the next message */ }
///         }
///     }
/// });
/// let report = ctl.shutdown(tower_lifecycle::ShutdownReason::Manual).await;
/// consumer.await.unwrap();
/// assert!(report.is_graceful());
/// # }
/// ```
///
/// [`ShutdownController::track`]: crate::ShutdownController::track
/// [`ShutdownController::try_admit`]: crate::ShutdownController::try_admit
/// [`ShutdownController::run`]: crate::ShutdownController::run
#[must_use = "dropping the guard ends the work that it counts"]
pub struct InFlightGuard {
    shard: Arc<Shard>,
    /// Where the request's own waker is registered, from its first `Pending` on.
    slot: Slot,
    book: Book,
}

/// The future of [`InFlightGuard::draining`] and [`InFlightGuard::forced`].
///
/// It is `Unpin`, so one can be polled by reference all through a loop.
///
/// # Examples
///
/// ```
/// use tower_lifecycle::{ShutdownController, ShutdownReason};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let ctl = ShutdownController::new();
/// let guard = ctl.track();
/// let mut draining = guard.draining();
/// let mut batches = 0;
/// loop {
///     tokio::select! {
///         biased;
///         () = &mut draining => break,
///         () = async {} => batches += 1, // work
///     }
///     if batches == 3 {
///         ctl.trigger(ShutdownReason::Manual);
///     }
/// }
/// assert_eq!(batches, 3);
/// # }
/// ```
#[must_use = "futures do nothing unless polled"]
pub struct GuardWait<'a> {
    shard: &'a Shard,
    slot: Slot,
    interests: u32,
}

// ===== impl InFlightGuard =====

impl InFlightGuard {
    /// Enters unless the gate is closed. In a lame duck it is noted as a late arrival.
    #[inline]
    pub(crate) fn admit(shard: &Arc<Shard>) -> Option<Self> {
        Self::admit_request(shard, || false)
    }

    /// As [`admit`](Self::admit), but not noted if it `is_exempt`, which is asked in a lame duck
    /// only.
    #[inline]
    pub(crate) fn admit_request(
        shard: &Arc<Shard>,
        is_exempt: impl FnOnce() -> bool,
    ) -> Option<Self> {
        let arrived = || {
            if !is_exempt() {
                arrivals::note(shard);
            }
        };
        let admitted = shard.enter(arrived);
        admitted.then(|| Self::counted(shard, Book::Shard))
    }

    /// Enters, whatever the gate says. It is never noted as a late arrival: what is not a request is
    /// not the load balancer's.
    #[inline]
    pub(crate) fn track(shard: &Arc<Shard>) -> Self {
        let book = shard.enter_always(|| ());
        Self::counted(shard, book)
    }

    /// As [`track`](Self::track), for a request: in a lame duck it is noted as a late arrival.
    #[inline]
    pub(crate) fn track_request(shard: &Arc<Shard>) -> Self {
        let book = shard.enter_always(|| arrivals::note(shard));
        Self::counted(shard, book)
    }

    #[inline]
    fn counted(shard: &Arc<Shard>, book: Book) -> Self {
        Self {
            shard: Arc::clone(shard),
            slot: Slot::NONE,
            book,
        }
    }

    /// Resolves when draining has begun: the work should come to its end.
    ///
    /// A lame duck comes before that, and is none of the guard's concern.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing; a later call resolves at once if draining has begun.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::{ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// let guard = ctl.track();
    /// let stream = tokio::spawn(async move {
    ///     guard.draining().await;
    ///     "goodbye" // to the client; then the guard is dropped
    /// });
    ///
    /// ctl.shutdown(ShutdownReason::Manual).await;
    /// assert_eq!(stream.await.unwrap(), "goodbye");
    /// # }
    /// ```
    pub fn draining(&self) -> GuardWait<'_> {
        self.wait_for(interest::DRAINING)
    }

    /// Resolves when admitted work is cut: the guard should be dropped now.
    ///
    /// The guard is not taken away. Work that keeps it is waited for shortly and reported as
    /// [abandoned](crate::ShutdownReport::abandoned). It does not resolve in a shutdown that ends
    /// without a force.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing; a later call resolves at once if force has come.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::future::pending;
    /// use tower_lifecycle::ShutdownController;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// let guard = ctl.track();
    /// let job = tokio::spawn(async move {
    ///     tokio::select! {
    ///         () = guard.forced() => "cut",
    ///         () = pending() => "finished", // the work, which never ends
    ///     }
    /// });
    ///
    /// ctl.force();
    /// assert_eq!(job.await.unwrap(), "cut");
    /// # }
    /// ```
    pub fn forced(&self) -> GuardWait<'_> {
        self.wait_for(interest::FORCED)
    }

    fn wait_for(&self, interests: u32) -> GuardWait<'_> {
        GuardWait {
            shard: &self.shard,
            slot: Slot::NONE,
            interests,
        }
    }

    #[inline]
    pub(crate) fn is_shedding(&self) -> bool {
        self.shard.is_shedding()
    }

    #[inline]
    pub(crate) fn is_forced(&self) -> bool {
        self.shard.is_forced()
    }

    /// Ready once force has come; else the task is woken when it comes.
    #[inline(never)]
    pub(crate) fn poll_forced(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let registered = self
            .shard
            .register(&mut self.slot, cx.waker(), interest::FORCED);
        if registered {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }

    /// Notes that what this guard counts is being cut.
    pub(crate) fn note_aborted(&self) {
        self.shard.note_aborted();
    }
}

impl Drop for InFlightGuard {
    #[inline]
    fn drop(&mut self) {
        if self.slot.is_registered() {
            self.shard.deregister(&mut self.slot);
        }
        self.shard.leave(self.book);
    }
}

impl fmt::Debug for InFlightGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InFlightGuard")
            .field("draining", &self.shard.is_draining())
            .field("forced", &self.shard.is_forced())
            .finish_non_exhaustive()
    }
}

// ===== impl GuardWait =====

impl Future for GuardWait<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if this
            .shard
            .register(&mut this.slot, cx.waker(), this.interests)
        {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }
}

impl Drop for GuardWait<'_> {
    fn drop(&mut self) {
        self.shard.deregister(&mut self.slot);
    }
}

impl fmt::Debug for GuardWait<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardWait").finish_non_exhaustive()
    }
}
