//! A store that keeps states in the files of a folder.

use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;

use bytes::Bytes;

use super::error::StoreError;
use super::folder::Folder;
use super::format::header;
use super::state_file::StateFile;
use super::state_store::StateStore;
use super::worker::Worker;
use crate::sync::Arc;

/// Keeps states in a folder, in one file per key.
///
/// A state is written to a temporary file, synced to disk, and then renamed. So the file of a key
/// always holds a complete state.
///
/// # What is promised
///
/// - If the process dies during a save, for example by SIGKILL, the earlier state or the new one is
///   there. The same holds after a crash of the machine. A state is not lost by such a crash once its
///   save has returned, provided that the disk keeps what it has confirmed as synced.
/// - Several stores, tasks and processes can save to one folder at the same time. Each state is
///   written as a whole, one after another. The saves of a store and its clones are done in the order
///   in which they were first polled. If two instances of a service save under the same key, the
///   state of one of them is lost: see [`exclusive`](Self::exclusive).
/// - The store has its own thread, which is started with the store. It needs no tokio runtime, and
///   it does not use tokio's blocking pool, which may be full of blocked work.
/// - A damaged file is never returned as a state. A file that the store did not write is neither
///   loaded nor replaced: see [`StoreError`].
/// - Each key has its own file on every system, even if the file system ignores case or dots at the
///   end of a name.
/// - Files do not pile up. There is one file per key, at most one temporary file per key that a dead
///   process has left, and at most one `lock`, one `owner` and one `probe`.
///
/// # What is not promised
///
/// The store keeps no history and is not a database. Every save writes and syncs a whole file, which
/// takes milliseconds, and a load may wait for a save. The end of the process does not wait for a
/// save whose future was dropped. On a network file system, locks between machines are only as
/// reliable as that file system. Other users who can write to the folder can change the states. On
/// Unix the files are readable only by their owner (mode 0600). Do not delete `lock` or `owner` while
/// a store uses the folder: stores would no longer see each other's locks.
///
/// # Layout
///
/// `state-<key>` holds a header with a checksum, then the state. `tmp-<key>` is the file that is being
/// written. The name of a key with capitals, or with a dot at its end, is in lower case with a
/// suffix: `Queue` is `state-queue+1`. `lock` is locked during a save. `owner` is locked by a store
/// that has [exclusive](Self::exclusive) use of the folder.
///
/// # Examples
///
/// ```
/// use tower_lifecycle::store::{FileStore, StateStore, StoreError};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), StoreError> {
/// # let folder = std::env::temp_dir().join(format!("store-{}", std::process::id()));
/// let store = FileStore::new(&folder)?; // for example /var/lib/orders
/// store.save("queue", "job 7".into()).await?;
///
/// // After the restart:
/// let store = FileStore::new(&folder)?;
/// assert_eq!(store.load("queue").await?.unwrap(), "job 7");
/// assert_eq!(store.load("sessions").await?, None);
/// # std::fs::remove_dir_all(folder).unwrap();
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct FileStore {
    pub(super) folder: Arc<Folder>,
    pub(super) worker: Worker,
}

// ===== impl FileStore =====

impl FileStore {
    /// Creates a store that keeps its files in `folder`. The folder is created if it is missing.
    ///
    /// A relative path is resolved against the current working directory. The call writes a file to
    /// the folder and removes it, and locks `lock` for a moment, which blocks the calling thread.
    /// Create the store at the start of the program. A parent that may not be read cannot be synced,
    /// so a folder that was created in it may be lost in a crash of the machine.
    ///
    /// # Errors
    ///
    /// Returns an error if the folder cannot be created, is not a folder or is not writable, if the
    /// system refuses a lock in it, or if the thread of the store cannot be started.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::store::FileStore;
    ///
    /// # let folder = std::env::temp_dir().join(format!("made-{}", std::process::id()));
    /// assert!(FileStore::new(folder.join("a/b")).is_ok());
    /// assert!(folder.join("a/b").is_dir());
    ///
    /// std::fs::write(folder.join("file"), "").unwrap();
    /// let error = FileStore::new(folder.join("file")).unwrap_err();
    /// assert_eq!(error.path(), Some(&*folder.join("file")));
    /// # std::fs::remove_dir_all(folder).unwrap();
    /// ```
    pub fn new(folder: impl AsRef<Path>) -> Result<Self, StoreError> {
        let folder = Folder::make(folder.as_ref())?;
        let worker = Worker::start();
        Ok(Self {
            worker: worker.map_err(StoreError::io("start a thread for", folder.path()))?,
            folder: Arc::new(folder),
        })
    }
}

impl StateStore for FileStore {
    type Error = StoreError;

    /// Saves `state` under `key`, replacing the earlier state.
    ///
    /// A damaged state is replaced too. When this returns `Ok`, the state is on disk. If an operation
    /// fails because another program has the file open, such as a virus scanner on Windows, it is
    /// retried for half a second.
    ///
    /// # Errors
    ///
    /// Returns an error if the key is invalid, if the file is [foreign](StoreError::is_foreign), if
    /// another store has [exclusive use](StoreError::is_in_use) of the folder, or if the system
    /// refuses. In that case the earlier state is kept. The exception is a folder that cannot be
    /// synced: then the new state is already in place.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not stop a write that has started or is able to start: the thread
    /// finishes it. A save that waits for a lock held by another process is given up. In both cases
    /// the earlier state or the new one is there, and a later save is done after it.
    async fn save(&self, key: &str, state: Bytes) -> Result<(), StoreError> {
        let file = StateFile::new(&self.folder, key)?;
        let header = header(key, &state);
        let saved =
            self.worker.queue(
                move || match file.try_replace(&header, &state).transpose() {
                    Some(saved) => ControlFlow::Break(saved),
                    None => ControlFlow::Continue(()),
                },
            );
        self.result(saved.await)
    }

    /// Loads the state that was last saved under `key`. Returns `None` if no state was ever saved.
    ///
    /// The file is never changed, even if it is damaged. A load does not wait for a lock.
    ///
    /// # Errors
    ///
    /// Returns an error if the key is invalid, if the file is [damaged](StoreError::is_damaged) or
    /// [foreign](StoreError::is_foreign), if the folder is missing or is not a folder, or if the
    /// system refuses.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    async fn load(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        let file = StateFile::new(&self.folder, key)?;
        self.result(self.worker.now(move || file.read()).await)
    }
}

impl FileStore {
    /// Converts the result of a job of the worker.
    pub(super) fn result<T>(
        &self,
        result: std::io::Result<Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        result.map_err(StoreError::io("reach the thread of", self.folder.path()))?
    }
}

impl fmt::Debug for FileStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileStore")
            .field("folder", &self.folder.path())
            .finish_non_exhaustive()
    }
}
