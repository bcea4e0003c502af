//! State files with arbitrary content.

use std::fs;
use std::path::PathBuf;

use arbitrary::Arbitrary;
use bytes::Bytes;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tower_lifecycle::store::{FileStore, MemoryStore, StateStore};

use crate::assert_error_showable;

#[derive(Debug, Arbitrary)]
pub struct Input {
    key: String,
    content: Content,
}

#[derive(Debug, Arbitrary)]
enum Content {
    /// An arbitrary file.
    Foreign(Vec<u8>),
    /// A valid file that belongs to another key.
    OfOther { key: String, state: Vec<u8> },
    /// A valid file with changes.
    Ours {
        state: Vec<u8>,
        changes: Vec<Change>,
        /// Whether the checksum of the header is corrected after the change.
        is_sealed: bool,
    },
}

#[derive(Debug, Arbitrary)]
enum Change {
    Set { at: u8, byte: u8 },
    SetFromEnd { at: u8, byte: u8 },
    Length(u64),
    Key { at: u8, byte: u8 },
    Cut(u8),
    Append(Vec<u8>),
}

/// Kept from one input to the next: threads and folders are expensive.
struct Place {
    folder: TempDir,
    store: FileStore,
    runtime: Runtime,
}

thread_local! {
    static PLACE: Place = Place::new();
}

pub fn check(input: &Input) {
    PLACE.with(|place| place.holds(input));
}

impl Place {
    fn new() -> Self {
        let folder = TempDir::new().expect("a folder");
        Self {
            store: FileStore::new(&folder).expect("a store"),
            folder,
            runtime: Builder::new_current_thread().build().expect("a runtime"),
        }
    }

    fn holds(&self, Input { key, content }: &Input) {
        if !is_key(key) {
            self.assert_invalid(key);
        }
        let key = if is_key(key) { key } else { "queue" };
        let file = self.file_of(key);
        let _ = fs::remove_file(&file);
        assert_eq!(self.load(key).expect("nothing is there"), None);

        let bytes = match content {
            Content::Foreign(bytes) => bytes.clone(),
            Content::OfOther { key: other, state } => {
                let other = if is_key(other) { other } else { "other" };
                let whole = self.written(other, state);
                let _ = fs::remove_file(self.file_of(other));
                whole
            }
            Content::Ours {
                state,
                changes,
                is_sealed,
            } => {
                let whole = self.written(key, state);
                changed(whole, changes, *is_sealed)
            }
        };
        fs::write(&file, &bytes).expect("a folder of our own");
        let after = Bytes::from_static(b"after");
        match self.load(key) {
            // Only what a save of this state would have written.
            Ok(state) => {
                let state = state.expect("there is a file");
                assert_eq!(self.written(key, &state), bytes);
            }
            Err(error) => {
                assert!(error.is_damaged() != error.is_foreign(), "{error}");
                assert!(!error.is_invalid_key());
                assert_eq!(error.path(), Some(&*file));
                assert_error_showable(&error);
                let saved = self.runtime.block_on(self.store.save(key, after.clone()));
                if error.is_foreign() {
                    assert!(saved.is_err_and(|error| error.is_foreign()));
                    assert_eq!(fs::read(&file).unwrap(), bytes, "not ours to change");
                } else {
                    saved.expect("it replaces what is damaged");
                    assert_eq!(self.load(key).unwrap(), Some(after));
                }
            }
        }
        let _ = fs::remove_file(&file);
    }

    fn load(&self, key: &str) -> Result<Option<Bytes>, tower_lifecycle::store::StoreError> {
        self.runtime.block_on(self.store.load(key))
    }

    /// The path of a key's file. Only the store knows the file name of a key with capitals.
    fn file_of(&self, key: &str) -> PathBuf {
        if !key.ends_with('.') && key == key.to_lowercase() {
            return self.folder.path().join(format!("state-{key}"));
        }
        let folder = TempDir::new().expect("a folder");
        let store = FileStore::new(&folder).expect("a store");
        let save = store.save(key, Bytes::new());
        self.runtime.block_on(save).expect("an empty folder");
        let names = fs::read_dir(&folder).expect("a folder of our own");
        let name = names
            .map(|entry| entry.expect("an entry").file_name())
            .find(|name| name != "lock")
            .expect("it was saved");
        self.folder.path().join(name)
    }

    /// Returns what a save writes.
    fn written(&self, key: &str, state: &[u8]) -> Vec<u8> {
        let file = self.file_of(key);
        let _ = fs::remove_file(&file);
        let save = self.store.save(key, Bytes::copy_from_slice(state));
        self.runtime.block_on(save).expect("nothing is in the way");
        assert_eq!(self.load(key).unwrap().as_deref(), Some(state));
        fs::read(file).expect("it was saved")
    }

    fn assert_invalid(&self, key: &str) {
        let memory = MemoryStore::new();
        let errors = [
            self.load(key).expect_err("no key"),
            self.runtime.block_on(memory.load(key)).expect_err("no key"),
        ];
        for error in errors {
            assert!(error.is_invalid_key() && error.path().is_none(), "{error}");
            assert_error_showable(&error);
        }
    }
}

fn is_key(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && !text.starts_with('.')
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

fn changed(mut bytes: Vec<u8>, changes: &[Change], is_sealed: bool) -> Vec<u8> {
    for change in changes {
        match change {
            Change::Set { at, byte } => {
                let at = usize::from(*at) % bytes.len().max(1);
                bytes.get_mut(at).into_iter().for_each(|old| *old = *byte);
            }
            Change::SetFromEnd { at, byte } => {
                let at = bytes.len().checked_sub(1 + usize::from(*at));
                at.into_iter().for_each(|at| bytes[at] = *byte);
            }
            Change::Length(length) => {
                if let Some(field) = bytes.get_mut(20..28) {
                    field.copy_from_slice(&length.to_le_bytes());
                }
            }
            Change::Key { at, byte } => {
                let key = bytes.get_mut(29..).unwrap_or_default();
                let at = usize::from(*at) % key.len().clamp(1, 5);
                key.get_mut(at).into_iter().for_each(|old| *old = *byte);
            }
            Change::Cut(n) => bytes.truncate(bytes.len().saturating_sub(usize::from(*n))),
            Change::Append(more) => bytes.extend(more),
        }
    }
    let end = bytes.get(28).map(|key| 29 + usize::from(*key));
    if let Some(checked) = end.and_then(|end| bytes.get(16..end)).filter(|_| is_sealed) {
        let crc = crc32fast::hash(checked).to_le_bytes();
        bytes[12..16].copy_from_slice(&crc);
    }
    bytes
}
