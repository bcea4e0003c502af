//! The state file of one key. It is read or replaced as a whole.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use bytes::Bytes;

use super::error::{Origin, StoreError};
use super::folder::{Folder, create, remove};
use super::format::{Flaw, Header};
use super::key::check_key;
use super::name::{STATE, TEMPORARY, file_name};
use super::retry::retry;
use crate::sync::Arc;

pub(super) struct StateFile {
    folder: Arc<Folder>,
    key: String,
    state: PathBuf,
    temporary: PathBuf,
}

// ===== impl StateFile =====

impl StateFile {
    pub(super) fn new(folder: &Arc<Folder>, key: &str) -> Result<Self, StoreError> {
        check_key(key)?;
        let file = |prefix| folder.path().join(file_name(prefix, key));
        Ok(Self {
            folder: Arc::clone(folder),
            key: key.to_owned(),
            state: file(STATE),
            temporary: file(TEMPORARY),
        })
    }

    /// Replaces the state. Returns `None` if another store has locked the folder.
    pub(super) fn try_replace(
        &self,
        header: &[u8],
        state: &[u8],
    ) -> Result<Option<()>, StoreError> {
        self.folder.check()?;
        let Some(_lock) = self.folder.lock()? else {
            return Ok(None);
        };
        self.folder.check_owner()?;
        self.replace(header, state).map(Some)
    }

    fn replace(&self, header: &[u8], state: &[u8]) -> Result<(), StoreError> {
        self.check_ours()?;
        let written = self.write(header, state).and_then(|()| {
            retry(|| fs::rename(&self.temporary, &self.state))
                .map_err(StoreError::io("replace", &self.state))
        });
        if written.is_err() {
            // Best effort. The next save removes it too.
            let _ = fs::remove_file(&self.temporary);
        }
        written?;
        self.folder.sync()
    }

    /// Checks that the file to be replaced, if any, is a state file of this key.
    fn check_ours(&self) -> Result<(), StoreError> {
        let Some(mut file) = self.open()? else {
            return Ok(());
        };
        match Header::read(&mut file, &self.key) {
            Ok(_) | Err(Flaw::Damaged(_)) => Ok(()),
            Err(flaw) => Err(self.flaw(flaw)),
        }
    }

    /// Writes the temporary file and syncs it to disk.
    fn write(&self, header: &[u8], state: &[u8]) -> Result<(), StoreError> {
        retry(|| remove(&self.temporary)).map_err(StoreError::io("remove", &self.temporary))?;
        retry(|| create(&self.temporary))
            .and_then(|mut file| {
                file.write_all(header)?;
                file.write_all(state)?;
                file.sync_all()
            })
            .map_err(StoreError::io("write", &self.temporary))
    }

    /// Reads the state. Returns `None` if no state was ever saved.
    ///
    /// This needs no lock, because the file is always complete. An open file is not changed by a save.
    pub(super) fn read(&self) -> Result<Option<Bytes>, StoreError> {
        let Some(mut file) = self.open()? else {
            return Ok(None);
        };
        let state = Header::read(&mut file, &self.key).and_then(|header| {
            let length = file.metadata()?.len();
            header.read_state(&mut file, length)
        });
        match state {
            Ok(state) => Ok(Some(state.into())),
            Err(flaw) => Err(self.flaw(flaw)),
        }
    }

    /// Opens the state file. Returns `None` if it does not exist.
    fn open(&self) -> Result<Option<File>, StoreError> {
        let opened = retry(|| {
            // Check the type first, because opening a pipe would block.
            let meta = fs::symlink_metadata(&self.state)?;
            let open = || File::open(&self.state);
            meta.is_file().then(open).transpose()
        });
        match opened {
            Ok(Some(file)) => Ok(Some(file)),
            Ok(None) => Err(StoreError::foreign(&self.state, Origin::NoFile)),
            Err(error) => {
                // Tell "no state was saved" from "the folder is missing".
                self.folder.check()?;
                match error.kind() {
                    ErrorKind::NotFound => Ok(None),
                    _ => Err(StoreError::io("read", &self.state)(error)),
                }
            }
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

#[cfg(all(test, not(tower_lifecycle_loom)))]
mod tests {
    use std::error::Error;
    use std::io;
    use std::path::Path;

    use super::*;

    /// On Windows, a path below a regular file gives `NotFound`, as if no state was saved. The test
    /// gets the same error on every system from a path that does not exist.
    #[test]
    fn a_missing_state_is_an_error_where_the_folder_is_none() {
        let path = std::env::temp_dir().join(format!("no-folder-{}", std::process::id()));
        let folder = Arc::new(Folder::make(&path).expect("it can be made"));
        let mut file = StateFile::new(&folder, "queue").expect("a key");
        file.state = Path::new("/nowhere/at/all").to_owned();
        assert!(matches!(file.read(), Ok(None)));

        fs::remove_dir_all(&path).expect("it is ours");
        fs::write(&path, "a file").expect("it is ours");
        let error = file.read().expect_err("the folder is a file");
        fs::remove_file(&path).expect("it is ours");
        assert_eq!(error.path(), Some(&*path));
        let source = error.source().and_then(|source| source.downcast_ref());
        let kind = source.map(io::Error::kind);
        assert_eq!(kind, Some(ErrorKind::NotADirectory));
    }
}
