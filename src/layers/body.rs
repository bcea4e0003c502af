//! The bodies that carry an entry to their end.
//!
//! A body has ended when its last frame was seen: `None`, an error, or a frame after which
//! `is_end_stream()` is true, since a consumer that knows the length need not poll again. At that
//! moment, or when it is dropped before, the inner body is dropped first and then the entry.

mod ending;
mod response;
mod tracked;

pub use self::response::ResponseBody;
pub use self::tracked::TrackedBody;

pub(crate) use self::response::Lasting;

use std::task::Poll;

/// Tells whether nothing comes after what a body has just said, which may then be at its end.
#[inline]
fn is_last<T, E>(polled: &Poll<Option<Result<T, E>>>, is_at_end: impl FnOnce(&T) -> bool) -> bool {
    match polled {
        Poll::Ready(Some(Ok(frame))) => is_at_end(frame),
        Poll::Ready(_) => true,
        Poll::Pending => false,
    }
}
