//! The guard: one unit of work in flight.

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
pub struct InFlightGuard(Entry<Arc<Shard>>);

/// What every guard is: one entry in the books of the shard that `W` leads to, until it is dropped.
pub(crate) struct Entry<W: ShardRef> {
    /// None when it counts nothing: it has left, or was let past a closed gate. By hand, since dropping
    /// it must not unwind (see [`ShardRef::release`]).
    shard_ref: ManuallyDrop<Option<W>>,
    /// Where the request's own waker is registered, from its first `Pending` on.
    slot: Slot,
    /// What its owner notes beside it, in what would else be padding: that would have a response moved
    /// in odd pieces. Never zero, so that an enum around it needs no tag.
    note: NonZeroU32,
}

/// A counted reference that leads to a shard.
pub(crate) trait ShardRef: AsRef<Shard> {
    /// Drops it, without a panic: whoever drops an entry needs no landing pad for one.
    fn release(self);
}

/// An entry that is taken, as a rule, before it is dropped: a look is all that its drop is then.
pub(crate) struct Held<W: ShardRef>(ManuallyDrop<Entry<W>>);

/// The future of `draining` and `forced` of an [`InFlightGuard`] and an
/// [`UpgradeGuard`](crate::UpgradeGuard).
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
        Entry::admit(shard, Arc::clone, || arrivals::note(shard)).map(Self)
    }

    /// Enters, whatever the gate says. It is never noted as a late arrival: what is not a request is
    /// not the load balancer's.
    #[inline]
    pub(crate) fn track(shard: &Arc<Shard>) -> Self {
        Self(Entry::of(Some(shard.enter_always(|_| ()))))
    }

    fn shard(&self) -> &Shard {
        (self.0.shard()).expect("it leads to a shard until it is dropped")
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
        GuardWait::new(self.shard(), interest::DRAINING)
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
    /// Enters unless the gate is closed, and keeps a reference to the shard. In a lame duck
    /// `arrived` is called.
    #[inline]
    pub(crate) fn admit(
        shard_ref: &W,
        share: impl FnOnce(&W) -> W,
        arrived: impl FnOnce(),
    ) -> Option<Self> {
        let admitted = shard_ref.as_ref().enter(arrived);
        admitted.then(|| Self::of(Some(share(shard_ref))))
    }

    /// One that has entered the shard that `shard_ref` leads to.
    pub(crate) fn entered(shard_ref: W) -> Self {
        Self::of(Some(shard_ref))
    }

    /// One that counts nothing, for what is let past a closed gate. Force does not come to it.
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

    /// Takes the entry out of a place that is given up, and leaves one there that has left.
    #[inline]
    pub(crate) fn take(&mut self) -> Self {
        Self {
            shard_ref: ManuallyDrop::new(self.shard_ref.take()),
            slot: self.slot.take(),
            note: self.note,
        }
    }

    /// Notes something of its owner's beside it; the lowest bit is not kept.
    #[inline]
    pub(crate) fn with_note(mut self, note: u32) -> Self {
        self.set_note(note);
        self
    }

    /// Notes something else.
    #[inline]
    pub(crate) fn set_note(&mut self, note: u32) {
        self.note = NonZeroU32::MIN | note;
    }

    /// What was noted beside it.
    #[inline]
    pub(crate) fn note(&self) -> u32 {
        self.note.get()
    }

    /// The same entry by another reference to the same shard.
    pub(crate) fn map_shard_ref(mut self, other: impl FnOnce(&W) -> W) -> Self {
        if let Some(shard_ref) = &mut *self.shard_ref {
            let other = other(shard_ref);
            mem::replace(shard_ref, other).release();
        }
        self
    }

    /// The reference to the shard, or none if it counts nothing.
    #[inline]
    pub(crate) fn shard_ref(&self) -> Option<&W> {
        self.shard_ref.as_ref()
    }

    #[inline]
    fn shard(&self) -> Option<&Shard> {
        self.shard_ref().map(W::as_ref)
    }

    /// Whether the clients are to be asked to leave; by what has no shard, as what was let past the closed
    /// gate, they are.
    #[inline]
    pub(crate) fn is_shedding(&self) -> bool {
        self.shard().is_none_or(Shard::is_shedding)
    }

    #[inline]
    pub(crate) fn is_draining(&self) -> bool {
        self.shard().is_some_and(Shard::is_draining)
    }

    /// Has the task woken at any of `interests`; `false` if one has come already.
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

    /// Ready once force has come; else the task is woken when it comes.
    #[inline]
    pub(crate) fn poll_forced(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.register(cx, interest::FORCED) {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    }

    /// As [`poll_forced`](Self::poll_forced), by one that remembers the waker: polled by the same again,
    /// it takes no lock.
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
        match shard.register_for_force(&mut self.slot, remembered, cx.waker()) {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    }

    /// Has nobody woken any more, until it is polled again.
    pub(crate) fn deregister(&mut self) {
        if let Some(shard_ref) = &*self.shard_ref {
            shard_ref.as_ref().deregister(self.slot.take());
        }
    }

    /// Notes that what this entry counts is dropped before its end: cut after a force, whoever drops it, or
    /// killed by the end of its runtime.
    #[inline]
    pub(crate) fn note_unfinished(&mut self) {
        if self.shard().is_some_and(Shard::is_shedding) {
            self.note_broken_off();
        }
    }

    #[cold]
    fn note_broken_off(&mut self) {
        if self.note() & WHOLE != 0 {
            return;
        }
        if self.is_forced() {
            self.note_aborted();
        } else if runtime_is_ending() {
            self.leave_killed();
        }
    }

    /// Leaves, as what is dropped by the end of its runtime.
    fn leave_killed(&mut self) {
        if let Some(shard_ref) = self.shard_ref.take() {
            shard_ref.as_ref().deregister(self.slot.take());
            shard_ref.as_ref().leave_killed();
            shard_ref.release();
        }
    }

    /// Notes that what this entry counts is being cut.
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
    /// Enters for a request, whatever the gate says. In a shutdown it is noted as a late one.
    #[inline]
    pub(crate) fn track_request(shard: &Arc<Shard>) -> Self {
        Self::of(Some(shard.enter_always(arrivals::note)))
    }

    /// Notes that what it counts has come to its end, though it may be dropped later.
    #[inline]
    pub(crate) fn whole(self) -> Self {
        self.with_note(WHOLE)
    }
}

/// The note that the body has ended before it was polled. Only entries of a tracking layer have it, and no
/// `Facts` has this bit.
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

/// Drops an entry that was not taken: what it counts has not finished. `extern "C"`, for what could panic in
/// it is contained. It is generic and not `inline(never)`, or else this crate's own copy would be called: of
/// that the compiler of another crate must think that it keeps the pointer, and moves the whole future once
/// more for it.
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

/// What [`ShardRef::release`] is for an `Arc`.
#[inline]
pub(crate) fn release<T>(counted: Arc<T>) {
    if let Some(last) = Arc::into_inner(counted) {
        discard(&mut Some(last));
    }
}

/// Drops what nobody refers to any more. `extern "C"`, since a function of that kind does not unwind, so
/// that none of its callers is ready for that; and by reference, for what is not C's is not passed by value.
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
