//! The format of a state file: a header, then the state.
//!
//! ```text
//!  0   8  magic
//!  8   4  version
//! 12   4  CRC-32 of the rest of the header
//! 16   4  CRC-32 of the state
//! 20   8  length of the state
//! 28   1  length of the key
//! 29   n  key
//! ```
//!
//! Numbers are little-endian. The header has its own checksum. So a save can check which file it
//! replaces without reading the state.

use std::io::{self, ErrorKind, Read};

use super::error::{Damage, Origin};

const MAGIC: &[u8; 8] = b"TLCSTATE";
const VERSION: u32 = 1;

/// The length of everything before the key.
const FIXED: usize = 29;
/// Where the part covered by the header's checksum begins.
const CHECKED: usize = 16;

/// What a header says about the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// The length of the header.
    length: u64,
    state_length: u64,
    state_crc: u32,
}

/// Why a file cannot be read as the state of a key.
#[derive(Debug)]
pub(super) enum Flaw {
    Damaged(Damage),
    Foreign(Origin),
    Io(io::Error),
}

/// Creates the header for `state`. `key` must be valid.
pub(super) fn header(key: &str, state: &[u8]) -> Vec<u8> {
    let mut checked = Vec::with_capacity(FIXED + key.len());
    checked.extend(crc32fast::hash(state).to_le_bytes());
    checked.extend((state.len() as u64).to_le_bytes());
    checked.push(key.len() as u8);
    checked.extend(key.as_bytes());

    let mut header = Vec::with_capacity(CHECKED + checked.len());
    header.extend(MAGIC);
    header.extend(VERSION.to_le_bytes());
    header.extend(crc32fast::hash(&checked).to_le_bytes());
    header.extend(checked);
    header
}

impl Header {
    /// Reads the header of the state of `key`.
    pub(super) fn read(file: &mut impl Read, key: &str) -> Result<Self, Flaw> {
        let mut header = Vec::with_capacity(FIXED + usize::from(u8::MAX));
        file.take(FIXED as u64).read_to_end(&mut header)?;
        // A shorter file may be a state file that was cut off.
        let common = header.len().min(MAGIC.len());
        if header[..common] != MAGIC[..common] {
            return Err(Flaw::Foreign(Origin::NoHeader));
        }
        match number(&header, 8).map(u32::from_le_bytes) {
            Some(VERSION) | None => {}
            Some(found) => {
                let ours = VERSION;
                return Err(Flaw::Foreign(Origin::Version { found, ours }));
            }
        }
        let Some(&key_length) = header.get(FIXED - 1) else {
            return Err(Flaw::Damaged(Damage::CutInHeader));
        };
        file.take(key_length.into()).read_to_end(&mut header)?;
        let (Some(crc), Some(state_crc), Some(state_length), Some(found)) = (
            number(&header, 12),
            number(&header, 16),
            number(&header, 20),
            header.get(FIXED..FIXED + usize::from(key_length)),
        ) else {
            return Err(Flaw::Damaged(Damage::CutInHeader));
        };
        if crc32fast::hash(&header[CHECKED..]) != u32::from_le_bytes(crc) {
            return Err(Flaw::Damaged(Damage::Header));
        }
        if found != key.as_bytes() {
            let found = found.escape_ascii().to_string();
            return Err(Flaw::Foreign(Origin::Key(found)));
        }
        Ok(Self {
            length: header.len() as u64,
            state_length: u64::from_le_bytes(state_length),
            state_crc: u32::from_le_bytes(state_crc),
        })
    }

    /// Reads the state that follows the header in a file of `file_length` bytes.
    pub(super) fn read_state(
        self,
        file: &mut impl Read,
        file_length: u64,
    ) -> Result<Vec<u8>, Flaw> {
        // Check the length before allocating, because the length in the header may be wrong.
        let available = file_length.saturating_sub(self.length);
        if available < self.state_length {
            return Err(Flaw::Damaged(Damage::Missing(
                self.state_length - available,
            )));
        }
        if available > self.state_length {
            return Err(Flaw::Damaged(Damage::TooMany(
                available - self.state_length,
            )));
        }
        let mut state = Vec::new();
        usize::try_from(available)
            .ok()
            .and_then(|length| state.try_reserve_exact(length).ok())
            .ok_or(io::Error::from(ErrorKind::OutOfMemory))?;
        file.take(available).read_to_end(&mut state)?;
        if crc32fast::hash(&state) != self.state_crc {
            return Err(Flaw::Damaged(Damage::State));
        }
        Ok(state)
    }
}

/// Returns the bytes of a number in the header.
fn number<const N: usize>(header: &[u8], at: usize) -> Option<[u8; N]> {
    header.get(at..)?.first_chunk().copied()
}

impl From<io::Error> for Flaw {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
