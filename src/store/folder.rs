//! The folder of a store: existence, write access and locks.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs4::TryLockError;

use super::error::{Origin, StoreError};
use super::name::{LOCK, OWNER, PROBE};
use super::retry::{retry, retry_to_create};
use crate::sync::OnceLock;

/// The folder, shared by a store, its clones and its thread.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// The locked owner file, set if this store has exclusive use of the folder.
    owner: OnceLock<File>,
}

/// The result of an attempt to take the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    Granted,
    /// Another store has exclusive use of it.
    Owned,
    /// Another store is saving to it.
    Busy,
}

/// The advice for a folder that cannot be used.
const REMEDY: &str = "give the store a folder that this process may write to";

// ===== impl Folder =====

impl Folder {
    /// Creates the folder if it is missing, and checks that it is writable and can be locked.
    pub(super) fn make(path: &Path) -> Result<Self, StoreError> {
        let made = std::path::absolute(path).and_then(|path| make(&path).map(|()| path));
        let path = made.map_err(StoreError::io_or("make the folder", path, REMEDY))?;
        probe(&path).map_err(StoreError::io_or("write to the folder", &path, REMEDY))?;
        let owner = OnceLock::new();
        let folder = Self { path, owner };
        folder.check_locks()?;
        folder.sync()?;
        Ok(folder)
    }

    /// Checks that a save could lock the folder, now or once another store lets it go.
    fn check_locks(&self) -> Result<(), StoreError> {
        let Some(_lock) = self.lock()? else {
            return Ok(());
        };
        match self.check_owner() {
            Err(error) if error.is_in_use() => Ok(()),
            checked => checked,
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Checks that the folder still exists. If it does, a missing file means that no state was saved.
    ///
    /// On Windows, a path below a regular file gives `NotFound`, as for a file missing in a folder.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let is_folder = fs::metadata(&self.path).and_then(|meta| {
            if meta.is_dir() {
                Ok(())
            } else {
                Err(ErrorKind::NotADirectory.into())
            }
        });
        is_folder.map_err(StoreError::io("find the folder", &self.path))
    }

    /// Locks the folder for a save, until the returned file is dropped. Returns `None` if another store
    /// holds the lock.
    ///
    /// It does not block. Otherwise a stopped process that holds the lock would block this thread.
    pub(super) fn lock(&self) -> Result<Option<File>, StoreError> {
        let path = self.path.join(LOCK);
        let lock = open_lock(&path)?;
        // Not in method syntax, because newer versions of std have a method of the same name.
        let locked = is_locked(fs4::FileExt::try_lock(&lock), &path)?;
        Ok(locked.then_some(lock))
    }

    /// Checks that no other store has exclusive use of the folder. The caller holds the lock.
    pub(super) fn check_owner(&self) -> Result<(), StoreError> {
        let path = self.path.join(OWNER);
        if self.owner.get().is_some() || fs::symlink_metadata(&path).is_err() {
            return Ok(());
        }
        let owner = open_lock(&path)?;
        if is_locked(fs4::FileExt::try_lock_shared(&owner), &path)? {
            Ok(())
        } else {
            Err(self.in_use(Duration::ZERO))
        }
    }

    /// Tries to take the folder for this store alone.
    pub(super) fn claim(&self) -> Result<Claim, StoreError> {
        // With the lock held, no other store saves or checks the owner.
        let Some(_lock) = self.lock()? else {
            return Ok(Claim::Busy);
        };
        if self.owner.get().is_some() {
            return Ok(Claim::Granted);
        }
        let path = self.path.join(OWNER);
        let owner = open_lock(&path)?;
        if !is_locked(fs4::FileExt::try_lock(&owner), &path)? {
            return Ok(Claim::Owned);
        }
        // This cannot fail: it is set only under the lock, and it was not set above.
        let _ = self.owner.set(owner);
        Ok(Claim::Granted)
    }

    /// Returns the error for a folder that is still in use after `waited`.
    pub(super) fn in_use(&self, waited: Duration) -> StoreError {
        StoreError::in_use(&self.path, waited)
    }

    /// Syncs the folder, so that new file names are on disk.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        sync(&self.path).map_err(StoreError::io("synchronise", &self.path))
    }
}

/// Opens a lock file. Creates it if it is missing.
fn open_lock(path: &Path) -> Result<File, StoreError> {
    // Check the type first, because opening a pipe would block.
    if fs::symlink_metadata(path).is_ok_and(|meta| !meta.is_file()) {
        return Err(StoreError::foreign(path, Origin::NoFile));
    }
    let mut options = OpenOptions::new();
    private(options.write(true).create(true).truncate(false))
        .open(path)
        .map_err(StoreError::io("open", path))
}

/// Converts the result of an attempt to lock into whether the file was locked.
fn is_locked(tried: Result<(), TryLockError>, path: &Path) -> Result<bool, StoreError> {
    match tried {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(StoreError::io("lock", path)(error)),
    }
}

/// Creates a folder and its missing parents, and syncs them to survive a crash of the machine.
fn make(folder: &Path) -> io::Result<()> {
    let missing: Vec<_> = folder.ancestors().take_while(|f| !f.is_dir()).collect();
    fs::create_dir_all(folder)?;
    missing
        .iter()
        .filter_map(|made| made.parent())
        .try_for_each(|parent| match sync(parent) {
            // It can be written, but not opened to be synced.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
            synced => synced,
        })
}

/// Checks that the folder is writable, by writing a file and removing it.
///
/// All stores use the same file name, possibly at the same time. So processes that die meanwhile leave
/// at most one file.
fn probe(folder: &Path) -> io::Result<()> {
    let path = folder.join(PROBE);
    let mut probe = retry_to_create(|| {
        remove(&path)?;
        create(&path)
    })?;
    probe.write_all(b"whether this folder can be written\n")?;
    probe.sync_all()?;
    drop(probe);
    retry(|| remove(&path))
}

/// Creates a new file that only its owner can read. Does not follow a link of that name.
pub(super) fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    private(options.write(true).create_new(true)).open(path)
}

/// Removes a file, if it exists.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Makes new files readable by their owner only.
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

#[cfg(unix)]
fn sync(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        // Some file systems do not support syncing a folder.
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

/// Does nothing. Outside Unix, a folder cannot be opened as a file.
#[cfg(not(unix))]
fn sync(_: &Path) -> io::Result<()> {
    Ok(())
}
