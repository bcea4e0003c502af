//! Temporary folders, and states that show whether they are complete.
#![allow(dead_code)] // Each of the programs uses a part of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// The path of a folder that does not exist yet; it is removed at the end.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tower-lifecycle-store-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Returns the sorted names of all files in the folder.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
        let _ = fs::remove_file(&self.0); // if a test has put a file in its place
    }
}

/// Makes a state of slightly more than `length` bytes, all of them derived from `number`.
pub fn made_state(number: u64, length: usize) -> Vec<u8> {
    let mut state = Vec::with_capacity(16 + length);
    state.extend(number.to_le_bytes());
    state.extend((length as u64).to_le_bytes());
    let mut word = mix(number);
    while state.len() < 16 + length {
        word = mix(word);
        let left = 16 + length - state.len();
        state.extend(&word.to_le_bytes()[..left.min(8)]);
    }
    state
}

/// Checks that a state is a complete [`made_state`], and returns its number.
#[track_caller]
pub fn check_whole(state: &[u8]) -> u64 {
    let number = |at: usize| u64::from_le_bytes(state[at..at + 8].try_into().unwrap());
    let length = usize::try_from(number(8)).unwrap();
    assert_eq!(state.len(), 16 + length);
    assert!(state == made_state(number(0), length), "a mixture");
    number(0)
}

/// Spreads a number over all bits (SplitMix64's step).
pub fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
