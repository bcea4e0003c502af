//! Limits for reading and discarding what a client still sends.
//!
//! A client in the middle of an upload reads its response late. Closing the connection while the
//! client sends would reset it, and the client would lose the response (RFC 9112 §9.6).

use std::time::Duration;

/// How much is read, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) bytes: u64,
    pub(crate) time: Duration,
}

/// The time in which a client must send at least [`LEAST`] bytes.
pub(crate) const SILENCE: Duration = Duration::from_secs(1);

/// How many bytes a client must send within [`SILENCE`], so that a slow client does not delay others.
pub(crate) const LEAST: u64 = 1024;

impl Limits {
    /// Returns the stricter of each limit.
    #[cfg(feature = "server")]
    pub(crate) fn min(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.min(other.bytes),
            time: self.time.min(other.time),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 64 << 20,
            time: Duration::from_secs(5),
        }
    }
}
