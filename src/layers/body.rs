//! Response bodies that hold an entry until they end.
//!
//! A body ends with its last frame: `None`, an error, or a frame after which `is_end_stream()` is
//! true, since a consumer that knows the length need not poll again. When the body ends, or is
//! dropped earlier, the inner body is dropped first and then the entry.

mod ending;
mod response;
mod tracked;

pub use self::response::ResponseBody;
pub use self::tracked::TrackedBody;

pub(crate) use self::response::Lasting;

use std::task::Poll;

use http_body::Frame;

/// Returns whether a body yields nothing after `polled`. `is_at_end` decides this for a frame.
#[inline]
fn is_last<T, E>(polled: &Poll<Option<Result<T, E>>>, is_at_end: impl FnOnce(&T) -> bool) -> bool {
    match polled {
        Poll::Ready(Some(Ok(frame))) => is_at_end(frame),
        Poll::Ready(_) => true,
        Poll::Pending => false,
    }
}

/// Returns the same frame. Data is moved by itself, which is smaller than a frame of trailers.
#[inline(always)]
pub(super) fn rebuilt<D>(frame: Frame<D>) -> Frame<D> {
    frame.into_data().map_or_else(|other| other, Frame::data)
}
