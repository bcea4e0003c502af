//! A folder that belongs to one store at a time.

use std::ops::ControlFlow;
use std::thread;
use std::time::{Duration, Instant};

use super::error::StoreError;
use super::file::FileStore;
use super::folder::Claim;
use super::worker::RETRY;

/// How long it is waited for a save that another is making at this moment.
const LONGEST_SAVE: Duration = Duration::from_secs(1);

impl FileStore {
    /// Takes the folder for this store alone, for as long as it or a clone of it lives.
    ///
    /// Two instances of a service that run at the same time each load the same state, and at the
    /// end each saves its own in place of the other's. With this the second one does not start. A
    /// save of any other store to the folder fails meanwhile, and its loads do not.
    ///
    /// The folder is free again when the last clone is dropped and its saves are done, or when the
    /// process ends, however it ends. A file that others may read is not protected: the lock is
    /// kept by stores alone, between machines only if the file system does.
    ///
    /// It may block the calling thread for a second while another store is making a save: call it
    /// at the start.
    ///
    /// # Errors
    ///
    /// A [`StoreError`] at once if another store, in this process or another, has the folder for
    /// itself, which [`is_in_use`](StoreError::is_in_use); or if the system refuses.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::store::{FileStore, StoreError};
    ///
    /// # fn main() -> Result<(), StoreError> {
    /// # let folder = std::env::temp_dir().join(format!("exclusive-{}", std::process::id()));
    /// let store = FileStore::new(&folder)?.exclusive()?;
    ///
    /// // A second instance, started by mistake:
    /// let error = FileStore::new(&folder)?.exclusive().unwrap_err();
    /// assert!(error.is_in_use());
    ///
    /// drop(store);
    /// assert!(FileStore::new(&folder)?.exclusive().is_ok());
    /// # std::fs::remove_dir_all(folder).unwrap();
    /// # Ok(()) }
    /// ```
    pub fn exclusive(self) -> Result<Self, StoreError> {
        let deadline = Instant::now() + LONGEST_SAVE;
        loop {
            match self.folder.claim()? {
                Claim::Granted => return Ok(self),
                Claim::Busy if Instant::now() < deadline => thread::sleep(RETRY),
                Claim::Owned | Claim::Busy => return Err(self.folder.in_use(Duration::ZERO)),
            }
        }
    }

    /// As [`exclusive`](Self::exclusive), but waits at most `limit` until the folder is free.
    ///
    /// That is for a deploy in which the new instance is started before the old one has ended, on
    /// the same host. It is waited for in real time, on the store's own thread and not on one of
    /// tokio's. Who comes first when several wait is by chance.
    ///
    /// # Errors
    ///
    /// A [`StoreError`] if the folder is still [in use](StoreError::is_in_use) when `limit` has
    /// passed, or if the system refuses.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives it up; the folder is not taken, unless a clone of the store lives
    /// and it was just granted.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::store::{FileStore, StateStore, StoreError};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), StoreError> {
    /// # let folder = std::env::temp_dir().join(format!("waits-{}", std::process::id()));
    /// let store = FileStore::new(&folder)?.exclusive_within(Duration::from_secs(30)).await?;
    /// let jobs = store.load("queue").await?; // what the predecessor has saved at its end
    /// # assert_eq!(jobs, None);
    /// # std::fs::remove_dir_all(folder).unwrap();
    /// # Ok(()) }
    /// ```
    pub async fn exclusive_within(self, limit: Duration) -> Result<Self, StoreError> {
        let folder = self.folder.clone();
        // None is a limit that never comes.
        let deadline = Instant::now().checked_add(limit);
        let granted = self.worker.in_turn(move || match folder.claim() {
            Ok(Claim::Granted) => ControlFlow::Break(Ok(())),
            Err(error) => ControlFlow::Break(Err(error)),
            Ok(_) if deadline.is_some_and(|deadline| Instant::now() >= deadline) => {
                ControlFlow::Break(Err(folder.in_use(limit)))
            }
            Ok(_) => ControlFlow::Continue(()),
        });
        self.result(granted.await)?;
        Ok(self)
    }
}
