//! Restarts any HTTP server under load, and keeps a ledger of its requests: answered in full,
//! refused in a retry-safe way, never sent, ambiguous, or lost, each with its moment relative to
//! the signal.
//!
//! The program `drain-check` parses [`Options`], calls [`check`], and writes the [`Report`] as text,
//! as JSON and as a [picture](Report::picture). The server is a child process, so it can be written
//! in any language; nothing is asked of it but HTTP.
//!
//! The [`client`]s and the [`Ledger`] are also of use by themselves, without the default feature `program`:
//! for a test of one's own, or of a server in the same process.
//!
//! ```no_run
//! # #[cfg(feature = "program")]
//! use drain_check::{Options, check};
//!
//! # #[cfg(feature = "program")]
//! # async fn test() -> Result<(), drain_check::Error> {
//! let options = Options::parse_words([
//!     "--url", "http://127.0.0.1:3000/", "--rounds", "3", "--", "./my-server", "--port", "3000",
//! ])?;
//! let report = check(&options).await?;
//! assert_eq!(report.lost(), 0, "{report}");
//! # Ok(())
//! # }
//! ```

mod chain;
#[cfg(feature = "program")]
mod check;
pub mod client;
mod ledger;
mod random;
mod target;

#[cfg(feature = "program")]
pub use check::{Cause, Error, Finding, Options, Report, Restart, Severity, Via, check};
pub use ledger::{Counts, Entry, Fate, Ledger, Loss, Refusal, Sender, Unsent, Work};
pub use target::Target;
