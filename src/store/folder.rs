//! The folder of a store: whether it is there and can be written, and whose it is.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs4::TryLockError;

use super::error::{Origin, StoreError};
use super::name::{LOCK, OWNER, PROBE};
use super::retry::{retry, retry_to_create};
use crate::sync::OnceLock;

/// What a store and its clones share with the thread that works for them.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// Is locked as long as it is there: the folder is this store's alone.
    owner: OnceLock<File>,
}

/// What came of an attempt to have the folder for oneself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    Granted,
    /// Another has it for itself.
    Owned,
    /// Another saves to it at this moment.
    Busy,
}

/// What is to be done when a folder cannot be used.
const REMEDY: &str = "give the store a folder that this process may write to";

// ===== impl Folder =====

impl Folder {
    /// Makes the folder if it is missing, and finds out whether it can be written.
    pub(super) fn make(path: &Path) -> Result<Self, StoreError> {
        let made = std::path::absolute(path).and_then(|path| make(&path).map(|()| path));
        let path = made.map_err(StoreError::io_or("make the folder", path, REMEDY))?;
        probe(&path).map_err(StoreError::io_or("write to the folder", &path, REMEDY))?;
        let owner = OnceLock::new();
        Ok(Self { path, owner })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Checks that it is still there, so that a file which is missing was never saved.
    ///
    /// Windows says of a file below another file that it is missing, as it says of one in a folder.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let is_folder = fs::metadata(&self.path).and_then(|meta| match meta.is_dir() {
            true => Ok(()),
            false => Err(ErrorKind::NotADirectory.into()),
        });
        is_folder.map_err(StoreError::io("find the folder", &self.path))
    }

    /// Locks the folder for a save until the file is dropped, or gives `None` if another has locked
    /// it.
    ///
    /// It does not block: another that is stopped would hold up the thread.
    pub(super) fn lock(&self) -> Result<Option<File>, StoreError> {
        let path = self.path.join(LOCK);
        let lock = open_lock(&path)?;
        // Not as a method: newer versions of std have one of that name.
        let locked = is_locked(fs4::FileExt::try_lock(&lock), &path)?;
        Ok(locked.then_some(lock))
    }

    /// Checks that nobody else has the folder for itself. It is locked.
    pub(super) fn check_owner(&self) -> Result<(), StoreError> {
        let path = self.path.join(OWNER);
        if self.owner.get().is_some() || fs::symlink_metadata(&path).is_err() {
            return Ok(());
        }
        let owner = open_lock(&path)?;
        match is_locked(fs4::FileExt::try_lock_shared(&owner), &path)? {
            true => Ok(()),
            false => Err(self.in_use(Duration::ZERO)),
        }
    }

    /// Tries to have the folder for this store alone.
    pub(super) fn claim(&self) -> Result<Claim, StoreError> {
        // Under the lock: no save of another is under way, and none looks whose the folder is.
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
        // It was empty, and whoever sets it holds the lock.
        let _ = self.owner.set(owner);
        Ok(Claim::Granted)
    }

    /// Says that the folder is not to be had, after `waited`.
    pub(super) fn in_use(&self, waited: Duration) -> StoreError {
        StoreError::in_use(&self.path, waited)
    }

    /// Brings the names in the folder to the disk.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        sync(&self.path).map_err(StoreError::io("synchronise", &self.path))
    }
}

/// Opens a file to be locked, which is made if it is missing.
fn open_lock(path: &Path) -> Result<File, StoreError> {
    // Looked at first: to open a pipe would block.
    if fs::symlink_metadata(path).is_ok_and(|meta| !meta.is_file()) {
        return Err(StoreError::foreign(path, Origin::NoFile));
    }
    let mut options = OpenOptions::new();
    private(options.write(true).create(true).truncate(false))
        .open(path)
        .map_err(StoreError::io("open", path))
}

fn is_locked(tried: Result<(), TryLockError>, path: &Path) -> Result<bool, StoreError> {
    match tried {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(StoreError::io("lock", path)(error)),
    }
}

/// Makes a folder with all that lead to it, so that it outlives a crash of the machine too.
fn make(folder: &Path) -> io::Result<()> {
    let missing: Vec<_> = folder.ancestors().take_while(|f| !f.is_dir()).collect();
    fs::create_dir_all(folder)?;
    missing
        .iter()
        .filter_map(|made| made.parent())
        .try_for_each(sync)
}

/// Writes a file and removes it. Others may do so at the same time, under the same name, so that
/// those who die meanwhile leave one file in all.
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

/// Makes a new file for its owner alone; a link of that name is not followed.
pub(super) fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    private(options.write(true).create_new(true)).open(path)
}

/// Removes a file, if it is there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Lets only the owner read what is made.
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

#[cfg(unix)]
fn sync(folder: &Path) -> io::Result<()> {
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
fn sync(_: &Path) -> io::Result<()> {
    Ok(())
}
