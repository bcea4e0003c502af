//! What may be a key.

use std::fmt;

use super::StoreError;

/// The file names made of it stay below the 143 bytes that the strictest file system in use allows
/// (eCryptfs).
const LONGEST: usize = 128;

/// How much of a bad key is shown.
const SHOWN: usize = 32;

/// Why a key cannot be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyFault {
    Empty,
    TooLong(usize),
    Character(char),
    LeadingDot,
}

/// Checks that `key` can be a part of a file name anywhere, and cannot lead out of a folder.
pub(crate) fn check_key(key: &str) -> Result<(), StoreError> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let fault = if key.is_empty() {
        KeyFault::Empty
    } else if key.len() > LONGEST {
        KeyFault::TooLong(key.len())
    } else if let Some(other) = key.chars().find(|c| !is_allowed(*c)) {
        KeyFault::Character(other)
    } else if key.starts_with('.') {
        KeyFault::LeadingDot
    } else {
        return Ok(());
    };
    Err(StoreError::key(shown(key).into(), fault))
}

/// Escapes and shortens what may be anything.
fn shown(key: &str) -> String {
    let mut shown: String = key
        .chars()
        .take(SHOWN)
        .flat_map(char::escape_default)
        .collect();
    if key.chars().nth(SHOWN).is_some() {
        shown.push_str("...");
    }
    shown
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
            ": allowed are 1 to {LONGEST} ASCII letters, digits, `.`, `_` and `-`, not beginning \
             with `.`"
        )
    }
}
