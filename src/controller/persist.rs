//! Saving state at the end of a run, so that the next run can load it.

use std::future::Future;

use bytes::Bytes;

use super::controller::ShutdownController;
use crate::error::BoxError;
use crate::shutdown::{Hook, HookError};
use crate::store::{StateStore, check_key};

impl ShutdownController {
    /// Saves state under `key` while stopping.
    ///
    /// `state` returns the state. It is called when everything that may change the state has ended:
    /// requests, tasks, hooks and services. All states are saved at the same time, each in its own task,
    /// even after a forced drain. A quarter of the [reserve](crate::ShutdownConfig::reserve) is kept for
    /// the saves, and no hook or stop can use it up. A [force](Self::force) while hooks or services are
    /// being stopped cuts only those; a later force cuts the saves. [`ShutdownReport::saves`] returns the
    /// outcome of each save.
    ///
    /// Nothing is saved when a start-up is rolled back, so that the state of an earlier run is not lost.
    /// Work that is still running when the saves begin, such as an abandoned task, may change the state
    /// after it was saved.
    ///
    /// At the next start, [`store.load(key)`](StateStore::load) returns the state.
    ///
    /// [`ShutdownReport::saves`]: crate::ShutdownReport::saves
    ///
    /// # Errors
    ///
    /// Returns a [`HookError`] if the shutdown has been triggered, if the key is already persisted, or if
    /// the key is invalid. See [`StateStore`] for what a key may be.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::store::{MemoryStore, StateStore};
    /// use tower_lifecycle::{BoxError, ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), BoxError> {
    /// let store = MemoryStore::new(); // or `FileStore::new("/var/lib/app")?`
    /// let ctl = ShutdownController::new();
    /// ctl.persist("queue", store.clone(), || async { Ok("job 1, job 2") })?;
    ///
    /// let report = ctl.shutdown(ShutdownReason::Manual).await;
    /// assert!(report.is_graceful());
    /// assert_eq!(store.load("queue").await?.as_deref(), Some(&b"job 1, job 2"[..]));
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn persist<S, F, Fut, B>(
        &self,
        key: impl Into<String>,
        store: S,
        state: F,
    ) -> Result<(), HookError>
    where
        S: StateStore,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<B, BoxError>> + Send + 'static,
        B: Into<Bytes>,
    {
        let key = key.into();
        if let Err(error) = check_key(&key) {
            // Not in a `map_err`: the error would then report that call as its location.
            return Err(HookError::bad_key(error));
        }
        let name = key.clone();
        let save = |_notice| async move {
            let state = state().await?.into();
            store.save(&key, state).await.map_err(Into::into)
        };
        self.core().add_save(Hook::new(name, save))
    }
}
