//! Small combinators, so that tokio's macros and their compile time are not needed.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use tokio::time::{Instant, timeout_at};

pub(crate) enum Either<A, B> {
    Left(A),
    Right(B),
}

/// Waits for the first of two; when both are ready, the left one counts.
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

/// Waits for `future` until `deadline`, of which `None` is never; gives `None` when it passes. The
/// future is polled first, even when the deadline has passed before.
pub(crate) async fn until<F: Future>(deadline: Option<Instant>, future: F) -> Option<F::Output> {
    match deadline {
        Some(deadline) => timeout_at(deadline, future).await.ok(),
        None => Some(future.await),
    }
}

/// Waits until the tasks that have been woken before have had their turn, more or less.
///
/// The yield of tokio comes back after some sixty tasks, however many are waiting. This one goes to the
/// end of the queue. It is a task of its own, since the caller may be polled by `block_on`, which stands
/// in no queue.
pub(crate) async fn let_others_run() {
    let mut has_waited = false;
    let turn = poll_fn(move |cx| {
        if std::mem::replace(&mut has_waited, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    });
    // It fails when the runtime ends, and the caller with it.
    let _ = tokio::spawn(turn).await;
}
