//! Saving state at the end, to be there after the next start.

use std::future::Future;

use bytes::Bytes;

use crate::controller::ShutdownController;
use crate::error::BoxError;
use crate::hooks::{Hook, HookError};
use crate::store::{StateStore, check_key};

/// After all hooks, which may still change the state, and before the services.
const LAST: i32 = i32::MAX;

impl ShutdownController {
    /// Saves state while stopping, under `key`.
    ///
    /// `state` gives it, after all hooks have run and before the services are stopped, also after a
    /// forced drain. It is a hook of the last phase (`i32::MAX`), named `persist` and the key: it
    /// fails, takes its time and is reported as any other. Nothing is saved when a start-up is
    /// rolled back, so that what an earlier run has left is not lost.
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
    /// use tower_lifecycle::{BoxError, MemoryStore, ShutdownController, ShutdownReason, StateStore};
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
        let name = format!("persist {key}");
        let save = |_notice| async move {
            let state = state().await?.into();
            store.save(&key, state).await.map_err(Into::into)
        };
        self.add_hook(Hook::new(name, save).phase(LAST))
    }
}
