//! How much of what a client still sends is read and thrown away.
//!
//! A client that is in the middle of an upload reads its answer late. Closing the connection while it
//! sends would reset it, and the client would lose the answer (RFC 9112 §9.6).

use std::time::Duration;

/// How much is read, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) bytes: u64,
    pub(crate) time: Duration,
}

/// The longest silence that is waited for.
pub(crate) const SILENCE: Duration = Duration::from_secs(1);

/// How much a client has to send in that time, so that one that drips holds nobody.
pub(crate) const LEAST: u64 = 1024;

impl Limits {
    /// The tighter of each.
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
