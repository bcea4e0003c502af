//! Small combinators, so that tokio's macros and their compile time are not needed.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};

use crate::spawn;

pub(crate) enum Either<A, B> {
    Left(A),
    Right(B),
}

impl<T> Either<T, T> {
    /// Returns the value of either side.
    pub(crate) fn into_inner(self) -> T {
        match self {
            Self::Left(value) | Self::Right(value) => value,
        }
    }
}

/// Waits for the first of two futures. If both are ready, the left one wins.
pub(crate) async fn race<A, B>(left: A, right: B) -> Either<A::Output, B::Output>
where
    A: Future,
    B: Future,
{
    let (mut left, mut right) = (pin!(left), pin!(right));
    poll_fn(|cx| {
        if let Poll::Ready(output) = left.as_mut().poll(cx) {
            return Poll::Ready(Either::Left(output));
        }
        right.as_mut().poll(cx).map(Either::Right)
    })
    .await
}

/// Waits for `future` until `deadline`, where `None` means no limit. Returns `None` if the deadline
/// passes first. The future is polled first, even if the deadline has already passed.
pub(crate) async fn until<F: Future>(deadline: Option<Instant>, future: F) -> Option<F::Output> {
    match deadline {
        Some(deadline) => timeout_at(deadline, future).await.ok(),
        None => Some(future.await),
    }
}

/// Waits until the tasks that were woken before have been polled, approximately.
///
/// `tokio::task::yield_now` resumes after about sixty tasks, however many are waiting. This function goes
/// to the end of the queue. It spawns a task, since the caller may be polled by `block_on`, which is not
/// in the queue.
pub(crate) async fn let_others_run() {
    let mut has_waited = false;
    let turn = poll_fn(move |cx| {
        if std::mem::replace(&mut has_waited, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    });
    // Fails only if the runtime shuts down, which also ends the caller.
    let _ = spawn::task(&Handle::current(), turn).await;
}
