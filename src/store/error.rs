//! The error of a save or a load.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

/// An error that says why a state could not be saved or loaded.
///
/// It names the key or the path, what is wrong with it, and how to fix it. An I/O error is its
/// [`source`](Error::source).
///
/// # Examples
///
/// ```
/// use tower_lifecycle::store::{MemoryStore, StateStore};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let error = MemoryStore::new().load("../passwd").await.unwrap_err();
/// assert!(error.is_invalid_key());
/// assert_eq!(
///     error.to_string(),
///     "state key `../passwd` has `/` in it: allowed are 1 to 128 ASCII letters, digits, `.`, \
///      `_` and `-`, not beginning with `.`"
/// );
/// # }
/// ```
#[derive(Debug)]
pub struct StoreError {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Key {
        shown: Box<str>,
        fault: KeyFault,
    },
    Damaged {
        path: Box<Path>,
        damage: Damage,
    },
    Foreign {
        path: Box<Path>,
        origin: Origin,
    },
    InUse {
        folder: Box<Path>,
        waited: Duration,
    },
    Io {
        /// The action that failed, to complete "cannot ...".
        action: &'static str,
        path: Box<Path>,
        /// How to fix it, if that is known.
        remedy: Option<&'static str>,
        source: io::Error,
    },
}

/// The longest key, in bytes. File names of a key without capitals then fit into the 143 bytes that
/// eCryptfs allows, the strictest file system in use.
pub(super) const LONGEST_KEY: usize = 128;

/// Why a key is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyFault {
    Empty,
    TooLong(usize),
    Character(char),
    LeadingDot,
}

/// How a file of this crate is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Damage {
    CutInHeader,
    Missing(u64),
    TooMany(u64),
    Header,
    State,
}

/// Why a file is not the state file of this key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    NoFile,
    NoHeader,
    /// Another version of the format.
    Version {
        found: u32,
        ours: u32,
    },
    /// The state of another key. The file system treats the two names as the same.
    Key(String),
}

// ===== impl StoreError =====

impl StoreError {
    pub(super) fn key(shown: Box<str>, fault: KeyFault) -> Self {
        let kind = Kind::Key { shown, fault };
        Self { kind }
    }

    pub(super) fn damaged(path: &Path, damage: Damage) -> Self {
        let path = path.into();
        let kind = Kind::Damaged { path, damage };
        Self { kind }
    }

    pub(super) fn foreign(path: &Path, origin: Origin) -> Self {
        let path = path.into();
        let kind = Kind::Foreign { path, origin };
        Self { kind }
    }

    pub(super) fn in_use(folder: &Path, waited: Duration) -> Self {
        let folder = folder.into();
        let kind = Kind::InUse { folder, waited };
        Self { kind }
    }

    /// Returns a function that converts an I/O error into a `StoreError`.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        Self::io_or(action, path, None)
    }

    /// Like [`io`](Self::io), with a `remedy` to show.
    pub(super) fn io_or(
        action: &'static str,
        path: &Path,
        remedy: impl Into<Option<&'static str>>,
    ) -> impl FnOnce(io::Error) -> Self {
        let remedy = remedy.into();
        move |source| {
            let path = path.into();
            let kind = Kind::Io {
                action,
                path,
                remedy,
                source,
            };
            Self { kind }
        }
    }

    /// Returns whether the key is invalid. In that case nothing was read or written.
    pub fn is_invalid_key(&self) -> bool {
        matches!(self.kind, Kind::Key { .. })
    }

    /// Returns whether the file was written by a [`FileStore`](crate::store::FileStore) and is damaged:
    /// too short, too long or changed.
    ///
    /// A load does not change the file. The next save replaces it.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::store::{FileStore, StateStore};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # let folder = std::env::temp_dir().join(format!("damaged-{}", std::process::id()));
    /// let store = FileStore::new(&folder).unwrap();
    /// store.save("queue", "job 7, job 8".into()).await.unwrap();
    ///
    /// let file = folder.join("state-queue");
    /// let whole = std::fs::read(&file).unwrap();
    /// std::fs::write(&file, &whole[..whole.len() - 5]).unwrap();
    ///
    /// let error = store.load("queue").await.unwrap_err();
    /// assert!(error.is_damaged());
    /// assert_eq!(error.path(), Some(&*file));
    /// # std::fs::remove_dir_all(folder).unwrap();
    /// # }
    /// ```
    pub fn is_damaged(&self) -> bool {
        matches!(self.kind, Kind::Damaged { .. })
    }

    /// Returns whether the state's file name is taken by something else: not a file, or a file of
    /// another program, format version or key.
    ///
    /// It is neither loaded nor replaced.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::store::{FileStore, StateStore};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # let folder = std::env::temp_dir().join(format!("foreign-{}", std::process::id()));
    /// let store = FileStore::new(&folder).unwrap();
    /// std::fs::write(folder.join("state-queue"), "my notes").unwrap();
    ///
    /// assert!(store.load("queue").await.unwrap_err().is_foreign());
    /// assert!(store.save("queue", "job 7".into()).await.unwrap_err().is_foreign());
    /// # std::fs::remove_dir_all(folder).unwrap();
    /// # }
    /// ```
    pub fn is_foreign(&self) -> bool {
        matches!(self.kind, Kind::Foreign { .. })
    }

    /// Returns whether another store has exclusive use of the folder.
    ///
    /// See [`FileStore::exclusive`](crate::store::FileStore::exclusive). No state was read or written.
    pub fn is_in_use(&self) -> bool {
        matches!(self.kind, Kind::InUse { .. })
    }

    /// Returns the path of the file or folder, if the error has one.
    pub fn path(&self) -> Option<&Path> {
        match &self.kind {
            Kind::Key { .. } => None,
            Kind::InUse { folder: path, .. }
            | Kind::Damaged { path, .. }
            | Kind::Foreign { path, .. }
            | Kind::Io { path, .. } => Some(path),
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Key { shown, fault } => write!(f, "state key `{shown}` {fault}"),
            Kind::Damaged { path, damage } => write!(
                f,
                "state file {path:?} is damaged: {damage}; restore it, or let the next save \
                 replace it"
            ),
            Kind::Foreign { path, origin } => write!(
                f,
                "{path:?} is in the place of a state file, but {origin}: move it away, or use \
                 another folder or key"
            ),
            Kind::InUse { folder, waited } => {
                write!(f, "the folder {folder:?} is in use by another store")?;
                if !waited.is_zero() {
                    write!(f, ", and was for {waited:?}")?;
                }
                f.write_str(
                    ", which has it for itself: end the other instance, wait longer with \
                     `exclusive_within`, or use another folder",
                )
            }
            Kind::Io {
                action,
                path,
                remedy,
                ..
            } => {
                write!(f, "cannot {action} {path:?}")?;
                remedy.map_or(Ok(()), |remedy| write!(f, ": {remedy}"))
            }
        }
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.kind {
            Kind::Io { source, .. } => Some(source),
            Kind::Key { .. } | Kind::Damaged { .. } | Kind::Foreign { .. } | Kind::InUse { .. } => {
                None
            }
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CutInHeader => f.write_str("it ends within its header"),
            Self::Missing(bytes) => write!(f, "its last {bytes} bytes are missing"),
            Self::TooMany(bytes) => write!(f, "it has {bytes} bytes too many"),
            Self::Header => f.write_str("the checksum of its header does not match"),
            Self::State => f.write_str("the checksum of its state does not match"),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFile => f.write_str("is not a regular file"),
            Self::NoHeader => f.write_str("was not written by a `FileStore`"),
            Self::Version { found, ours } => write!(
                f,
                "has version {found} of the format, but only version {ours} is supported"
            ),
            Self::Key(key) => write!(f, "holds the state of the key `{key}`"),
        }
    }
}

impl fmt::Display for KeyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("is empty"),
            Self::TooLong(bytes) => write!(f, "has {bytes} bytes"),
            Self::Character(c) => write!(f, "has `{}` in it", c.escape_default()),
            Self::LeadingDot => f.write_str("begins with `.`"),
        }?;
        write!(
            f,
            ": allowed are 1 to {LONGEST_KEY} ASCII letters, digits, `.`, `_` and `-`, not beginning \
             with `.`"
        )
    }
}
