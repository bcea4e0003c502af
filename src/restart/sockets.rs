//! What a hand-over has to let go when the service shuts down.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::process::Child;

use crate::state::LifecycleState;
use crate::sync::{Arc, Mutex, lock};

/// The sockets that a hand-over gives: duplicates, until draining begins.
///
/// A duplicate keeps a socket listening. After that the kernel would accept connections for nobody.
#[derive(Default)]
pub(super) struct Sockets(Mutex<Vec<(String, OwnedFd)>>);

/// A new process that is not ready yet. A shutdown kills it at once: this process may end before any thread
/// of its own has run.
#[derive(Debug, Default)]
pub(super) struct Unready(Mutex<Option<Arc<Mutex<Child>>>>);

impl Sockets {
    pub(super) fn add(&self, name: String, socket: OwnedFd) {
        lock(&self.0).push((name, socket));
    }

    /// Duplicates them for one new process.
    pub(super) fn duplicate(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        let sockets = lock(&self.0);
        let duplicate =
            |(name, socket): &(String, OwnedFd)| Ok((name.clone(), socket.try_clone()?));
        sockets.iter().map(duplicate).collect()
    }

    /// To be called for each state that is reached.
    pub(super) fn reached(&self, state: LifecycleState) {
        if state >= LifecycleState::Draining {
            lock(&self.0).clear();
        }
    }
}

impl Unready {
    pub(super) fn set(&self, child: Option<&Arc<Mutex<Child>>>) {
        *lock(&self.0) = child.cloned();
    }

    /// To be called for each state that is reached.
    pub(super) fn reached(&self, state: LifecycleState) {
        if state >= LifecycleState::LameDuck {
            if let Some(child) = &*lock(&self.0) {
                // Fails if it has ended.
                let _ = lock(child).kill();
            }
        }
    }
}

impl fmt::Debug for Sockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sockets = lock(&self.0);
        f.debug_list()
            .entries(sockets.iter().map(|(name, _)| name))
            .finish()
    }
}
