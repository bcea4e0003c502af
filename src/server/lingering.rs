//! Closes a connection whose client is still sending.
//!
//! Closing a socket that has unread bytes resets the connection, and the client may lose the response
//! that is on its way (RFC 9112 §9.6).

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

pub(super) use crate::layers::Limits;
use crate::layers::{LEAST, SILENCE};

/// Reads and discards what the client still sends, until it closes its side too.
pub(super) struct Lingering {
    has_read: bool,
    bytes_left: u64,
    /// How many bytes must still come before the alarm elapses.
    least_left: u64,
    until: Instant,
    alarm: Pin<Box<Sleep>>,
}

/// For a client that sends nothing that matters any more: pipelined requests, or HTTP/2 frames that cross
/// the last ones of the server.
pub(super) const BRIEF: Limits = Limits {
    bytes: 1 << 20,
    time: Duration::from_secs(1),
};

// ===== impl Lingering =====

impl Lingering {
    pub(super) fn new(limits: Limits) -> Self {
        let until = sleep(limits.time).deadline(); // saturates if it overflows
        Self {
            has_read: false,
            bytes_left: limits.bytes,
            least_left: LEAST,
            until,
            alarm: Box::pin(sleep_until(until.min(Instant::now() + SILENCE))),
        }
    }

    /// Ready when the client has closed its side, or when there is nothing to wait for.
    ///
    /// There is nothing to wait for if the client has sent nothing and `is_sending` is `false`, if it sends
    /// too slowly, or if it has reached a limit.
    pub(super) fn poll<I: AsyncRead>(
        &mut self,
        mut io: Pin<&mut I>,
        is_sending: bool,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let mut scratch = [0; 8 * 1024];
        loop {
            let mut buffer = ReadBuf::new(&mut scratch);
            let read = poll_fn(|cx| io.as_mut().poll_read(cx, &mut buffer));
            let poll = if self.has_read {
                pin!(read).poll(cx)
            } else {
                // Without tokio's budget it would seem that nothing has come.
                pin!(unconstrained(read)).poll(cx)
            };
            match poll {
                Poll::Pending if !self.has_read && !is_sending => return Poll::Ready(()),
                Poll::Pending => return self.alarm.as_mut().poll(cx),
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
            }
            let (now, read) = (Instant::now(), buffer.filled().len() as u64);
            self.has_read = true;
            self.bytes_left = self.bytes_left.saturating_sub(read);
            self.least_left = self.least_left.saturating_sub(read);
            if self.bytes_left == 0 || now >= self.until {
                return Poll::Ready(());
            }
            if self.least_left == 0 {
                self.least_left = LEAST;
                self.alarm.as_mut().reset(self.until.min(now + SILENCE));
            } else if now >= self.alarm.deadline() {
                return Poll::Ready(());
            }
        }
    }
}
