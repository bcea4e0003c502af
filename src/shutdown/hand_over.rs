//! Whether the service is being handed over to a new process. The wing `restart` does it, `server` leaves the
//! sockets to the other process, and `systemd` tells systemd of it.

#[cfg(all(feature = "restart", feature = "server"))]
use std::io::{ErrorKind, Read};
#[cfg(feature = "restart")]
use std::os::unix::net::UnixStream;

#[cfg(feature = "restart")]
use crate::sync::OnceLock;
use crate::sync::{Mutex, lock};

/// How far the hand-over to a new process is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "restart"), expect(dead_code, reason = "made by it"))]
pub(crate) enum HandOverState {
    #[default]
    None,
    /// A new process was started, and is not ready yet.
    UnderWay {
        /// When it began, by `CLOCK_MONOTONIC`.
        since_micros: u64,
    },
    /// The new process is ready, and this one shuts down.
    Done {
        pid: u32,
        /// The new process accepts from the listening sockets of this one.
        shares_sockets: bool,
    },
}

/// The hand-overs of one lifecycle: from the process before, and to the next one. There is one at a time.
#[derive(Debug, Default)]
pub(crate) struct HandOvers {
    state: Mutex<HandOverState>,
    /// A connection to the process that the sockets are from. It ends when that process lets them go.
    #[cfg(feature = "restart")]
    predecessor: OnceLock<UnixStream>,
}

impl HandOvers {
    #[cfg(feature = "systemd")]
    pub(crate) fn state(&self) -> HandOverState {
        *lock(&self.state)
    }

    /// Returns whether a new process accepts from the listening sockets.
    #[cfg(all(feature = "restart", any(feature = "server", feature = "axum")))]
    pub(crate) fn shares_sockets(&self) -> bool {
        let state = lock(&self.state);
        matches!(*state, HandOverState::Done { shares_sockets, .. } if shares_sockets)
    }
}

#[cfg(feature = "restart")]
impl HandOvers {
    /// Returns `false` if another one is under way or done.
    pub(crate) fn begin(&self, since_micros: u64) -> bool {
        let mut state = lock(&self.state);
        let is_free = *state == HandOverState::None;
        if is_free {
            *state = HandOverState::UnderWay { since_micros };
        }
        is_free
    }

    pub(crate) fn done(&self, pid: u32, shares_sockets: bool) {
        let done = HandOverState::Done {
            pid,
            shares_sockets,
        };
        *lock(&self.state) = done;
    }

    /// The hand-over has failed, or was called off.
    pub(crate) fn end(&self) {
        *lock(&self.state) = HandOverState::None;
    }

    /// `connection` must not block.
    pub(crate) fn note_predecessor(&self, connection: UnixStream) {
        // A process has only one.
        let _ = self.predecessor.set(connection);
    }

    /// Returns whether the process that the sockets are from has them still, and may go on with them.
    #[cfg(feature = "server")]
    pub(crate) fn has_predecessor(&self) -> bool {
        let Some(mut connection) = self.predecessor.get() else {
            return false;
        };
        // It never sends anything.
        let end = connection.read(&mut [0]);
        end.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
}
