//! Contains panics of foreign code.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::{Context, Poll};

/// The payload of a panic.
pub(crate) type Payload = Box<dyn Any + Send>;

/// Polls `future` until it completes or panics. It is not used after a panic, so it need not be
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

/// Calls `act`. Returns whether it returned without a panic.
pub(crate) fn contained(act: impl FnOnce()) -> bool {
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(()) => true,
        Err(payload) => {
            discard(payload);
            false
        }
    }
}

/// Drops a payload, which is foreign too. If its drop panics, the second payload is leaked.
#[cold]
#[inline(never)]
fn discard(payload: Payload) {
    catch_unwind(AssertUnwindSafe(|| drop(payload))).unwrap_or_else(mem::forget);
}

/// Drops a foreign value and contains a panic of its drop. Drop values one by one, because two
/// panics at the same time abort the process.
pub(crate) fn dropped<T>(value: T) {
    contained(|| drop(value));
}

/// Returns the message of a panic, and drops its payload.
pub(crate) fn into_message(payload: Payload) -> String {
    let message = message(&payload);
    discard(payload);
    message
}

/// Returns the message of a panic.
pub(crate) fn message(payload: &Payload) -> String {
    if let Some(message) = payload.downcast_ref::<String>() {
        message.clone()
    } else if let Some(message) = payload.downcast_ref::<&'static str>() {
        (*message).to_owned()
    } else {
        "(a payload that is not text)".to_owned()
    }
}
