//! The trait of a store.

use std::future::Future;

use bytes::Bytes;

use crate::error::BoxError;
use crate::sync::Arc;

/// Keeps states over a restart. For each key, it keeps the latest state.
///
/// [`FileStore`](super::FileStore) keeps states in a folder. [`MemoryStore`](super::MemoryStore) keeps
/// them in memory, for tests. Your own store (Redis, S3, a database table) implements the two methods
/// as `async fn`s.
///
/// The keys that this crate passes to a store have 1 to 128 bytes. They contain only ASCII letters,
/// digits, `.`, `_` and `-`, and do not begin with `.`. So they can be part of a file name, a URL or
/// a query without escaping. Keys are case-sensitive.
///
/// # Requirements
///
/// - After `save` has returned `Ok`, `load` returns that state or a later one.
/// - A state is replaced as a whole. If a save fails, is dropped or dies with its process, the
///   earlier state or the new one is there, never a part or a mixture.
/// - A state that exists and cannot be read is an error, never `None`.
///
/// The trait is for generic code and is not `dyn`-compatible. To choose a store at run time, use an
/// enum.
///
/// # Examples
///
/// ```
/// use std::collections::BTreeMap;
/// use bytes::Bytes;
/// use tokio::sync::RwLock;
/// use tower_lifecycle::store::StateStore;
/// use tower_lifecycle::BoxError;
///
/// #[derive(Default)]
/// struct Table(RwLock<BTreeMap<String, Bytes>>); // or a connection to a database
///
/// impl StateStore for Table {
///     type Error = BoxError;
///
///     async fn save(&self, key: &str, state: Bytes) -> Result<(), BoxError> {
///         self.0.write().await.insert(key.to_owned(), state);
///         Ok(())
///     }
///
///     async fn load(&self, key: &str) -> Result<Option<Bytes>, BoxError> {
///         Ok(self.0.read().await.get(key).cloned())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BoxError> {
/// let table = Table::default();
/// assert_eq!(table.load("queue").await?, None);
/// table.save("queue", "job 7".into()).await?;
/// assert_eq!(table.load("queue").await?.unwrap(), "job 7");
/// # Ok(()) }
/// ```
pub trait StateStore: Send + Sync + 'static {
    /// The error of a save or a load.
    type Error: Into<BoxError>;

    /// Saves `state` under `key`, replacing the earlier state.
    ///
    /// # Errors
    ///
    /// Returns an error if the state may not be saved. The earlier state or the new one is there.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the earlier state or the new one is there. A store may still finish
    /// the write on its own.
    fn save(&self, key: &str, state: Bytes)
    -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Loads the state that was last saved under `key`. Returns `None` if no state was ever saved.
    ///
    /// # Errors
    ///
    /// Returns an error if the state cannot be read, or if it is unknown whether there is one.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    fn load(&self, key: &str) -> impl Future<Output = Result<Option<Bytes>, Self::Error>> + Send;
}

impl<T: StateStore> StateStore for Arc<T> {
    type Error = T::Error;

    fn save(
        &self,
        key: &str,
        state: Bytes,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send {
        T::save(self, key, state)
    }

    fn load(&self, key: &str) -> impl Future<Output = Result<Option<Bytes>, Self::Error>> + Send {
        T::load(self, key)
    }
}
