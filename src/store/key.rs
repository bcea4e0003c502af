//! What may be a key.

use super::error::{KeyFault, LONGEST_KEY, StoreError};

/// How much of a bad key is shown.
const SHOWN: usize = 32;

/// Checks that `key` can be a part of a file name anywhere, and cannot lead out of a folder.
pub(crate) fn check_key(key: &str) -> Result<(), StoreError> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let fault = if key.is_empty() {
        KeyFault::Empty
    } else if key.len() > LONGEST_KEY {
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
