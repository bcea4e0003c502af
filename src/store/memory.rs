//! A store that keeps states in memory.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;

use super::error::StoreError;
use super::key::check_key;
use super::state_store::StateStore;
use crate::sync::{Arc, Mutex, lock};

/// Keeps states in memory, for tests and prototypes.
///
/// Clones share the states. The states are dropped with the last clone. Keys are checked as by a
/// [`FileStore`](crate::store::FileStore), so that a test finds invalid keys too.
///
/// # Examples
///
/// ```
/// use tower_lifecycle::store::{MemoryStore, StateStore, StoreError};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), StoreError> {
/// let store = MemoryStore::new();
/// store.clone().save("queue", "job 7".into()).await?;
///
/// assert_eq!(store.load("queue").await?.unwrap(), "job 7");
/// assert_eq!(store.load("sessions").await?, None);
/// # Ok(()) }
/// ```
#[derive(Clone, Default)]
pub struct MemoryStore {
    states: Arc<Mutex<BTreeMap<Box<str>, Bytes>>>,
}

// ===== impl MemoryStore =====

impl MemoryStore {
    /// Creates an empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl StateStore for MemoryStore {
    type Error = StoreError;

    async fn save(&self, key: &str, state: Bytes) -> Result<(), StoreError> {
        check_key(key)?;
        lock(&self.states).insert(key.into(), state);
        Ok(())
    }

    async fn load(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        check_key(key)?;
        Ok(lock(&self.states).get(key).cloned())
    }
}

impl fmt::Debug for MemoryStore {
    /// Shows only the keys, because a state may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("keys", &lock(&self.states).keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}
