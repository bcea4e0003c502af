//! Saving state at the end, to be there after the next start.

use std::future::Future;

use bytes::Bytes;

use super::controller::ShutdownController;
use crate::error::BoxError;
use crate::shutdown::{Hook, HookError};
use crate::store::{StateStore, check_key};

impl ShutdownController {
    /// Saves state while stopping, under `key`.
    ///
    /// `state` gives it, when all that may change it has ended: requests, tasks, hooks and services.
    /// All states are saved at the same time, each in a task of its own, also after a forced drain. A
    /// quarter of the [reserve](crate::ShutdownConfig::reserve) is kept for it, which no hook and no
    /// stop can use up. A [force](Self::force) while hooks or services are being stopped cuts only
    /// those; one that comes later cuts the saves. [`ShutdownReport::saves`] tells how it went.
    ///
    /// Nothing is saved when a start-up is rolled back, so that what an earlier run has left is not
    /// lost. What is still running when the saves begin, such as a task that is abandoned, may change
    /// the state after it.
    ///
    /// [`ShutdownReport::saves`]: crate::ShutdownReport::saves
    ///
    /// At the next start, [`store.load(key)`](StateStore::load) gives it back.
    ///
    /// # Errors
    ///
    /// A [`HookError`] if the shutdown has been triggered, if the key is persisted already, or if it
    /// can be no key: see [`StateStore`] for what one may be.
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
            // Called here, and not by `map_err`, which would be the place that the error names.
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
