//! Guards for one unit of work in flight.

use std::fmt;
use std::future::Future;
use std::mem::{self, ManuallyDrop};
use std::num::NonZeroU32;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::task::{Context, Poll};

use super::arrivals;
use super::ending::runtime_is_ending;
use super::gate::{Shard, interest};
use super::wakers::{Remembered, Slot};
use crate::panic;
use crate::sync::Arc;

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
pub struct InFlightGuard(Entry<Arc<Shard>>);

/// The base of every guard: one entry in the shard that `W` refers to, until it is dropped.
pub(crate) struct Entry<W: ShardRef> {
    /// `None` if the entry counts nothing: it has left, or it passed a closed gate uncounted.
    /// `ManuallyDrop`, because dropping it must not unwind (see [`ShardRef::release`]).
    shard_ref: ManuallyDrop<Option<W>>,
    /// The request's own waker, registered from its first `Pending` on.
    slot: Slot,
    /// A note of the owner. It fills what would otherwise be padding, because padding makes the
    /// compiler move a response in uneven pieces. Never zero, so that an enum around it needs no
    /// tag.
    note: NonZeroU32,
}

/// A counted reference to a shard.
pub(crate) trait ShardRef: AsRef<Shard> {
    /// Drops the reference without a panic, so the drop of an entry needs no landing pads.
    fn release(self);
}

/// An entry that is usually taken before it is dropped. Its drop is then a single check.
pub(crate) struct Held<W: ShardRef>(ManuallyDrop<Entry<W>>);

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
    pub(crate) fn admit(shard: &Arc<Shard>) -> Option<Self> {
        Entry::admit(shard, Arc::clone, || arrivals::note(shard)).map(Self)
    }

    /// Enters even if the gate is closed. Never noted as a late arrival, because the load balancer
    /// does not route work that is not a request.
    #[inline]
    pub(crate) fn track(shard: &Arc<Shard>) -> Self {
        Self(Entry::of(Some(shard.enter_always(|_| ()))))
    }

    fn shard(&self) -> &Shard {
        (self.0.shard()).expect("it leads to a shard until it is dropped")
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

impl<W: ShardRef> Entry<W> {
    /// Enters unless the gate is closed, and keeps a reference to the shard. Calls `arrived` if it
    /// enters in a lame duck.
    #[inline]
    pub(crate) fn admit(
        shard_ref: &W,
        share: impl FnOnce(&W) -> W,
        arrived: impl FnOnce(),
    ) -> Option<Self> {
        let admitted = shard_ref.as_ref().enter(arrived);
        admitted.then(|| Self::of(Some(share(shard_ref))))
    }

    /// Creates an entry that has already entered the shard of `shard_ref`.
    pub(crate) fn entered(shard_ref: W) -> Self {
        Self::of(Some(shard_ref))
    }

    /// Creates an entry that counts nothing, for a request that passes a closed gate. It is never
    /// forced.
    pub(crate) fn uncounted() -> Self {
        Self::of(None)
    }

    #[inline]
    fn of(shard_ref: Option<W>) -> Self {
        Self {
            shard_ref: ManuallyDrop::new(shard_ref),
            slot: Slot::NONE,
            note: NonZeroU32::MIN,
        }
    }

    /// Takes the entry and leaves one that counts nothing.
    #[inline]
    pub(crate) fn take(&mut self) -> Self {
        Self {
            shard_ref: ManuallyDrop::new(self.shard_ref.take()),
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

    /// Replaces the reference with another one to the same shard.
    pub(crate) fn map_shard_ref(mut self, other: impl FnOnce(&W) -> W) -> Self {
        if let Some(shard_ref) = &mut *self.shard_ref {
            let other = other(shard_ref);
            mem::replace(shard_ref, other).release();
        }
        self
    }

    /// Returns the reference to the shard, or `None` if the entry counts nothing.
    #[inline]
    pub(crate) fn shard_ref(&self) -> Option<&W> {
        self.shard_ref.as_ref()
    }

    #[inline]
    fn shard(&self) -> Option<&Shard> {
        self.shard_ref().map(W::as_ref)
    }

    /// Returns whether clients are to be asked to close the connection. Always `true` for an entry
    /// without a shard, which passed a closed gate.
    #[inline]
    pub(crate) fn is_shedding(&self) -> bool {
        self.shard().is_none_or(Shard::is_shedding)
    }

    #[inline]
    pub(crate) fn is_draining(&self) -> bool {
        self.shard().is_some_and(Shard::is_draining)
    }

    /// Wakes the task at any of `interests`. Returns `false` if one of them has already happened.
    #[inline]
    pub(crate) fn register(&mut self, cx: &mut Context<'_>, interests: u32) -> bool {
        let Some(shard_ref) = &*self.shard_ref else {
            return true;
        };
        shard_ref
            .as_ref()
            .register(&mut self.slot, cx.waker(), interests)
    }

    #[inline]
    pub(crate) fn is_forced(&self) -> bool {
        self.shard().is_some_and(Shard::is_forced)
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
        let Some(shard_ref) = &*self.shard_ref else {
            return Poll::Pending;
        };
        let shard = shard_ref.as_ref();
        if shard.register_for_force(&mut self.slot, remembered, cx.waker()) {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }

    /// Removes the waker until the entry is polled again.
    pub(crate) fn deregister(&mut self) {
        if let Some(shard_ref) = &*self.shard_ref {
            shard_ref.as_ref().deregister(self.slot.take());
        }
    }

    /// Notes that the work of this entry is dropped before its end: cut after a force, or killed by
    /// the end of its runtime.
    #[inline]
    pub(crate) fn note_unfinished(&mut self) {
        if self.shard().is_some_and(Shard::is_shedding) {
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
        if let Some(shard_ref) = self.shard_ref.take() {
            shard_ref.as_ref().deregister(self.slot.take());
            shard_ref.as_ref().leave_killed();
            shard_ref.release();
        }
    }

    /// Notes that the work of this entry was cut.
    pub(crate) fn note_aborted(&self) {
        if let Some(shard) = self.shard() {
            shard.note_aborted();
        }
    }
}

impl<W: ShardRef> Drop for Entry<W> {
    #[inline]
    fn drop(&mut self) {
        if let Some(shard_ref) = self.shard_ref.take() {
            leave(shard_ref, self.slot.take_last());
        }
    }
}

impl Entry<Arc<Shard>> {
    /// Enters for a request, even if the gate is closed. In a shutdown it is noted as a late
    /// arrival.
    #[inline]
    pub(crate) fn track_request(shard: &Arc<Shard>) -> Self {
        Self::of(Some(shard.enter_always(arrivals::note)))
    }

    /// Notes that the work has ended, though the entry may be dropped later.
    #[inline]
    pub(crate) fn whole(self) -> Self {
        self.with_note(WHOLE)
    }
}

/// The note that the body had ended before it was polled. Only entries of a tracking layer have it.
/// No `Facts` uses this bit.
const WHOLE: u32 = 1 << 6;

// ===== impl Held =====

impl<W: ShardRef> Held<W> {
    #[inline]
    pub(crate) fn new(entry: Entry<W>) -> Self {
        Self(ManuallyDrop::new(entry))
    }
}

impl<W: ShardRef> Deref for Held<W> {
    type Target = Entry<W>;

    #[inline]
    fn deref(&self) -> &Entry<W> {
        &self.0
    }
}

impl<W: ShardRef> DerefMut for Held<W> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Entry<W> {
        &mut self.0
    }
}

impl<W: ShardRef> Drop for Held<W> {
    #[inline]
    fn drop(&mut self) {
        if self.shard_ref().is_some() {
            drop_untaken(self);
        }
    }
}

/// Drops an entry that was not taken: its work has not finished.
///
/// `extern "C"`, because panics in it are contained. Generic and not `inline(never)`, because
/// otherwise other crates call this crate's copy. Their compiler must then assume that the copy
/// keeps the pointer, and moves the whole future once more.
#[cold]
extern "C" fn drop_untaken<W: ShardRef>(entry: &mut Entry<W>) {
    entry.note_unfinished();
    drop(entry.take());
}

/// By value and out of line, so that an entry need not be in memory where it is dropped.
#[inline(never)]
fn leave(shard_ref: impl ShardRef, slot: Slot) {
    let shard = shard_ref.as_ref();
    if slot.is_registered() {
        shard.deregister(slot);
    }
    shard.leave();
    shard_ref.release();
}

impl ShardRef for Arc<Shard> {
    #[inline]
    fn release(self) {
        release(self);
    }
}

/// Implements [`ShardRef::release`] for an `Arc`.
#[inline]
pub(crate) fn release<T>(counted: Arc<T>) {
    if let Some(last) = Arc::into_inner(counted) {
        discard(&mut Some(last));
    }
}

/// Drops the value of the last reference. `extern "C"` functions do not unwind, so its callers need
/// no landing pads. By reference, because a Rust type is not passed by value to a C function.
#[cold]
#[inline(never)]
extern "C" fn discard<T>(last: &mut Option<T>) {
    panic::contained(|| drop(last.take()));
}

impl<W: ShardRef> fmt::Debug for Entry<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("counted", &self.shard_ref().is_some())
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
