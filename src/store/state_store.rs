//! State that outlives the process: saved at the end of one, loaded at the start of the next.

use std::future::Future;

use bytes::Bytes;

use crate::error::BoxError;
use crate::sync::Arc;

/// Keeps states over a restart: each under a key, and of each the latest.
///
/// [`FileStore`](super::FileStore) keeps them in a folder and [`MemoryStore`](super::MemoryStore) in memory, for tests. A store of your
/// own (Redis, S3, a table) implements the two methods as plain `async fn`s.
///
/// The keys that this crate gives to a store have 1 to 128 bytes, only ASCII letters, digits, `.`,
/// `_` and `-`, and do not begin with `.`, so that they can be part of a file name, a URL or a
/// query as they are. They differ by case too.
///
/// # What a store has to keep
///
/// - Once `save` has returned `Ok`, `load` gives that state, or one saved later.
/// - A state is replaced as a whole: a save that fails, that is dropped, or that dies with its
///   process leaves the earlier state or the new one, never a part or a mixture.
/// - A state that is there and cannot be read is an error, never `None`.
///
/// It is made for generic code and cannot be a `dyn`; a store that is chosen at run time is an enum
/// of your own.
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
/// struct Table(RwLock<BTreeMap<String, Bytes>>); // or a connection to one
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
    /// What a save or a load can fail with.
    type Error: Into<BoxError>;

    /// Saves `state` under `key`, in place of the one that was there.
    ///
    /// # Errors
    ///
    /// Says why the state is not known to be saved; the earlier one or the new one is there.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the earlier state or the new one is there, and a store may still
    /// finish the write by itself.
    fn save(&self, key: &str, state: Bytes)
    -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Loads the state that was saved last under `key`, or `None` if none ever was.
    ///
    /// # Errors
    ///
    /// Says why it cannot be known or read.
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
