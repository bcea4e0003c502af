//! States in the files of a folder.

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

/// Keeps states in the files of a folder, one for each key.
///
/// A state is written to a temporary file, brought to the disk, and then given its name, so that
/// under that name there is a whole state at any time.
///
/// # What is promised
///
/// - A process that dies in the middle of a save, also by SIGKILL, leaves the earlier state or the
///   new one. After a crash of the machine the same holds, and a state whose save had returned is
///   there, as far as the disk keeps its word that what it was told to keep is kept.
/// - Several stores, tasks and processes can save to one folder at the same time: each state is
///   there as a whole, one after another. Those of one store and its clones are saved in the order
///   in which the saves were first polled. Two instances of a service that each save what they have
///   under the same key lose the state of one of them: see [`exclusive`](Self::exclusive).
/// - The work is done by a thread of the store's own, which is there from the start. It needs
///   neither a tokio runtime nor its blocking pool, which may be full of what hangs.
/// - A file that is damaged is never given out as a state, and one that is not from here is neither
///   read nor replaced: see [`StoreError`].
/// - Keys have files of their own on every system, also where names differ neither by case nor by
///   dots at their end.
/// - Nothing piles up: there is one file for each key, at most one temporary file for each key that
///   a dead process has left, and at most one `lock`, one `owner` and one `probe`.
///
/// # What is not
///
/// It keeps no history and is no database: every save writes and synchronises a whole file, which
/// takes the disk milliseconds, and a load may wait for one that is being written. The end of the
/// process does not wait for a save whose future is dropped. Locks between machines on a network
/// file system are as good as that file system's. A folder in which others can write is theirs as
/// well; on Unix the files are made for their owner alone (mode 0600). Leave `lock` and `owner`
/// alone while anybody saves: those who hold them would not see each other any more.
///
/// # Layout
///
/// `state-<key>` is the state behind a header with a checksum, and `tmp-<key>` the one that is being
/// written. A key with capitals, or a dot at its end, is written in small letters with a suffix:
/// `Queue` is `state-queue+1`. `lock` is locked during a save, and `owner` by the store that has the
/// folder for itself.
///
/// # Examples
///
/// ```
/// use tower_lifecycle::store::{FileStore, StateStore, StoreError};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), StoreError> {
/// # let folder = std::env::temp_dir().join(format!("store-{}", std::process::id()));
/// let store = FileStore::new(&folder)?; // say, /var/lib/orders
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
    /// Makes a store that keeps its files in `folder`, which is made if it is missing.
    ///
    /// A relative path is taken from the working directory of this moment. The call writes a file
    /// to the folder and removes it, and does so on the calling thread: make the store at the start.
    ///
    /// # Errors
    ///
    /// A [`StoreError`] if the folder cannot be made, is no folder, or cannot be written, or if the
    /// system has no thread for it.
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

    /// Saves `state` under `key`, in place of the one that was there.
    ///
    /// A damaged state is replaced. When it returns `Ok`, the state is on the disk. What fails
    /// because another program has the file open, as a virus scanner on Windows has, is tried again
    /// for half a second.
    ///
    /// # Errors
    ///
    /// A [`StoreError`] if the key cannot be one, if what has the name of the file is
    /// [foreign](StoreError::is_foreign), if another store has the folder
    /// [for itself](StoreError::is_in_use), or if the system refuses. The earlier state is there
    /// then, unless the folder alone could not be synchronised: then the new one is.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not stop a write that has begun or can begin: it is finished on its
    /// thread. A save that still waits for the lock of another process is given up. Either way the
    /// earlier state or the new one is there, and a later save comes after it.
    async fn save(&self, key: &str, state: Bytes) -> Result<(), StoreError> {
        let file = StateFile::new(&self.folder, key)?;
        let header = header(key, &state);
        let saved =
            self.worker.in_turn(
                move || match file.try_replace(&header, &state).transpose() {
                    Some(saved) => ControlFlow::Break(saved),
                    None => ControlFlow::Continue(()),
                },
            );
        self.result(saved.await)
    }

    /// Loads the state that was saved last under `key`, or `None` if none ever was.
    ///
    /// The file is not touched, whatever is wrong with it, and no lock is waited for.
    ///
    /// # Errors
    ///
    /// A [`StoreError`] if the key cannot be one, if the file is [damaged](StoreError::is_damaged)
    /// or [foreign](StoreError::is_foreign), if the folder is gone or is none, or if the system
    /// refuses.
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
    /// Returns what the thread has come to.
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
