//! State that is saved at the end of a process and loaded at the start of the next one.

// This module uses only the base modules, such as `error` and `sync`. `ShutdownController::persist` uses it.

mod error;
mod exclusive;
mod file;
mod folder;
mod format;
mod key;
mod memory;
mod name;
mod retry;
mod state_file;
mod state_store;
mod worker;

pub use self::error::StoreError;
pub use self::file::FileStore;
pub use self::memory::MemoryStore;
pub use self::state_store::StateStore;

pub(crate) use self::key::check_key;
