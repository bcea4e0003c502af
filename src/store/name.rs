//! The file names of a key.
//!
//! On Windows and macOS, `jobs` and `Jobs` are the same file. On Windows, `jobs.` is that file too. So a
//! file name is always lower case and never ends with a dot. A suffix after a `+` says which letters of
//! the key are capitals. No key contains a `+`. Names of files that belong to no key have no hyphen.

/// The prefix of a state file.
pub(super) const STATE: &str = "state-";
/// The prefix of a file that is being written.
pub(super) const TEMPORARY: &str = "tmp-";
/// The file that is locked during a save.
pub(super) const LOCK: &str = "lock";
/// The file that is locked by a store with exclusive use of the folder.
pub(super) const OWNER: &str = "owner";
/// The file that is written and removed to check that the folder is writable.
pub(super) const PROBE: &str = "probe";

/// How many letters of the key one digit of the suffix covers.
const GROUP: usize = 5;
const DIGITS: &[u8; 1 << GROUP] = b"0123456789abcdefghijklmnopqrstuv";

/// Returns the name of the file of `key` with `prefix`. The key must be valid.
pub(super) fn file_name(prefix: &str, key: &str) -> String {
    let mut name = format!("{prefix}{}", key.to_ascii_lowercase());
    let has_capitals = key.bytes().any(|byte| byte.is_ascii_uppercase());
    // Not `~`, because NTFS uses it in short names, which open the same file.
    if has_capitals || key.ends_with('.') {
        name.push('+');
    }
    if has_capitals {
        let groups = key.as_bytes().chunks(GROUP);
        let digits = groups.map(|group| char::from(DIGITS[capitals(group)]));
        name.extend(digits);
        name.truncate(name.trim_end_matches('0').len());
    }
    name
}

/// Returns a bit mask of the bytes that are capitals. The lowest bit is the first byte.
fn capitals(group: &[u8]) -> usize {
    let bits = group.iter().rev();
    bits.fold(0, |bits, byte| {
        (bits << 1) | usize::from(byte.is_ascii_uppercase())
    })
}

#[cfg(all(test, not(tower_lifecycle_loom)))]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::store::check_key;

    /// The name as seen by a file system that ignores case, and dots and spaces at the end.
    fn folded(name: &str) -> String {
        name.trim_end_matches(['.', ' ']).to_lowercase()
    }

    #[test]
    fn most_keys_are_their_own_names() {
        for (key, name) in [
            ("queue", "state-queue"),
            ("a.b_c-9", "state-a.b_c-9"),
            ("nul", "state-nul"),
            ("Queue", "state-queue+1"),
            ("queuE", "state-queue+g"),
            ("QUEUE", "state-queue+v"),
            ("queueS", "state-queues+01"),
            ("queue.", "state-queue.+"),
            ("Queue.", "state-queue.+1"),
        ] {
            assert_eq!(file_name(STATE, key), name);
        }
    }

    #[test]
    fn all_short_keys_have_names_of_their_own() {
        let characters = ['a', 'A', 'b', 'B', '0', '1', '.', '_', '-'];
        let mut keys = vec![String::new()];
        let mut names = HashSet::new();
        for _ in 0..4 {
            let longer = |key: &String| characters.map(|c| format!("{key}{c}"));
            keys = keys.iter().flat_map(longer).collect();
            for key in keys.iter().filter(|key| check_key(key).is_ok()) {
                assert!(names.insert(folded(&file_name(STATE, key))), "{key}");
            }
        }
    }

    #[test]
    fn no_name_is_too_long_or_one_of_those_that_belong_to_no_key() {
        let longest = file_name(STATE, &"X".repeat(128));
        assert_eq!(longest.len(), 6 + 128 + 1 + 26);
        assert!(file_name(STATE, &"x".repeat(128)).len() < 143);
        for name in [LOCK, OWNER, PROBE] {
            assert!(!name.contains('-'));
        }
    }

    /// Two similar keys that a wrong naming scheme is likely to confuse.
    fn alike() -> impl Strategy<Value = (String, String)> {
        let key = "[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,127}";
        let flips = prop::collection::vec(prop::num::usize::ANY, 0..4);
        (key, flips, 0..3_usize).prop_map(|(key, flips, dots)| {
            let mut other = key.clone().into_bytes();
            for flip in flips {
                let at = flip % other.len();
                if other[at].is_ascii_alphabetic() {
                    other[at] ^= 0x20;
                }
            }
            other.resize(other.len() + dots, b'.');
            other.truncate(128);
            (key, String::from_utf8(other).expect("ASCII"))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn different_keys_have_different_names_everywhere((one, other) in alike()) {
            prop_assert!(check_key(&one).is_ok() && check_key(&other).is_ok());
            let names = [&one, &other].map(|key| folded(&file_name(STATE, key)));
            prop_assert_eq!(one == other, names[0] == names[1]);
            for key in [&one, &other] {
                for prefix in [STATE, TEMPORARY] {
                    let name = file_name(prefix, key);
                    prop_assert_eq!(&name, &folded(&name), "it is stored as it is");
                    prop_assert!(name.len() <= 161);
                }
            }
        }
    }
}
