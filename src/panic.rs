//! Containing the panics of foreign code.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::{Context, Poll};

/// What a panic was thrown with.
pub(crate) type Payload = Box<dyn Any + Send>;

/// Polls `future` to its end, or to its panic. Nothing of it is used after a panic, so it need not be
/// unwind-safe.
pub(crate) async fn caught<F: Future>(future: F) -> Result<F::Output, Payload> {
    let mut future = pin!(future);
    let poll =
        |cx: &mut Context<'_>| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(poll) => poll.map(Ok),
            Err(payload) => Poll::Ready(Err(payload)),
        };
    poll_fn(poll).await
}

/// Calls `act`; returns whether it came back without a panic.
pub(crate) fn contained(act: impl FnOnce()) -> bool {
    let Err(payload) = catch_unwind(AssertUnwindSafe(act)) else {
        return true;
    };
    // What a panic was thrown with is foreign too. If its drop panics, what that was thrown with is
    // never dropped.
    catch_unwind(AssertUnwindSafe(|| drop(payload))).unwrap_or_else(mem::forget);
    false
}

/// Drops what is foreign and must do no harm. Values are dropped one by one, since two panics at the
/// same time end the process.
pub(crate) fn dropped<T>(value: T) {
    contained(|| drop(value));
}

/// Returns the text that a panic came with.
pub(crate) fn message(payload: &Payload) -> String {
    if let Some(message) = payload.downcast_ref::<String>() {
        message.clone()
    } else if let Some(message) = payload.downcast_ref::<&'static str>() {
        (*message).to_owned()
    } else {
        "(a value that is no text)".to_owned()
    }
}
