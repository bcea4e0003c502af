//! Small combinators, so that tokio's macros and their compile time are not needed.
//!
//! They are structs, since an async function keeps its arguments twice, and compiles to more.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tokio::runtime::Handle;
use tokio::time::{Instant, Timeout, timeout_at};

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

pin_project! {
    /// The future of [`race`].
    #[must_use = "futures do nothing unless polled"]
    pub(crate) struct Race<A, B> {
        #[pin]
        left: A,
        #[pin]
        right: B,
    }
}

pin_project! {
    /// The future of [`until`].
    #[project = UntilProj]
    #[must_use = "futures do nothing unless polled"]
    pub(crate) enum Until<F> {
        Limited {
            #[pin]
            future: Timeout<F>,
        },
        Unlimited {
            #[pin]
            future: F,
        },
    }
}

/// Waits for the first of two futures. If both are ready, the left one wins.
pub(crate) fn race<A: Future, B: Future>(left: A, right: B) -> Race<A, B> {
    Race { left, right }
}

/// Waits for `future` until `deadline`, where `None` means no limit. Returns `None` if the deadline
/// passes first. The future is polled first, even if the deadline has already passed.
pub(crate) fn until<F: Future>(deadline: Option<Instant>, future: F) -> Until<F> {
    match deadline {
        Some(deadline) => Until::Limited {
            future: timeout_at(deadline, future),
        },
        None => Until::Unlimited { future },
    }
}

impl<A: Future, B: Future> Future for Race<A, B> {
    type Output = Either<A::Output, B::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.left.poll(cx) {
            return Poll::Ready(Either::Left(output));
        }
        this.right.poll(cx).map(Either::Right)
    }
}

impl<F: Future> Future for Until<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            UntilProj::Limited { future } => future.poll(cx).map(Result::ok),
            UntilProj::Unlimited { future } => future.poll(cx).map(Some),
        }
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
