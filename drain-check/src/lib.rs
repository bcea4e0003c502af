//! Restarts any HTTP server under load, and keeps a ledger of its requests: answered in full,
//! refused in a retry-safe way, never sent, ambiguous, or lost, each with its moment relative to
//! the signal.
//!
//! The program `drain-check` parses [`Options`], calls [`check`], and writes the [`Report`] as text,
//! as JSON and as a [picture](Report::picture). The server is a child process, so it can be written
//! in any language; nothing is asked of it but HTTP.
//!
//! ```no_run
//! use drain_check::{Options, check};
//!
//! # async fn test() -> Result<(), drain_check::Error> {
//! let options = Options::parse_words([
//!     "--url", "http://127.0.0.1:3000/", "--rounds", "3", "--", "./my-server", "--port", "3000",
//! ])?;
//! let report = check(&options).await?;
//! assert_eq!(report.lost(), 0, "{report}");
//! # Ok(())
//! # }
//! ```

mod balancer;
mod cause;
mod client;
mod diagnosis;
mod error;
mod ledger;
mod options;
mod picture;
mod process;
mod progress;
mod random;
mod report;
mod run;
mod target;
mod words;

pub use cause::Cause;
pub use diagnosis::{Finding, Severity};
pub use error::Error;
pub use ledger::{Counts, Entry, Fate, Ledger, Loss, Sender, Unsent, Work};
pub use options::{Options, Via};
pub use report::{Report, Restart};
pub use run::check;
