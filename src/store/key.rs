//! Which keys are valid.

use super::error::{KeyFault, LONGEST_KEY, StoreError};

/// How many characters of an invalid key an error shows.
const SHOWN: usize = 32;

/// Checks that `key` can be part of a file name on any system, and cannot escape the folder.
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

/// Escapes and shortens an arbitrary key.
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
