//! States in the files of a folder.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use fs4::TryLockError;
use tokio::runtime::Handle;
use tokio::sync::Mutex as AsyncMutex;

use super::error::Origin;
use super::format::{Flaw, Header, header};
use super::{StateStore, StoreError, check_key};
use crate::sync::{Arc, Weak};

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
///   in which the saves were first polled.
/// - A file that is damaged is never given out as a state, and one that is not from here is neither
///   read nor replaced: see [`StoreError`].
/// - Nothing piles up: there is one file for each key, at most one temporary file for each key that
///   a dead process has left, and one `lock`.
///
/// # What is not
///
/// It keeps no history and is no database: every save writes and synchronises a whole file, which
/// takes the disk milliseconds. Locks between machines on a network file system are as good as that
/// file system's. A folder in which others can write is theirs as well; on Unix the files are made
/// for their owner alone (mode 0600). Leave `lock` alone while anybody saves: those who hold it
/// would not see each other any more.
///
/// # Layout
///
/// `state-<key>` is the state behind a header with a checksum, `tmp-<key>` the one that is being
/// written, and `lock` what is locked meanwhile.
///
/// # Examples
///
/// ```
/// use tower_lifecycle::{FileStore, StateStore, StoreError};
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
    folder: Arc<Path>,
    /// Whose turn it is to save. It keeps the order, and many saves from taking as many threads.
    turn: Arc<AsyncMutex<()>>,
}

/// The paths that belong to a key.
struct Paths {
    folder: Arc<Path>,
    state: PathBuf,
    temporary: PathBuf,
    lock: PathBuf,
}

/// How often it is tried to get a lock that another store or process holds.
const RETRY: Duration = Duration::from_millis(5);

// ===== impl FileStore =====

impl FileStore {
    /// Makes a store that keeps its files in `folder`, which is made if it is missing.
    ///
    /// A relative path is taken from the working directory of this moment. The call touches the
    /// disk and does so on the calling thread: make the store at the start.
    ///
    /// # Errors
    ///
    /// A [`StoreError`] if the folder cannot be made, or is no folder.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::FileStore;
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
        let folder = folder.as_ref();
        let made =
            std::path::absolute(folder).and_then(|folder| make_folder(&folder).map(|()| folder));
        Ok(Self {
            folder: made
                .map_err(StoreError::io("make the folder", folder))?
                .into(),
            turn: Arc::default(),
        })
    }

    fn paths(&self, key: &str) -> Result<Paths, StoreError> {
        check_key(key)?;
        let file = |prefix: &str| {
            let mut name = OsString::from(prefix);
            name.push(key);
            self.folder.join(name)
        };
        // The prefixes keep the three apart, and names away that mean something on Windows.
        Ok(Paths {
            folder: Arc::clone(&self.folder),
            state: file("state-"),
            temporary: file("tmp-"),
            lock: self.folder.join("lock"),
        })
    }

    /// Runs `work` on a thread that may block.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let started = Handle::try_current().map(|runtime| runtime.spawn_blocking(work));
        let ended = match started {
            Ok(task) => task.await.map_err(io::Error::other),
            Err(outside) => Err(io::Error::other(outside)),
        };
        ended.map_err(StoreError::io(
            "find a tokio runtime to reach",
            &self.folder,
        ))?
    }
}

impl StateStore for FileStore {
    type Error = StoreError;

    /// Saves `state` under `key`, in place of the one that was there.
    ///
    /// A damaged state is replaced. When it returns `Ok`, the state is on the disk.
    ///
    /// # Errors
    ///
    /// A [`StoreError`] if the key cannot be one, if what has the name of the file is
    /// [foreign](StoreError::is_foreign), if the system refuses, or outside a tokio runtime. The
    /// earlier state is there then, unless the folder alone could not be synchronised: then the new
    /// one is.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not stop a write that has begun: it is finished on its thread, and
    /// the end of the runtime waits for it. A save that still waits, for others of the same store
    /// or for the lock, is given up. Either way the earlier state or the new one is there, and a
    /// later save comes after it.
    async fn save(&self, key: &str, state: Bytes) -> Result<(), StoreError> {
        let paths = self.paths(key)?;
        let header = header(key, &state);
        let key = key.to_owned();
        // The thread holds the turn, because it outlives a dropped future.
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let caller = Arc::new(());
        let waits = Arc::downgrade(&caller);
        let saved = self.run(move || {
            let _turn = turn;
            let Some(_lock) = paths.lock(&waits)? else {
                return Ok(());
            };
            paths.replace(&key, &header, &state)
        });
        let saved = saved.await;
        drop(caller);
        saved
    }

    /// Loads the state that was saved last under `key`, or `None` if none ever was.
    ///
    /// The file is not touched, whatever is wrong with it.
    ///
    /// # Errors
    ///
    /// A [`StoreError`] if the key cannot be one, if the file is [damaged](StoreError::is_damaged)
    /// or [foreign](StoreError::is_foreign), if the folder is gone, if the system refuses, or
    /// outside a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    async fn load(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        let paths = self.paths(key)?;
        let key = key.to_owned();
        // Without the lock: what has the name is whole, and stays so for who has opened it.
        self.run(move || paths.read(&key)).await
    }
}

impl fmt::Debug for FileStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileStore")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

// ===== impl Paths =====

impl Paths {
    /// Locks the folder until the file is dropped, or gives `None` if the caller is gone before.
    ///
    /// It does not block on the lock: a thread that waits for a process that is stopped would hold
    /// up the end of the runtime.
    fn lock(&self, caller: &Weak<()>) -> Result<Option<File>, StoreError> {
        // Looked at first, as in `open`.
        if fs::symlink_metadata(&self.lock).is_ok_and(|meta| !meta.is_file()) {
            return Err(StoreError::foreign(&self.lock, Origin::NoFile));
        }
        let mut options = OpenOptions::new();
        let lock = private(options.write(true).create(true).truncate(false))
            .open(&self.lock)
            .map_err(StoreError::io("open", &self.lock))?;
        loop {
            // Not as a method: newer versions of std have one of that name.
            match fs4::FileExt::try_lock(&lock) {
                Ok(()) => return Ok(Some(lock)),
                Err(TryLockError::WouldBlock) if caller.strong_count() == 0 => return Ok(None),
                Err(TryLockError::WouldBlock) => std::thread::sleep(RETRY),
                Err(TryLockError::Error(error)) => {
                    return Err(StoreError::io("lock", &self.lock)(error));
                }
            }
        }
    }

    /// Puts a new state in the place of the earlier one. The folder is locked.
    fn replace(&self, key: &str, header: &[u8], state: &[u8]) -> Result<(), StoreError> {
        self.check_ours(key)?;
        let written = self.write(header, state).and_then(|()| {
            fs::rename(&self.temporary, &self.state).map_err(StoreError::io("replace", &self.state))
        });
        if written.is_err() {
            // As far as it can be: the next save removes it too.
            let _ = fs::remove_file(&self.temporary);
        }
        written?;
        sync_folder(&self.folder).map_err(StoreError::io("synchronise", &self.folder))
    }

    /// Checks that no file but one of ours is going to be replaced.
    fn check_ours(&self, key: &str) -> Result<(), StoreError> {
        let Some(mut file) = self.open()? else {
            return Ok(());
        };
        match Header::read(&mut file, key) {
            Ok(_) | Err(Flaw::Damaged(_)) => Ok(()),
            Err(flaw) => Err(self.flaw(flaw)),
        }
    }

    /// Writes the temporary file, through to the disk.
    fn write(&self, header: &[u8], state: &[u8]) -> Result<(), StoreError> {
        match fs::remove_file(&self.temporary) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(StoreError::io("remove", &self.temporary)(error));
            }
            _ => {}
        }
        // Made new, so that a link of that name is not followed.
        let mut options = OpenOptions::new();
        private(options.write(true).create_new(true))
            .open(&self.temporary)
            .and_then(|mut file| {
                file.write_all(header)?;
                file.write_all(state)?;
                file.sync_all()
            })
            .map_err(StoreError::io("write", &self.temporary))
    }

    fn read(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        let Some(mut file) = self.open()? else {
            return Ok(None);
        };
        let state = Header::read(&mut file, key).and_then(|header| {
            let length = file.metadata()?.len();
            header.read_state(&mut file, length)
        });
        match state {
            Ok(state) => Ok(Some(state.into())),
            Err(flaw) => Err(self.flaw(flaw)),
        }
    }

    /// Opens the state's file, if there is one.
    fn open(&self) -> Result<Option<File>, StoreError> {
        // Looked at first: to open a pipe would block.
        let opened = fs::symlink_metadata(&self.state).and_then(|meta| {
            let open = || File::open(&self.state);
            meta.is_file().then(open).transpose()
        });
        match opened {
            Ok(Some(file)) => Ok(Some(file)),
            Ok(None) => Err(StoreError::foreign(&self.state, Origin::NoFile)),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // Nothing was saved, or everything is gone: not the same.
                let folder = fs::metadata(&self.folder);
                folder.map_err(StoreError::io("find the folder", &self.folder))?;
                Ok(None)
            }
            Err(error) => Err(StoreError::io("read", &self.state)(error)),
        }
    }

    fn flaw(&self, flaw: Flaw) -> StoreError {
        match flaw {
            Flaw::Damaged(damage) => StoreError::damaged(&self.state, damage),
            Flaw::Foreign(origin) => StoreError::foreign(&self.state, origin),
            Flaw::Io(error) => StoreError::io("read", &self.state)(error),
        }
    }
}

/// Makes a folder with all that lead to it, so that it outlives a crash of the machine too.
fn make_folder(folder: &Path) -> io::Result<()> {
    let missing: Vec<_> = folder.ancestors().take_while(|f| !f.is_dir()).collect();
    fs::create_dir_all(folder)?;
    missing
        .iter()
        .filter_map(|made| made.parent())
        .try_for_each(sync_folder)
}

/// Lets only the owner read what is made.
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

/// Brings the names in a folder to the disk.
#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        // There are file systems that cannot, and do not need it or do not care.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::InvalidInput | ErrorKind::Unsupported
            ) =>
        {
            Ok(())
        }
        done => done,
    }
}

/// Elsewhere a folder cannot be opened as a file.
#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}
