//! Exclusive use of a folder by one store.

use std::ops::ControlFlow;
use std::thread;
use std::time::{Duration, Instant};

use super::error::StoreError;
use super::file::FileStore;
use super::folder::Claim;
use super::worker::RETRY;

/// How long to wait for a save of another store to finish.
const LONGEST_SAVE: Duration = Duration::from_secs(1);

impl FileStore {
    /// Takes the folder for this store alone, until the store and all its clones are dropped.
    ///
    /// Two instances of a service that run at the same time load the same state, and at the end each
    /// overwrites the state of the other. With this method the second instance does not start. While
    /// the folder is taken, saves by any other store fail. Loads still work.
    ///
    /// The folder is released when the last clone is dropped and its saves are done, or when the
    /// process ends in any way. The lock does not protect the files from other programs. It works
    /// between machines only if the file system supports that.
    ///
    /// This call may block the thread for up to a second while another store is saving, so call it
    /// at the start of the program.
    ///
    /// # Errors
    ///
    /// Returns an error that [`is_in_use`](StoreError::is_in_use), without waiting, if another store
    /// in this or another process has taken the folder. Returns another error if the system refuses.
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

    /// Like [`exclusive`](Self::exclusive), but waits at most `limit` until the folder is free.
    ///
    /// Use it if a deploy starts the new instance before the old one has ended, on the same host. The
    /// limit is in real time. The wait is on the store's own thread, not on a tokio thread. If several
    /// stores wait, their order is not defined.
    ///
    /// # Errors
    ///
    /// Returns an error if the folder is still [in use](StoreError::is_in_use) after `limit`, or if
    /// the system refuses.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the wait, and the folder is not taken. If the folder was granted at
    /// that moment and a clone of the store exists, it stays taken.
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
    /// let jobs = store.load("queue").await?; // what the old instance saved at its end
    /// # assert_eq!(jobs, None);
    /// # std::fs::remove_dir_all(folder).unwrap();
    /// # Ok(()) }
    /// ```
    pub async fn exclusive_within(self, limit: Duration) -> Result<Self, StoreError> {
        let folder = self.folder.clone();
        // `None` if the deadline is too far away to represent: wait without a limit.
        let deadline = Instant::now().checked_add(limit);
        let granted = self.worker.queue(move || match folder.claim() {
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
