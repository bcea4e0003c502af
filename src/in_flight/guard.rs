//! Guards for one unit of work in flight.

use std::fmt;
use std::future::Future;
use std::mem::ManuallyDrop;
use std::num::NonZeroU32;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::task::{Context, Poll};

use super::arrivals;
use super::ending::runtime_is_ending;
use super::gate::{Shard, interest};
use super::wakers::{Remembered, Slot};

/// Keeps one unit of work in flight until it is dropped.
///
/// The layers take one guard for each request. [`ShutdownController::track`] and
/// [`ShutdownController::try_admit`] return one for work that is not a tower call: a consumer loop,
/// a WebSocket task, a job. Dropping the guard is the only way to end the work that it counts. This
/// happens exactly once on every path, including a panic.
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
///             () = guard.draining() => break, // finish the batch, then drop the guard
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
pub struct InFlightGuard(Entry);

/// The base of every guard: one entry in a shard, until it is dropped.
pub(crate) struct Entry {
    /// `None` if the entry counts nothing: it has left, or it passed a closed gate uncounted. The
    /// entry itself keeps the shard in use.
    shard: Option<&'static Shard>,
    /// The request's own waker, registered from its first `Pending` on.
    slot: Slot,
    /// A note of the owner. It fills what would otherwise be padding, because padding makes the
    /// compiler move a response in uneven pieces. Never zero, so that an enum around it needs no
    /// tag.
    note: NonZeroU32,
}

/// An entry that is usually taken before it is dropped. Its drop is then a single check.
pub(crate) struct Held(ManuallyDrop<Entry>);

/// The future of `draining` and `forced` of an [`InFlightGuard`] and an
/// [`UpgradeGuard`](crate::UpgradeGuard).
///
/// It is `Unpin`, so it can be polled by reference throughout a loop.
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
    /// Enters unless the gate is closed. An entry in a lame duck is noted as a late arrival.
    #[inline]
    pub(crate) fn admit(shard: &'static Shard) -> Option<Self> {
        Entry::admit(shard, || arrivals::note(shard)).map(Self)
    }

    /// Enters even if the gate is closed. Never noted as a late arrival, because the load balancer
    /// does not route work that is not a request.
    #[inline]
    pub(crate) fn track(shard: &'static Shard) -> Self {
        Self(Entry::entered(shard.enter_always(|_| ())))
    }

    fn shard(&self) -> &Shard {
        self.0
            .shard
            .expect("it leads to a shard until it is dropped")
    }

    /// Resolves when draining has begun and the work should finish.
    ///
    /// A lame duck comes before that and does not resolve the future.
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
    ///     "goodbye" // to the client, before the guard is dropped
    /// });
    ///
    /// ctl.shutdown(ShutdownReason::Manual).await;
    /// assert_eq!(stream.await.unwrap(), "goodbye");
    /// # }
    /// ```
    pub fn draining(&self) -> GuardWait<'_> {
        GuardWait::new(self.shard(), interest::DRAINING)
    }

    /// Resolves when admitted work is cut and the guard should be dropped.
    ///
    /// The guard is not revoked. Work that keeps it is waited for briefly and then reported as
    /// [abandoned](crate::ShutdownReport::abandoned). The future does not resolve in a shutdown
    /// that ends without a force.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing; a later call resolves at once if the work has been
    /// forced.
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
        GuardWait::new(self.shard(), interest::FORCED)
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        if self.0.is_shedding() && runtime_is_ending() {
            self.0.leave_killed();
        }
    }
}

impl fmt::Debug for InFlightGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InFlightGuard")
            .field("draining", &self.0.is_draining())
            .field("forced", &self.0.is_forced())
            .finish_non_exhaustive()
    }
}

// ===== impl Entry =====

impl Entry {
    /// Enters unless the gate is closed. Calls `arrived` if it enters in a lame duck.
    #[inline]
    pub(crate) fn admit(shard: &'static Shard, arrived: impl FnOnce()) -> Option<Self> {
        shard.enter(arrived).then(|| Self::entered(shard))
    }

    /// Enters for a request, even if the gate is closed. In a shutdown it is noted as a late
    /// arrival.
    #[inline]
    pub(crate) fn track_request(shard: &'static Shard) -> Self {
        Self::entered(shard.enter_always(arrivals::note))
    }

    /// Creates an entry that has already entered `shard`.
    #[inline]
    pub(crate) fn entered(shard: &'static Shard) -> Self {
        Self::of(Some(shard))
    }

    /// Creates an entry that counts nothing, for a request that passes a closed gate. It is never
    /// forced.
    pub(crate) fn uncounted() -> Self {
        Self::of(None)
    }

    #[inline]
    fn of(shard: Option<&'static Shard>) -> Self {
        Self {
            shard,
            slot: Slot::NONE,
            note: NonZeroU32::MIN,
        }
    }

    /// Takes the entry and leaves one that counts nothing.
    #[inline]
    pub(crate) fn take(&mut self) -> Self {
        Self {
            shard: self.shard.take(),
            // The slot stays, because nothing reads it in an entry without a shard.
            slot: self.slot.take_last(),
            note: self.note,
        }
    }

    /// Sets the owner's note. The lowest bit is always set.
    #[inline]
    pub(crate) fn with_note(mut self, note: u32) -> Self {
        self.set_note(note);
        self
    }

    /// Replaces the owner's note.
    #[inline]
    pub(crate) fn set_note(&mut self, note: u32) {
        self.note = NonZeroU32::MIN | note;
    }

    /// Returns the owner's note.
    #[inline]
    pub(crate) fn note(&self) -> u32 {
        self.note.get()
    }

    /// Returns whether the entry counts. One that passed a closed gate does not.
    #[inline]
    pub(crate) fn is_counted(&self) -> bool {
        self.shard.is_some()
    }

    /// Returns the shard, or `None` if the entry counts nothing.
    #[inline]
    pub(crate) fn shard(&self) -> Option<&'static Shard> {
        self.shard
    }

    /// Returns whether clients are to be asked to close the connection. Always `true` for an entry
    /// without a shard, which passed a closed gate.
    #[inline]
    pub(crate) fn is_shedding(&self) -> bool {
        self.shard.is_none_or(Shard::is_shedding)
    }

    #[inline]
    pub(crate) fn is_draining(&self) -> bool {
        self.shard.is_some_and(Shard::is_draining)
    }

    /// Wakes the task at any of `interests`. Returns `false` if one of them has already happened.
    #[inline]
    pub(crate) fn register(&mut self, cx: &mut Context<'_>, interests: u32) -> bool {
        let register = |shard: &Shard| shard.register(&mut self.slot, cx.waker(), interests);
        self.shard.is_none_or(register)
    }

    #[inline]
    pub(crate) fn is_forced(&self) -> bool {
        self.shard.is_some_and(Shard::is_forced)
    }

    /// Returns `Ready` once the shard is forced. Otherwise the task is woken at the force.
    #[inline]
    pub(crate) fn poll_forced(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.register(cx, interest::FORCED) {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }

    /// Like [`poll_forced`](Self::poll_forced), but remembers the waker: polled again with the same
    /// waker, it takes no lock.
    #[inline]
    pub(crate) fn poll_forced_again(
        &mut self,
        cx: &mut Context<'_>,
        remembered: &mut Remembered,
    ) -> Poll<()> {
        let Some(shard) = self.shard else {
            return Poll::Pending;
        };
        if shard.register_for_force(&mut self.slot, remembered, cx.waker()) {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }

    /// Removes the waker until the entry is polled again.
    pub(crate) fn deregister(&mut self) {
        if let Some(shard) = self.shard {
            shard.deregister(self.slot.take());
        }
    }

    /// Notes that the work of this entry is dropped before its end: cut after a force, or killed by
    /// the end of its runtime.
    #[inline]
    pub(crate) fn note_unfinished(&mut self) {
        if self.shard.is_some_and(Shard::is_shedding) {
            self.note_unfinished_slow();
        }
    }

    #[cold]
    fn note_unfinished_slow(&mut self) {
        if self.note() & WHOLE != 0 {
            return;
        }
        if self.is_forced() {
            self.note_aborted();
        } else if runtime_is_ending() {
            self.leave_killed();
        }
    }

    /// Leaves, as an entry that its runtime dropped as it ended.
    fn leave_killed(&mut self) {
        if let Some(shard) = self.shard.take() {
            shard.deregister(self.slot.take());
            shard.leave_killed();
        }
    }

    /// Notes that the work of this entry was cut.
    pub(crate) fn note_aborted(&self) {
        if let Some(shard) = self.shard {
            shard.note_aborted();
        }
    }

    /// Notes that the work has ended, though the entry may be dropped later.
    #[inline]
    pub(crate) fn whole(self) -> Self {
        self.with_note(WHOLE)
    }
}

impl Drop for Entry {
    #[inline]
    fn drop(&mut self) {
        if let Some(shard) = self.shard {
            leave(shard, self.slot.take_last());
        }
    }
}

/// The note that the body had ended before it was polled. It replaces the `Facts`, none of which uses this
/// bit.
const WHOLE: u32 = 1 << 6;

// ===== impl Held =====

impl Held {
    #[inline]
    pub(crate) fn new(entry: Entry) -> Self {
        Self(ManuallyDrop::new(entry))
    }
}

impl Deref for Held {
    type Target = Entry;

    #[inline]
    fn deref(&self) -> &Entry {
        &self.0
    }
}

impl DerefMut for Held {
    #[inline]
    fn deref_mut(&mut self) -> &mut Entry {
        &mut self.0
    }
}

impl Drop for Held {
    #[inline]
    fn drop(&mut self) {
        if let Some(shard) = self.shard {
            drop_untaken(shard, self.slot.take_last(), self.note());
        }
    }
}

/// Drops an entry that was not taken: its work has not finished.
///
/// `extern "C"`, because panics in it are contained. By value: with a pointer to the entry, the
/// compiler would keep the whole future in memory, and move it once more.
#[cold]
#[inline(never)]
extern "C" fn drop_untaken(shard: &'static Shard, slot: Slot, note: u32) {
    let mut entry = Entry {
        shard: Some(shard),
        slot,
        note: NonZeroU32::MIN | note,
    };
    entry.note_unfinished();
}

/// By value, so that an entry need not be in memory where it is dropped.
#[inline]
fn leave(shard: &Shard, slot: Slot) {
    if slot.is_registered() {
        shard.deregister(slot);
    }
    shard.leave();
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("counted", &self.is_counted())
            .field("draining", &self.is_draining())
            .field("forced", &self.is_forced())
            .finish_non_exhaustive()
    }
}

// ===== impl GuardWait =====

impl<'a> GuardWait<'a> {
    pub(crate) fn new(shard: &'a Shard, interests: u32) -> Self {
        Self {
            shard,
            slot: Slot::NONE,
            interests,
        }
    }
}

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
        self.shard.deregister(self.slot.take());
    }
}

impl fmt::Debug for GuardWait<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardWait").finish_non_exhaustive()
    }
}
